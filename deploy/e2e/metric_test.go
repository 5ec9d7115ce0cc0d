package e2e

import (
	"bufio"
	"context"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/ouvira/ouvira/deploy/stack"
)

// metric reads a figure from a node, its labels being part of the name; -1 when
// it is not there.
func metric(t *testing.T, s *stack.Stack, node int, name string) float64 {
	t.Helper()
	// Also in the cleanup of a test, whose own context has ended.
	request, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), http.MethodGet, s.InternalURL(stack.DataNode(node))+"/metrics", http.NoBody)
	must(t, err)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return -1
	}
	defer response.Body.Close()
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			figure, err := strconv.ParseFloat(value, 64)
			must(t, err)
			return figure
		}
	}
	return -1
}
