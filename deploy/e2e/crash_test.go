package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ouvira/ouvira/deploy/stack"
)

// crashing is an operation that is stopped at each of its failpoints.
type crashing struct {
	// failpoints are all that it has: between any two steps, and inside of those
	// that have halves.
	failpoints []string
	// before brings a tenant that is active to where the operation begins, by
	// requests that are each waited for: "delete".
	before []string
	// begin asks for the operation on the tenant; nil: making the tenant has done it.
	begin func(t *testing.T, operator stack.API, c customer)
	// make begins what makes the tenant; nil: it signs up.
	make func(t *testing.T, o *origin, slug string) customer
	// first: others pass through its failpoints too, so they begin when it stands.
	first bool
	// ended tells what is wrong with how the tenant has ended; "" is nothing. ready
	// tells whether the operation has succeeded, rather than failed with a reason.
	ended func(t *testing.T, s *stack.Stack, c customer) (ready bool, wrong string)
}

// crashes are the operations that are crashed, by the first part of the names of
// their failpoints.
var crashes = map[string]crashing{
	"provision": {
		failpoints: []string{
			"provision/place", "provision/role-stored", "provision/role", "provision/database", "provision/lockdown",
			"provision/migrate", "provision/seed", "provision/activate",
		},
		ended: func(t *testing.T, s *stack.Stack, c customer) (bool, string) {
			got := c.state(t.Context(), s)
			if got.Status == "failed" && got.Reason != "" {
				t.Logf("%s failed: %s", c.slug, got.Reason)
				return false, ""
			}
			return serves(t, s, c)
		},
	},
	"fence": {
		failpoints: []string{"fence/fence"},
		begin:      asks("suspend", http.StatusOK, map[string]string{"reason": "unpaid"}),
		ended: func(t *testing.T, s *stack.Stack, c customer) (bool, string) {
			return c.is(t, s, "suspended", "fence = server_id || '/' || incarnation")
		},
	},
	"delete": {
		failpoints: []string{"delete/fence", "delete/backup", "delete/grace"},
		begin:      asks("delete", http.StatusAccepted, nil),
		ended: func(t *testing.T, s *stack.Stack, c customer) (bool, string) {
			return c.is(t, s, "deleted", "purge_at IS NOT NULL AND fence = server_id || '/' || incarnation")
		},
	},
	"undelete": {
		failpoints: []string{"undelete/schema", "undelete/serve"},
		before:     []string{"delete"},
		begin:      asks("undelete", http.StatusAccepted, nil),
		ended:      serves,
	},
	"purge": {
		failpoints: []string{"purge/fence", "purge/detach", "purge/drop", "purge/erase"},
		before:     []string{"delete"},
		begin:      asks("purge", http.StatusAccepted, nil),
		ended: func(t *testing.T, s *stack.Stack, c customer) (bool, string) {
			return c.is(t, s, "purged", "credential IS NULL AND database_name IS NULL AND signing_keys = '[]'")
		},
	},
	"export": exporting(),
	"import": importing(),
}

// exporting makes archives.
func exporting() crashing {
	return crashing{
		failpoints: []string{"take/stored", "take/verified", "export/dump"},
		first:      true,
		begin:      asks("export", http.StatusAccepted, nil),
		ended: func(t *testing.T, s *stack.Stack, c customer) (bool, string) {
			complete := column[string](t, s.Demo().Postgres.Control, `
				SELECT b.object FROM control.backups b JOIN control.tenants t ON t.id = b.tenant_id
				WHERE t.slug = $1 AND b.status = 'complete' AND b.reason = 'export'`, c.slug)
			if len(complete) != 1 {
				return false, fmt.Sprintf("it has %d exports, want 1", len(complete))
			}
			return serves(t, s, c)
		},
	}
}

// importing makes tenants of an archive.
func importing() crashing {
	return crashing{
		failpoints: []string{
			"import/archive", "import/place", "import/role", "import/database", "import/load", "import/migrate", "import/renew", "import/activate",
		},
		make: func(t *testing.T, o *origin, slug string) customer {
			t.Helper()
			o.imported(t, slug)
			return customer{slug: slug, email: o.email, password: o.password}
		},
		ended: serves,
	}
}

// origin is a tenant of which there is an archive.
type origin struct {
	customer

	operator stack.API
	archive  []byte
}

// exported makes one.
func exported(t *testing.T, s *stack.Stack, operator stack.API) *origin {
	t.Helper()
	o := &origin{customer: signUp(t, s, "origin"), operator: operator}
	idle(t, s)
	o.login(t, s, 0)
	asks("export", http.StatusAccepted, nil)(t, operator, o.customer)
	idle(t, s)
	id := column[string](t, s.Demo().Postgres.Control, "SELECT id::text FROM control.backups WHERE reason = 'export' AND status = 'complete'")[0]
	answer, err := operator.Call(t.Context(), http.MethodGet, "/v1/backups/"+id+"/archive", nil)
	must(t, err)
	if answer.Status != http.StatusOK {
		t.Fatalf("the archive is answered with %d: %s", answer.Status, answer.Body)
	}
	o.archive = answer.Body
	return o
}

