package move_test

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
)

// fill gives the tenant some data of every awkward kind, as its own role.
func (w *world) fill(t testing.TB, tenant uuid.UUID, rows int) {
	t.Helper()
	conn := testdb.Connect(t, w.Login(t, tenant))
	for _, statement := range []string{
		"INSERT INTO companies (name, description) SELECT 'Company ' || n, repeat('é''\\', n % 7) FROM generate_series(1, $1) n",
		"INSERT INTO ledger.activity_logs (user_display, entity_type, action, new_values) SELECT 'Ada', 'company', 'create', jsonb_build_object('n', n, 'at', now()) FROM generate_series(1, $1) n",
		"INSERT INTO sessions (user_id, user_agent, ip_address, expires_at) SELECT u.id, 'x', '::1', now() FROM users u, generate_series(1, $1) n",
		"INSERT INTO password_tokens (token_hash, user_id, purpose, expires_at) SELECT decode(md5(n::text), 'hex'), u.id, 'set', 'infinity' FROM users u, generate_series(1, $1) n",
		"INSERT INTO sms_counts (day, prefix, sent) SELECT '2026-01-01'::date + n, '+49', n FROM generate_series(1, $1) n",
		"DELETE FROM companies WHERE id % 3 = 0 AND name LIKE 'Company %' AND id < $1",
	} {
		if _, err := conn.Exec(t.Context(), statement, rows); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

// writer is a client that writes until it is stopped, through whatever database
// the route names, and keeps a journal of what was acknowledged.
type writer struct {
	acked []string
	mu    sync.Mutex
	stop  func()
}

func (w *world) write(t *testing.T, tenant uuid.UUID) *writer {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	j := &writer{}
	var working sync.WaitGroup
	for i := range 3 {
		working.Go(func() {
			var conn *pgx.Conn
			var credential []byte
			address := ""
			// A steady client: one that asks as fast as it can, also while the
			// database is closed, takes the machine from the move.
			pace := time.NewTicker(10 * time.Millisecond)
			defer pace.Stop()
			for n := 0; ctx.Err() == nil; n++ {
				<-pace.C
				p := w.placed(t, tenant)
				moved := !bytes.Equal(p.Credential, credential)
				if moved {
					// To open it costs more than the write.
					address, credential = w.Login(t, tenant), p.Credential
				}
				if moved || conn == nil || conn.IsClosed() {
					if conn != nil {
						_ = conn.Close(context.Background())
					}
					var err error
					if conn, err = pgx.Connect(ctx, address); err != nil {
						conn = nil
						continue // fenced, or not open yet: it asks again
					}
				}
				name := fmt.Sprintf("written %d-%d", i, n)
				if _, err := conn.Exec(ctx, "INSERT INTO companies (name) VALUES ($1)", name); err == nil {
					j.mu.Lock()
					j.acked = append(j.acked, name)
					j.mu.Unlock()
				}
			}
			if conn != nil {
				_ = conn.Close(context.Background())
			}
		})
	}
	j.stop = sync.OnceFunc(func() { cancel(); working.Wait() })
	t.Cleanup(j.stop)
	return j
}

func (j *writer) count() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.acked)
}

