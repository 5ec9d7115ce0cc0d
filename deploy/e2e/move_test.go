package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ouvira/ouvira/deploy/stack"
)

// moving is an operation as the API shows it.
type moving struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Error  *struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
	Steps []struct {
		Name   string `json:"name"`
		Status string `json:"status"`
	} `json:"steps"`
}

func (o moving) String() string {
	text, _ := json.Marshal(o)
	return string(text)
}

func (o moving) finished() bool { return o.Status == "succeeded" || o.Status == "failed" }

// moveTo asks for the move of a tenant.
func moveTo(t *testing.T, operator stack.API, slug, server string) moving {
	t.Helper()
	var started struct {
		Operation moving `json:"operation"`
	}
	must(t, operator.Want(t.Context(), http.StatusAccepted, http.MethodPost, "/v1/tenants/"+slug+"/move", map[string]string{"server": server}, &started))
	return started.Operation
}

func operationNow(t *testing.T, operator stack.API, id string) (moving, error) {
	t.Helper()
	var o moving
	err := operator.Want(t.Context(), http.StatusOK, http.MethodGet, "/v1/operations/"+id, nil, &o)
	return o, err
}

// succeeds waits for the end of an operation.
func succeeds(t *testing.T, operator stack.API, id string, limit time.Duration) {
	t.Helper()
	var last moving
	eventually(t, limit, func() (bool, string) {
		o, err := operationNow(t, operator, id)
		if err != nil {
			return false, err.Error()
		}
		last = o
		return o.finished(), o.String()
	})
	if last.Status != "succeeded" {
		t.Fatalf("the operation: %s", last)
	}
}

// pauseOf is how long writes paused for a move, in milliseconds.
func pauseOf(t *testing.T, s *stack.Stack, operation string) int64 {
	t.Helper()
	return column[int64](t, s.Demo().Postgres.Control,
		"SELECT (detail ->> 'write_pause_ms')::bigint FROM control.audit_log WHERE action = 'tenant.moved' AND detail ->> 'operation_id' = $1", operation)[0]
}

var otherServer = map[string]string{"a": "b", "b": "a"}

// A tenant moves there and back while its users write: every acknowledged write is
// in the database that serves, none reached the old one after the fence, nobody's
// request failed, and the audit verifies against the head that was kept.
func TestRel03AMoveUnderLoad(t *testing.T) {
	t.Parallel()
	s := borrow(t)
	b := newBalancer(t, s)
	const retries = 400
	app := tenant(t, s, b, "relocating")
	relocating, staying := work(t, app, "relocating", 6, retries), work(t, tenant(t, s, b, "remaining"), "remaining", 2, 0)
	relocating.more(t, 50)
	operator, err := s.OperatorAPI(t.Context())
	must(t, err)
	for range scaled(2, 20) {
		from, _ := tenantDatabase(t, s, "relocating")
		to := otherServer[serverOf(t, s, "relocating")]
		op := moveTo(t, operator, "relocating", to)
		succeeds(t, operator, op.ID, 3*time.Minute)
		const all = "SELECT name::text FROM companies"
		left := column[string](t, from, all)
		relocating.more(t, 50)
		staying.more(t, 5)
		if now := serverOf(t, s, "relocating"); now != to {
			t.Errorf("the tenant is on server %s, want %s", now, to)
		}
		if late := len(column[string](t, from, all)) - len(left); late != 0 {
			t.Errorf("%d writes reached the old database after the fence", late)
		}
		address, _ := tenantDatabase(t, s, "relocating")
		there := column[string](t, address, all)
		slices.Sort(there)
		for _, name := range left {
			if _, found := slices.BinarySearch(there, name); !found {
				t.Errorf("%q is in the old database only", name)
			}
		}
		t.Logf("from %s to %s: writes paused for %d ms", otherServer[to], to, pauseOf(t, s, op.ID))
	}
	for _, l := range []*load{relocating, staying} {
		l.stop()
		l.flawless(t)
		address, _ := tenantDatabase(t, s, l.prefix)
		l.replay(t, address)
	}
	var audit struct {
		Valid bool `json:"valid"`
	}
	must(t, app.Want(t.Context(), http.StatusOK, http.MethodGet, "/audit/verify", nil, &audit))
	if !audit.Valid {
		t.Error("the audit does not verify after the moves")
	}
}

// The places at which a move can be stopped.
var moveFailpoints = []string{
	"move/preflight", "move/target", "move/slot", "move/subscribe", "move/copy", "move/verify",
	"move/held", "move/fenced", "move/marked", "move/rechecked", "move/switch", "move/settle",
}