// imported asks for a tenant of the archive.
func (o *origin) imported(t *testing.T, slug string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, o.operator.Base+"/v1/imports?slug="+slug, bytes.NewReader(o.archive))
	must(t, err)
	request.Header.Set("Authorization", "Bearer "+o.operator.Token)
	request.Header.Set("Content-Type", "application/octet-stream")
	response, err := http.DefaultClient.Do(request)
	must(t, err)
	defer response.Body.Close()
	if response.StatusCode != http.StatusAccepted {
		text, _ := io.ReadAll(response.Body)
		t.Fatalf("the import is answered with %d: %s", response.StatusCode, text)
	}
}

// asks begins an operation by a request about the tenant.
func asks(verb string, status int, body any) func(*testing.T, stack.API, customer) {
	return func(t *testing.T, operator stack.API, c customer) {
		t.Helper()
		must(t, operator.Want(t.Context(), status, http.MethodPost, "/v1/tenants/"+c.slug+"/"+verb, body, nil))
	}
}

// serves expects the tenant to be active, and its owner to sign in.
func serves(t *testing.T, s *stack.Stack, c customer) (bool, string) {
	t.Helper()
	ready, wrong := c.is(t, s, "active", "fence = ''")
	if wrong == "" {
		c.login(t, s, 0)
	}
	return ready, wrong
}

// is compares the tenant's row.
func (c customer) is(t *testing.T, s *stack.Stack, status, holds string) (bool, string) {
	t.Helper()
	found := column[string](t, s.Demo().Postgres.Control, "SELECT status || CASE WHEN "+holds+" THEN '' ELSE ', but not '||$2 END FROM control.tenants WHERE slug = $1", c.slug, holds)
	if len(found) != 1 || found[0] != status {
		return false, fmt.Sprintf("it is %v, want %s", found, status)
	}
	return true, ""
}

// recovery is the promise: within 60 s of the restart an operation has ended, ready,
// or cleanly failed with a reason.
const recovery = 60 * time.Second

// One operation is stopped at each failpoint, then all of them lose the part at
// the same moment: every step is crashed after, in one go.
func TestRel03ACrashAfterEveryStep(t *testing.T) {
	t.Parallel()
	for name, crash := range map[string]func(t *testing.T, s *stack.Stack){
		"kill -9 of the worker": func(t *testing.T, s *stack.Stack) { must(t, s.Kill9(stack.Worker)) },
		killOfControl:           func(t *testing.T, s *stack.Stack) { must(t, s.Kill9(stack.Control)) },
		"immediate stop of the tenant servers": func(t *testing.T, s *stack.Stack) {
			must(t, s.StopImmediate(stack.PGA))
			must(t, s.StopImmediate(stack.PGB))
		},
		"immediate stop of the control database": func(t *testing.T, s *stack.Stack) { must(t, s.StopImmediate(stack.PGControl)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inline := 0
			if name == killOfControl { // what dies with it are the tenants that it makes itself
				inline = len(crashes["provision"].failpoints)
			}
			crashEverywhere(t, inline, crash)
		})
	}
}

const killOfControl = "kill -9 of the control plane"

