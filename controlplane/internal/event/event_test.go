package event_test

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/ouvira/ouvira/controlplane/internal/event"
)

// Whoever adds an event lets webhooks subscribe to it.
func TestTypesHasEveryType(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("event.go")
	if err != nil {
		t.Fatal(err)
	}
	declared := regexp.MustCompile(`(?m)^\t\w+ +Type = "([a-z_.]+)"`).FindAllSubmatch(source, -1)
	if len(declared) < len(event.Types) || len(declared) == 0 {
		t.Fatalf("%d types found in the source, Types has %d", len(declared), len(event.Types))
	}
	for _, match := range declared {
		if !slices.Contains(event.Types, event.Type(match[1])) {
			t.Errorf("Types lacks %s", match[1])
		}
	}
}
