package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ouvira/ouvira/deploy/stack"
)

// The places at which provisioning can be stopped: between any two steps, and
// inside the one that has two halves.
var failpoints = []string{
	"provision/place",
	"provision/role-stored",
	"provision/role",
	"provision/database",
	"provision/lockdown",
	"provision/migrate",
	"provision/seed",
	"provision/activate",
}

// recovery is the promise: within 60 s of the restart the tenant is active, or
// cleanly failed with a reason.
const recovery = 60 * time.Second

// One operation is stopped at each failpoint, then all of them lose the part at
// the same moment: every step is crashed after, in one go.
func TestRel03ACrashAfterEveryStep(t *testing.T) {
	t.Parallel()
	for name, crash := range map[string]func(t *testing.T, s *stack.Stack){
		"kill -9 of the worker":        func(t *testing.T, s *stack.Stack) { must(t, s.Kill9(stack.Worker)) },
		"kill -9 of the control plane": func(t *testing.T, s *stack.Stack) { must(t, s.Kill9(stack.Control)) },
		"immediate stop of the tenant servers": func(t *testing.T, s *stack.Stack) {
			must(t, s.StopImmediate(stack.PGA))
			must(t, s.StopImmediate(stack.PGB))
		},
		"immediate stop of the control database": func(t *testing.T, s *stack.Stack) { must(t, s.StopImmediate(stack.PGControl)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			crashEverywhere(t, crash)
		})
	}
}

func crashEverywhere(t *testing.T, crash func(*testing.T, *stack.Stack)) {
	// All are stopped at once, so each needs a place at the worker: one that has
	// none would wait until a stopped one's time is up.
	s, armed := start(t, stack.Options{NoTenants: true, Env: map[string]map[string]string{
		stack.Worker: {"OUVIRA_WORKER_OPERATIONS": strconv.Itoa(len(failpoints))},
	}})
	for _, point := range failpoints {
		must(t, os.WriteFile(fileOf(armed, point), nil, 0o600))
	}
	customers := make([]customer, 0, len(failpoints))
	for i := range failpoints {
		customers = append(customers, signUp(t, s, fmt.Sprintf("crash-%d", i)))
	}
	for _, point := range failpoints {
		eventually(t, recovery, func() (bool, string) {
			_, err := os.Stat(fileOf(armed, point) + ".hit")
			return err == nil, "no operation has reached " + point
		})
	}

	crash(t, s)
	release(t, armed)
	for _, part := range s.Names() {
		must(t, s.Start(t.Context(), part))
	}

	deadline := time.Now().Add(recovery)
	for _, c := range customers {
		eventually(t, time.Until(deadline), func() (bool, string) {
			got := c.state(t.Context(), s)
			return got.Status == "active" || got.Status == "failed" && got.Reason != "", fmt.Sprintf("%s is %s (%s)", c.slug, got.Status, got.Reason)
		})
	}
	active := 0
	for _, c := range customers {
		if got := c.state(t.Context(), s); got.Status == "active" {
			active++
			c.login(t, s, 0)
		} else {
			t.Logf("%s failed: %s", c.slug, got.Reason)
		}
	}
	if active == 0 {
		t.Fatal("every tenant failed: a crash is no reason to")
	}
	clean(t, s, active)
	knowsAll(t, armed)
}

// knowsAll fails when provisioning has a failpoint that this test leaves out.
func knowsAll(t *testing.T, dir string) {
	t.Helper()
	seen, err := filepath.Glob(filepath.Join(dir, "provision.*.seen"))
	must(t, err)
	for i, file := range seen {
		seen[i] = strings.Replace(strings.TrimSuffix(filepath.Base(file), ".seen"), ".", "/", 1)
	}
	slices.Sort(seen)
	if !slices.Equal(seen, slices.Sorted(slices.Values(failpoints))) {
		t.Errorf("provisioning has the failpoints %v, the test crashes at %v", seen, failpoints)
	}
}

// release lets go whoever still waits at a failpoint: a process that was not
// killed goes on.
func release(t *testing.T, armed string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(armed, "*.hit"))
	must(t, err)
	for _, file := range files {
		must(t, os.Remove(file))
	}
}

func fileOf(dir, point string) string {
	return filepath.Join(dir, strings.ReplaceAll(point, "/", "."))
}

// clean checks the servers: one database and one role for each active tenant,
// and nothing else of ours.
func clean(t *testing.T, s *stack.Stack, active int) {
	t.Helper()
	recorded := column[string](t, s.Demo().Postgres.Control, "SELECT database_name FROM control.tenants WHERE status = 'active' ORDER BY 1")
	if len(recorded) != active {
		t.Fatalf("active tenants in the control database: %d, want %d", len(recorded), active)
	}
	var databases, roles []string
	for _, server := range []string{stack.PGA, stack.PGB} {
		databases = append(databases, column[string](t, s.PostgresURL(server), "SELECT datname::text FROM pg_database WHERE datname LIKE 'ov\\_%'")...)
		roles = append(roles, column[string](t, s.PostgresURL(server), "SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'ov\\_%'")...)
	}
	slices.Sort(databases)
	slices.Sort(roles)
	if !slices.Equal(databases, recorded) {
		t.Errorf("databases on the servers %v, recorded %v", databases, recorded)
	}
	if !slices.Equal(roles, recorded) {
		t.Errorf("roles on the servers %v, recorded %v", roles, recorded)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