// crashEverywhere has the control plane make so many tenants of sign-ups itself.
func crashEverywhere(t *testing.T, inline int, crash func(*testing.T, *stack.Stack)) {
	var points []string
	for _, c := range crashes {
		points = append(points, c.failpoints...)
	}
	// All are stopped at once, so each needs a place at the worker, and connections:
	// one that has none would wait until a stopped one's time is up.
	s, armed := start(t, stack.Options{NoTenants: true, Env: map[string]map[string]string{
		stack.Worker: {
			"OUVIRA_WORKER_OPERATIONS": strconv.Itoa(len(points)), "OUVIRA_WORKER_LONG_OPERATIONS": strconv.Itoa(len(points)),
			"OUVIRA_CONNECTION_SHARE": "0.6",
		},
		stack.Control: {"OUVIRA_INLINE_OPERATIONS": strconv.Itoa(inline), "OUVIRA_CONNECTION_SHARE": "0.35"},
	}})
	operator, err := s.OperatorAPI(t.Context())
	must(t, err)
	customers := prepare(t, s, operator)
	from := exported(t, s, operator)
	for _, point := range points {
		must(t, os.WriteFile(fileOf(armed, point), nil, 0o600))
	}
	names := slices.SortedFunc(maps.Keys(crashes), func(a, b string) int {
		if crashes[a].first != crashes[b].first {
			if crashes[a].first {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	for _, name := range names {
		c := crashes[name]
		for i := range c.failpoints {
			switch slug := fmt.Sprintf("%s-%d", name, i); {
			case c.begin != nil:
				c.begin(t, operator, customers[name][i])
			case c.make != nil:
				customers[name] = append(customers[name], c.make(t, from, slug))
			default:
				customers[name] = append(customers[name], signUp(t, s, slug))
			}
		}
		if c.first {
			stand(t, armed, c.failpoints)
		}
	}
	stand(t, armed, points)

	crash(t, s)
	release(t, armed)
	for _, part := range s.Names() {
		must(t, s.Start(t.Context(), part))
	}
	idle(t, s)
	for name, c := range crashes {
		ready := 0
		for _, customer := range customers[name] {
			succeeded, wrong := c.ended(t, s, customer)
			if wrong != "" {
				t.Errorf("%s: %s", customer.slug, wrong)
			}
			if succeeded {
				ready++
			}
		}
		if ready == 0 {
			t.Errorf("every %s failed: a crash is no reason to", name)
		}
		knowsAll(t, armed, name, c.failpoints)
	}
	clean(t, s)
}

// stand waits until an operation has been stopped at each of the failpoints.
func stand(t *testing.T, armed string, points []string) {
	t.Helper()
	for _, point := range points {
		eventually(t, recovery, func() (bool, string) {
			_, err := os.Stat(fileOf(armed, point) + ".hit")
			return err == nil, "no operation has reached " + point
		})
	}
}

// prepare makes the tenants that operations begin with, one for each failpoint.
func prepare(t *testing.T, s *stack.Stack, operator stack.API) map[string][]customer {
	t.Helper()
	customers := map[string][]customer{}
	steps := 0
	for name, c := range crashes {
		if c.begin == nil {
			continue
		}
		steps = max(steps, len(c.before))
		for i := range c.failpoints {
			customers[name] = append(customers[name], signUp(t, s, fmt.Sprintf("%s-%d", name, i)))
		}
	}
	idle(t, s)
	for i := range steps {
		for name, c := range crashes {
			for _, customer := range customers[name] {
				if i < len(c.before) {
					asks(c.before[i], http.StatusAccepted, nil)(t, operator, customer)
				}
			}
		}
		idle(t, s)
	}
	return customers
}

// idle waits until no operation is unfinished.
func idle(t *testing.T, s *stack.Stack) {
	t.Helper()
	eventually(t, recovery, func() (bool, string) {
		left := column[string](t, s.Demo().Postgres.Control, `
			SELECT format('%s of %s is %s: %s', o.kind, t.slug, o.status, o.error)
			FROM control.operations o LEFT JOIN control.tenants t ON t.id = o.tenant_id WHERE o.finished_at IS NULL`)
		return len(left) == 0, strings.Join(left, "\n")
	})
}

// knowsAll fails when an operation has a failpoint that this test leaves out.
func knowsAll(t *testing.T, dir, name string, failpoints []string) {
	t.Helper()
	prefixes := map[string]bool{}
	for _, point := range failpoints {
		prefix, _, _ := strings.Cut(point, "/")
		prefixes[prefix] = true
	}
	var seen []string
	for prefix := range prefixes {
		files, err := filepath.Glob(filepath.Join(dir, prefix+".*.seen"))
		must(t, err)
		seen = append(seen, files...)
	}
	for i, file := range seen {
		seen[i] = strings.Replace(strings.TrimSuffix(filepath.Base(file), ".seen"), ".", "/", 1)
	}
	slices.Sort(seen)
	if !slices.Equal(seen, slices.Sorted(slices.Values(failpoints))) {
		t.Errorf("%s has the failpoints %v, the test crashes at %v", name, seen, failpoints)
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

// clean checks the servers: one database and one role for each tenant that has any, and
// those that restores and moves have left (kept), nothing else of ours, and nothing that
// the doctor would find.
func clean(t *testing.T, s *stack.Stack, kept ...string) {
	t.Helper()
	recorded := column[string](t, s.Demo().Postgres.Control, `
		SELECT database_name FROM control.tenants WHERE database_name IS NOT NULL
		UNION ALL SELECT database_name FROM control.retired_databases WHERE dropped_at IS NULL`)
	recorded = append(recorded, kept...)
	slices.Sort(recorded)
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
	archives(t, s)
	operator, err := s.OperatorAPI(t.Context())
	must(t, err)
	var report struct {
		Findings []any `json:"findings"`
	}
	must(t, operator.Want(t.Context(), http.StatusOK, http.MethodGet, "/v1/reconcile", nil, &report))
	if len(report.Findings) != 0 {
		t.Errorf("the doctor finds %v", report.Findings)
	}
}

// archives checks the storage: the archives that count, with their manifests, whole and
// nothing else.
func archives(t *testing.T, s *stack.Stack) {
	t.Helper()
	counted := map[string]bool{}
	for _, object := range column[string](t, s.Demo().Postgres.Control, "SELECT object FROM control.backups WHERE status = 'complete'") {
		counted[object], counted[object+".json"] = true, true
	}
	root := filepath.Join(s.State(), "backups")
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if path == root && errors.Is(err, os.ErrNotExist) {
			return nil // nothing was ever stored
		}
		if err != nil || entry.IsDir() {
			return err
		}
		name := strings.TrimPrefix(path, root+"/")
		if !counted[name] {
			t.Errorf("the storage has %s, which no backup counts", name)
		}
		delete(counted, name)
		return nil
	})
	must(t, err)
	for name := range counted {
		t.Errorf("the storage lacks %s", name)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