// more waits for further acknowledged writes.
func (j *writer) more(t *testing.T, n int) {
	t.Helper()
	before := j.count()
	for deadline := time.Now().Add(time.Minute); j.count() < before+n; {
		if time.Now().After(deadline) {
			t.Fatalf("%d writes of %d were acknowledged", j.count()-before, n)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// moved expects the tenant on server b, whole, and nothing of the move left.
func (w *world) moved(t *testing.T, tenant uuid.UUID, incarnation int) {
	t.Helper()
	p := w.placed(t, tenant)
	if p.Server != "b" || p.Incarnation != incarnation || p.Database != tenantdb.Name(tenant, incarnation) || p.Mode != "serve" {
		t.Fatalf("the tenant is at %+v", p)
	}
	if n := left(t, w.b, tenant, incarnation); n != 2 {
		t.Errorf("%d things on the target, want a database and a role", n)
	}
	if n := left(t, w.a, tenant, incarnation-1); n != 2 {
		t.Errorf("%d things on the source, want the database that is kept and its role", n)
	}
	source, target := inside(t, w.a, tenant, incarnation-1), inside(t, w.b, tenant, incarnation)
	for _, conn := range []*pgx.Conn{source, target} {
		if n := fleettest.One[int](t, conn, "SELECT count(*) FROM pg_publication") + fleettest.One[int](t, conn, "SELECT count(*) FROM pg_class WHERE relname = 'move_marks'"); n != 0 {
			t.Errorf("%d publications and tables of the move are left in %s", n, conn.Config().Database)
		}
	}
	if fleettest.One[bool](t, source, "SELECT pg_has_role($1::name, 'ouvira_app', 'usage') OR rolcanlogin FROM pg_roles WHERE rolname = $1", tenantdb.Name(tenant, incarnation-1)) {
		t.Error("the source is open")
	}
	conn := testdb.Connect(t, w.Login(t, tenant))
	if _, err := conn.Exec(t.Context(), "INSERT INTO companies (name) VALUES ('after the move')"); err != nil {
		t.Errorf("a write after the move: %v", err)
	}
}

// unmoved expects the tenant served by server a, and nothing of the move left.
func (w *world) unmoved(t *testing.T, tenant uuid.UUID) {
	t.Helper()
	p := w.placed(t, tenant)
	if p.Server != "a" || p.Incarnation != 1 || p.Mode != "serve" {
		t.Fatalf("the tenant is at %+v", p)
	}
	if n := left(t, w.b, tenant, 2); n != 0 {
		t.Errorf("%d things are left on the target", n)
	}
	if n := left(t, w.a, tenant, 1); n != 2 {
		t.Errorf("%d things on the source, want the database and its role", n)
	}
	source := inside(t, w.a, tenant, 1)
	if n := fleettest.One[int](t, source, "SELECT count(*) FROM pg_publication") + fleettest.One[int](t, source, "SELECT count(*) FROM pg_class WHERE relname = 'move_marks'"); n != 0 {
		t.Errorf("%d publications and tables of the move are left", n)
	}
	conn := testdb.Connect(t, w.Login(t, tenant))
	if _, err := conn.Exec(t.Context(), "INSERT INTO companies (name) VALUES ('still here')"); err != nil {
		t.Errorf("a write after the move was given up: %v", err)
	}
}

// What was acknowledged is in the target, nothing was written to the source after
// the fence, and both hold the same.
func TestRel03AMoveUnderWritesLosesNothing(t *testing.T) {
	t.Parallel()
	fleettest.OnBoth(t, func(t *testing.T, version string) {
		w := shared(t, version)
		tenant := w.tenant(t, "acme")
		w.fill(t, tenant, 200)
		journal := w.write(t, tenant)
		journal.more(t, 50)
		op := w.mustAsk(t, tenant, "b")
		w.mustRun(t, op)
		journal.more(t, 50)
		journal.stop()
		w.moved(t, tenant, 2)

		source, target := inside(t, w.a, tenant, 1), inside(t, w.b, tenant, 2)
		there := map[string]int{}
		rows, err := target.Query(t.Context(), "SELECT name FROM companies WHERE name LIKE 'written %'")
		if err != nil {
			t.Fatal(err)
		}
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			there[name]++
		}
		for _, name := range journal.acked {
			if there[name] != 1 {
				t.Errorf("%s was acknowledged and is there %d times", name, there[name])
			}
		}
		// The source ends where the target began to be written to.
		last := fleettest.One[int64](t, source, "SELECT max(id) FROM companies")
		const older = "SELECT md5(string_agg(c::text, ',' ORDER BY id)) FROM companies c WHERE id <= $1"
		if fleettest.One[string](t, source, older, last) != fleettest.One[string](t, target, older, last) {
			t.Error("the companies differ")
		}
		for _, table := range []string{"ledger.activity_logs", "sessions", "password_tokens", "sms_counts", "roles", "permissions", "role_permissions", "date_dimension", "ouvira.signing_keys", "ouvira.seeds", "users"} {
			all := "SELECT md5(COALESCE(string_agg(t::text, ',' ORDER BY t::text), '')) FROM " + table + " t"
			if fleettest.One[string](t, source, all) != fleettest.One[string](t, target, all) {
				t.Errorf("%s differs", table)
			}
		}
		if fleettest.One[int64](t, target, "SELECT min(id) FROM companies WHERE id > $1", last) <= last {
			t.Error("an id was given twice")
		}
		pause := fleettest.One[int64](t, w.Pool, "SELECT (detail ->> 'write_pause_ms')::bigint FROM control.audit_log WHERE action = 'tenant.moved' AND tenant_id = $1", tenant)
		t.Logf("%d writes were acknowledged; writes paused for %d ms", len(journal.acked), pause)
	})
}

// A tenant that is not served moves without a hold, and is as closed as before.
func TestASuspendedTenantMovesClosed(t *testing.T) {
	t.Parallel()
	w := shared(t, testdb.System)
	tenant := w.tenant(t, "acme")
	w.Exec(t, "UPDATE control.tenants SET status = 'suspended' WHERE id = $1", tenant)
	w.mustRun(t, w.mustAsk(t, tenant, "b"))
	p := w.placed(t, tenant)
	if p.Server != "b" || p.Status != "suspended" || p.Mode != "serve" {
		t.Fatalf("%+v", p)
	}
	if _, err := pgx.Connect(t.Context(), w.Login(t, tenant)); pg.Code(err) != pg.CodeInvalidAuth {
		t.Errorf("the role of a suspended tenant on the target: %v", err)
	}
}

// It comes back while its old database is still kept there.
func TestThereAndBack(t *testing.T) {
	t.Parallel()
	w := shared(t, testdb.System)
	tenant := w.tenant(t, "acme")
	w.mustRun(t, w.mustAsk(t, tenant, "b"))
	w.mustRun(t, w.mustAsk(t, tenant, "a"))
	if p := w.placed(t, tenant); p.Server != "a" || p.Incarnation != 3 {
		t.Fatalf("%+v", p)
	}
	// The sweep drops what was left, when its time is over, and nothing else.
	if err := w.move.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := left(t, w.a, tenant, 1); n != 2 {
		t.Errorf("the source was dropped before its time")
	}
	w.Exec(t, "UPDATE control.moves SET drop_at = now(), looked_at = NULL")
	if err := w.move.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := left(t, w.a, tenant, 1) + left(t, w.b, tenant, 2); n != 0 {
		t.Errorf("%d things are left", n)
	}
	if n := left(t, w.a, tenant, 3); n != 2 {
		t.Errorf("the tenant's own database is gone")
	}
	if _, err := testdb.Connect(t, w.Login(t, tenant)).Exec(t.Context(), "INSERT INTO companies (name) VALUES ('Back')"); err != nil {
		t.Error(err)
	}
	if n := fleettest.One[int](t, w.Pool, "SELECT count(*) FROM control.moves WHERE dropped_at IS NULL"); n != 0 {
		t.Errorf("%d moves are not recorded as cleared up", n)
	}
}