// A move is stopped at each failpoint, one tenant at each, and the worker is
// killed: within 60 s of the next one's start each tenant is served, whole, by one
// server, and nothing else is left of the moves.
func TestRel03AMoveIsKilledAfterEveryStep(t *testing.T) {
	t.Parallel()
	s, armed := start(t, stack.Options{NoTenants: true, Env: map[string]map[string]string{
		stack.Worker: {"OUVIRA_WORKER_LONG_OPERATIONS": strconv.Itoa(len(moveFailpoints)), "OUVIRA_CONNECTION_SHARE": "0.5"},
	}, PostgresSettings: map[string]string{
		"max_replication_slots": "60", "max_wal_senders": "60", "max_worker_processes": "80", "max_logical_replication_workers": "60",
	}})
	b := newBalancer(t, s)
	operator, err := s.OperatorAPI(t.Context())
	must(t, err)
	must(t, operator.Want(t.Context(), http.StatusOK, http.MethodPatch, "/v1/plans/standard",
		map[string]any{"limits": map[string]int{"signed_in_per_user": 1_000_000}}, nil))
	loads := make([]*load, len(moveFailpoints))
	for i := range moveFailpoints {
		slug := fmt.Sprintf("killed-%d", i)
		loads[i] = work(t, tenant(t, s, b, slug), slug, 1, 2000)
		loads[i].more(t, 3)
	}
	operations := make([]string, len(moveFailpoints))
	for i, point := range moveFailpoints {
		must(t, os.WriteFile(fileOf(armed, point), nil, 0o600))
		operations[i] = moveTo(t, operator, loads[i].prefix, otherServer[serverOf(t, s, loads[i].prefix)]).ID
	}
	for _, point := range moveFailpoints {
		eventually(t, 2*time.Minute, func() (bool, string) {
			_, err := os.Stat(fileOf(armed, point) + ".hit")
			return err == nil, "no move has reached " + point
		})
	}
	must(t, s.Kill9(stack.Worker))
	release(t, armed)
	must(t, s.Start(t.Context(), stack.Worker))
	deadline := time.Now().Add(recovery)
	for i, id := range operations {
		var o moving
		eventually(t, max(time.Until(deadline), time.Second), func() (bool, string) {
			o, err = operationNow(t, operator, id)
			return err == nil && o.finished(), fmt.Sprint(o, err)
		})
		t.Logf("%s: %s", moveFailpoints[i], o.Status)
	}
	for _, l := range loads {
		l.more(t, 3)
	}
	drainIsKilled(t, s, operator, armed)
	for _, l := range loads {
		l.more(t, 3)
		l.stop()
		l.flawless(t)
		address, _ := tenantDatabase(t, s, l.prefix)
		l.replay(t, address)
	}
	nothingLeft(t, s)
}

// drainIsKilled drains server a. Its worker is killed when the drain has asked for moves
// and one of these has fenced its source; then the control plane is killed and both
// servers are stopped when one has got further. The server is empty all the same.
func drainIsKilled(t *testing.T, s *stack.Stack, operator stack.API, armed string) {
	t.Helper()
	arm := func(points ...string) {
		t.Helper()
		for _, point := range points {
			must(t, os.WriteFile(fileOf(armed, point), nil, 0o600))
		}
	}
	arm("drain/asked", "move/fenced")
	var started struct {
		Operation moving `json:"operation"`
	}
	must(t, operator.Want(t.Context(), http.StatusAccepted, http.MethodPost, "/v1/servers/a/drain", nil, &started))
	stand(t, armed, []string{"drain/asked", "move/fenced"})
	must(t, s.Kill9(stack.Worker))
	release(t, armed)
	arm("move/marked")
	must(t, s.Start(t.Context(), stack.Worker))
	stand(t, armed, []string{"move/marked"})
	must(t, s.Kill9(stack.Control))
	must(t, s.StopImmediate(stack.PGA))
	must(t, s.StopImmediate(stack.PGB))
	release(t, armed)
	for _, part := range s.Names() {
		must(t, s.Start(t.Context(), part))
	}
	succeeds(t, operator, started.Operation.ID, 4*time.Minute)
	left := column[string](t, s.Demo().Postgres.Control, "SELECT t.slug FROM control.tenants t JOIN control.servers v ON v.id = t.server_id WHERE v.name = 'a'")
	if len(left) != 0 {
		t.Errorf("server a still has %v", left)
	}
}

// nothingLeft checks that of all moves only the sources are there that are kept.
func nothingLeft(t *testing.T, s *stack.Stack) {
	t.Helper()
	if held := column[int64](t, s.Demo().Postgres.Control, "SELECT count(*) FROM control.tenants WHERE route_mode <> 'serve'")[0]; held != 0 {
		t.Errorf("%d tenants are held", held)
	}
	tenants := column[string](t, s.Demo().Postgres.Control, "SELECT database_name FROM control.tenants WHERE database_name IS NOT NULL ORDER BY 1")
	kept := column[int64](t, s.Demo().Postgres.Control, "SELECT count(*) FROM control.moves WHERE switched_at IS NOT NULL AND dropped_at IS NULL")[0]
	var databases []string
	for _, server := range []string{stack.PGA, stack.PGB} {
		address := s.PostgresURL(server)
		databases = append(databases, column[string](t, address, "SELECT datname::text FROM pg_database WHERE datname LIKE 'ov\\_%'")...)
		for what, query := range map[string]string{
			"replication slots": "SELECT count(*) FROM pg_replication_slots",
			"subscriptions":     "SELECT count(*) FROM pg_subscription",
			"roles without a database": `SELECT count(*) FROM pg_roles r WHERE r.rolname LIKE 'ov\_%'
				AND NOT EXISTS (SELECT FROM pg_database d WHERE d.datname = r.rolname)`,
		} {
			if n := column[int64](t, address, query)[0]; n != 0 {
				t.Errorf("%s has %d %s", server, n, what)
			}
		}
	}
	if want := len(tenants) + int(kept); len(databases) != want {
		t.Errorf("the servers have %d databases of tenants, want %d: %s", len(databases), want, strings.Join(databases, ", "))
	}
	for _, name := range tenants {
		if !slices.Contains(databases, name) {
			t.Errorf("%s is on no server", name)
		}
	}
}
