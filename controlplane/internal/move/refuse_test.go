package move_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/move"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/testdb"
)

// allThere expects every acknowledged write in the database that the route names.
func (w *world) allThere(t *testing.T, tenant uuid.UUID, journal *writer) {
	t.Helper()
	conn := testdb.Connect(t, w.Login(t, tenant))
	lost := fleettest.One[int](t, conn, "SELECT count(*) FROM unnest($1::text[]) AS acked WHERE (SELECT count(*) FROM companies WHERE name = acked) <> 1", journal.acked)
	if lost != 0 {
		t.Errorf("%d of %d acknowledged writes are lost or doubled", lost, len(journal.acked))
	}
}

// The change does not fit into its budget: the source serves on, and nothing is
// lost. After some tries the move is given up.
func TestRel03AMoveThatExceedsItsBudget(t *testing.T) {
	t.Parallel()
	w := newWorld(t, tenantServer(t, testdb.System, "a"), tenantServer(t, testdb.System, "b"), move.Options{Budget: time.Second, Fences: 2, Chunk: 20})
	tenant := w.tenant(t, "acme")
	journal := w.write(t, tenant)
	op := w.mustAsk(t, tenant, "b")
	w.blockWhileHeld(t, tenant)
	deadline := time.Now().Add(2 * time.Minute)
	for {
		if err := w.runner.Run(t.Context(), op); err != nil {
			t.Fatal(err)
		}
		o := w.Get(t, op)
		if o.Status == operation.Failed {
			if o.Error.Code != "fence_budget" {
				t.Fatalf("%+v", o.Error)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s %+v", o.Status, o.Error)
		}
		if o.Error != nil && o.Error.Code == "fence_budget" {
			if p := w.placed(t, tenant); p.Mode != "serve" || p.Server != "a" {
				t.Fatalf("between two tries: %+v", p)
			}
			journal.more(t, 10)
		}
		<-time.After(50 * time.Millisecond)
	}
	journal.more(t, 10)
	journal.stop()
	w.unmoved(t, tenant)
	w.allThere(t, tenant, journal)
}

// What cannot be moved is refused before anything is made, and says why.
func TestMovesAreRefused(t *testing.T) {
	t.Parallel()
	w := shared(t, testdb.System)
	tenant := w.tenant(t, "acme")
	set := func(server, status string, databases int) {
		w.Exec(t, "UPDATE control.servers SET status = $2, max_databases = $3 WHERE name = $1", server, status, databases)
	}
	for code, c := range map[string]struct {
		tenant  uuid.UUID
		to      string
		prepare func()
	}{
		"same_server":       {tenant, "a", func() {}},
		"unknown":           {tenant, "nowhere", func() {}},
		"server_not_active": {tenant, "b", func() { set("b", "draining", 50) }},
		"server_full":       {tenant, "b", func() { set("b", "active", 0) }},
		"not_found":         {uuid.New(), "b", func() {}},
		"tenant_failed":     {tenant, "b", func() { w.Exec(t, "UPDATE control.tenants SET status = 'failed' WHERE id = $1", tenant) }},
	} {
		c.prepare()
		_, err := w.ask(t, c.tenant, c.to)
		refused, ok := errors.AsType[*fault.Error](err)
		if !ok || refused.EffectiveCode() != code && (len(refused.Fields) == 0 || refused.Fields[0].Code != code) {
			t.Errorf("%s: %v", code, err)
		}
		set("b", "active", 50)
		w.Exec(t, "UPDATE control.tenants SET status = 'active' WHERE id = $1", tenant)
	}
	if n := fleettest.One[int](t, w.Pool, "SELECT count(*) FROM control.moves"); n != 0 {
		t.Errorf("%d moves were begun", n)
	}
	w.mustAsk(t, tenant, "b")
	if _, err := w.ask(t, tenant, "b"); !fault.Is(err, fault.KindConflict) {
		t.Errorf("a second move: %v", err)
	}
	// The one that is under way takes a place already.
	set("b", "active", 1)
	other := w.tenant(t, "globex")
	if _, err := w.ask(t, other, "b"); !fault.Is(err, fault.KindConflict) {
		t.Errorf("a move to the place of another: %v", err)
	}
}

// What the databases have against it fails the operation and leaves nothing.
func TestPreflight(t *testing.T) {
	t.Parallel()
	w := shared(t, testdb.System)
	for code, statements := range map[string][2]string{
		"no_replica_identity": {"CREATE TABLE public.loose (x int)", "DROP TABLE public.loose"},
		"large_objects":       {"SELECT lo_create(4711)", "SELECT lo_unlink(4711)"},
		"schema_version":      {"UPDATE ouvira.schema_migrations SET version = version - 1", "UPDATE ouvira.schema_migrations SET version = version + 1"},
		"schema_drift":        {"ALTER TABLE public.companies ADD COLUMN mine text", "ALTER TABLE public.companies DROP COLUMN mine"},
		"marker_foreign":      {"UPDATE ouvira.marker SET incarnation = 9", "UPDATE ouvira.marker SET incarnation = 1"},
	} {
		tenant := w.tenant(t, "acme-"+uuid.NewString()[:8])
		conn := inside(t, w.a, tenant, 1)
		if _, err := conn.Exec(t.Context(), statements[0]); err != nil {
			t.Fatal(err)
		}
		o := w.finish(t, w.runner, w.mustAsk(t, tenant, "b"), operation.Failed)
		if o.Error.Code != code || o.Error.NextAction == "" {
			t.Errorf("%s: %+v", code, o.Error)
		}
		if _, err := conn.Exec(t.Context(), statements[1]); err != nil {
			t.Fatal(err)
		}
		w.unmoved(t, tenant)
	}
}

// A server that cannot be replicated from, and one that was added before there were
// moves.
func TestPreflightOfServers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fleettest.OwnServer(t, testdb.System, map[string]string{"wal_level": "replica"}), tenantServer(t, testdb.System, "b"), move.Options{})
	tenant := w.tenant(t, "acme")
	if o := w.finish(t, w.runner, w.mustAsk(t, tenant, "b"), operation.Failed); o.Error.Code != "wal_level" {
		t.Errorf("%+v", o.Error)
	}
	w = shared(t, testdb.System)
	tenant = w.tenant(t, "acme")
	w.Exec(t, "UPDATE control.servers SET mover_credential = NULL WHERE name = 'a'")
	if o := w.finish(t, w.runner, w.mustAsk(t, tenant, "b"), operation.Failed); o.Error.Code != "not_prepared_for_moves" {
		t.Errorf("%+v", o.Error)
	}
}

// blockWhileHeld keeps marks from arriving in the target while requests wait: what
// applies them waits for this lock.
func (w *world) blockWhileHeld(t *testing.T, tenant uuid.UUID) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	look := testdb.Connect(t, w.URL)
	go func() {
		defer close(ended)
		var locker *pgx.Conn
		for ctx.Err() == nil {
			var held bool
			if err := look.QueryRow(ctx, "SELECT route_mode = 'hold' FROM control.tenants WHERE id = $1", tenant).Scan(&held); err != nil {
				return
			}
			switch {
			case held && locker == nil:
				var err error
				if locker, err = pgx.Connect(ctx, w.b.DatabaseURL(tenantdb.Name(tenant, 2))); err != nil {
					return
				}
				_, _ = locker.Exec(ctx, "BEGIN; LOCK TABLE ouvira.move_marks IN EXCLUSIVE MODE")
			case !held && locker != nil:
				_ = locker.Close(ctx)
				locker = nil
			}
		}
		if locker != nil {
			_ = locker.Close(context.Background())
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
}
