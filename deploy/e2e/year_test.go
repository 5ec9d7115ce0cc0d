package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/ouvira/ouvira/deploy/stack"
)

// An operator's year, as docs/operations.md tells it: the lines are run as they
// stand, with the command line alone.
func TestAnOperatorsYear(t *testing.T) {
	t.Parallel()
	s, _ := start(t, stack.Options{})
	root, err := stack.Root()
	must(t, err)
	text, err := os.ReadFile(filepath.Join(root, "docs", "operations.md"))
	must(t, err)
	_, year, _ := strings.Cut(string(text), "## An operator's year\n")
	year, _, _ = strings.Cut(year, "\n## ")
	script := "set -euo pipefail\n"
	for _, block := range shellBlock.FindAllStringSubmatch(year, -1) {
		script += block[1]
	}
	base := s.Ports().Control - 8080
	script = defaultPort.ReplaceAllStringFunc(script, func(address string) string {
		host, port, _ := strings.Cut(address, ":")
		n, _ := strconv.Atoi(port)
		return host + ":" + strconv.Itoa(n+base)
	})
	home := t.TempDir()
	shell := exec.CommandContext(t.Context(), "bash", "-c", script)
	shell.Dir = t.TempDir()
	shell.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "HOME="+home, "XDG_CONFIG_HOME="+home, "OUVIRA_STATE="+s.State())
	out, err := shell.CombinedOutput()
	if err != nil {
		t.Fatalf("the year ends with %v:\n%s", err, out)
	}
	// Postgres 15 itself is all that the doctor may find fault with.
	found := strings.Count(string(out), "Postgres 15 cannot contain CREATEROLE")
	for _, want := range []string{"restored: ", "shop.acme.example", fmt.Sprintf(" %d findings", found)} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the year does not show %q:\n%s", want, out)
		}
	}
	for line := range strings.Lines(string(out)) {
		answers, ok := strings.CutPrefix(line, "answers while it moved: ")
		if fields := strings.Fields(answers); ok && (len(fields) != 2 || fields[1] != "200") {
			t.Errorf("requests failed while the tenant moved: %s", line)
		}
	}
	if left := column[string](t, s.PostgresURL(stack.PGA), "SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'ov\\_%' AND rolcanlogin"); len(left) != 0 {
		t.Errorf("%d tenants are still on the server that was drained", len(left))
	}
}
