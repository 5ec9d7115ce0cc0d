package lifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
	"github.com/ouvira/ouvira/shared/testdb/pgserver"
)

// TestSec06 a suspended tenant's role is shut out, sessions that are open
// included, and let in again when the tenant is resumed. Its neighbour notices
// nothing.
func TestSec06SuspensionFencesTheRole(t *testing.T) {
	t.Parallel()
	fleettest.OnBoth(t, func(t *testing.T, version string) {
		w := newWorld(t, version)
		acme, globex := w.Tenant(t, "acme"), w.Tenant(t, "globex")
		open, neighbour := testdb.Connect(t, w.Login(t, acme)), testdb.Connect(t, w.Login(t, globex))
		w.suspend(t, acme)
		w.settle(t)
		w.fenced(t, acme, "suspended")
		if _, err := open.Exec(t.Context(), "SELECT 1"); err == nil {
			t.Error("a session that was open goes on")
		}
		if _, err := neighbour.Exec(t.Context(), "SELECT count(*) FROM public.users"); err != nil {
			t.Errorf("the neighbour: %v", err)
		}
		w.served(t, globex)
		if _, err := w.tenants.Resume(t.Context(), ada, acme); err != nil {
			t.Fatal(err)
		}
		w.served(t, acme)
		w.settle(t) // what is left of the suspension changes nothing
		w.served(t, acme)
	})
}

// A fence is put on while sixteen clients storm the role: none is in afterwards,
// and nothing is written later.
func TestTheFenceHoldsAgainstAStorm(t *testing.T) {
	t.Parallel()
	fleettest.OnBoth(t, func(t *testing.T, version string) {
		w := newWorld(t, version)
		id := w.Tenant(t, "acme")
		config, err := pgx.ParseConfig(w.Login(t, id))
		if err != nil {
			t.Fatal(err)
		}
		storming, calm := context.WithCancel(context.Background())
		defer calm()
		var clients sync.WaitGroup
		var mu sync.Mutex
		wrote := 0
		for range 16 {
			clients.Go(func() {
				for storming.Err() == nil {
					conn, err := pgx.ConnectConfig(storming, config)
					if err != nil {
						continue
					}
					for storming.Err() == nil {
						if _, err := conn.Exec(storming, "UPDATE public.users SET full_name = full_name || 'x'"); err != nil {
							break
						}
						mu.Lock()
						wrote++
						mu.Unlock()
					}
					_ = conn.Close(context.Background())
				}
			})
		}
		until(t, "a write", func() bool { mu.Lock(); defer mu.Unlock(); return wrote > 0 })
		w.suspend(t, id)
		w.settle(t)
		database := testdb.Connect(t, w.server.DatabaseURL(tenantdb.Name(id, 1)))
		name := fleettest.One[string](t, database, "SELECT full_name FROM public.users")
		w.fenced(t, id, "suspended")
		mu.Lock()
		before := wrote
		mu.Unlock()
		if later := fleettest.One[string](t, database, "SELECT full_name FROM public.users"); later != name {
			t.Error("something was written after the fence")
		}
		calm()
		clients.Wait()
		if wrote != before {
			t.Errorf("%d writes were acknowledged after the fence", wrote-before)
		}
	})
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-deadline.C:
			t.Fatalf("waited in vain for %s", what)
		case <-tick.C:
		}
	}
}

// Operators suspend and resume the same tenant while several workers put fences
// on, in any order. Whatever comes out: the status and the fence agree.
func TestSuspensionsAndResumptionsRace(t *testing.T) {
	t.Parallel()
	fleettest.OnBoth(t, func(t *testing.T, version string) {
		w := newWorld(t, version)
		id := w.Tenant(t, "acme")
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		racing, stop := context.WithCancel(context.Background())
		defer stop()
		var workers, operators sync.WaitGroup
		for range 3 {
			workers.Go(func() {
				for racing.Err() == nil {
					rows, err := w.Pool.Query(context.Background(), "SELECT id FROM control.operations WHERE status IN ('queued', 'running') ORDER BY random()")
					if err != nil {
						t.Error(err)
						return
					}
					ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
					if err != nil {
						t.Error(err)
						return
					}
					for _, op := range ids {
						if err := w.runner.Run(context.Background(), op); err != nil {
							t.Error(err)
						}
					}
				}
			})
		}
		for n := range 4 {
			random := rand.New(rand.NewPCG(seed, uint64(n)))
			operators.Go(func() {
				for range 12 {
					var err error
					if random.IntN(2) == 0 {
						_, err = w.tenants.Suspend(context.Background(), ada, id, "unpaid")
					} else {
						_, err = w.tenants.Resume(context.Background(), ada, id)
					}
					if err != nil && !fault.Is(err, fault.KindConflict) && !fault.Is(err, fault.KindUnavailable) {
						t.Errorf("an operator hears %v", err)
					}
				}
			})
		}
		operators.Wait()
		stop()
		workers.Wait()
		if err := w.life.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.settle(t)
		if w.row(t, id).Status == "active" {
			w.served(t, id)
			w.suspend(t, id)
			w.settle(t)
		}
		w.fenced(t, id, "suspended")
		if _, err := w.tenants.Resume(t.Context(), ada, id); err != nil {
			t.Fatal(err)
		}
		w.served(t, id)
	})
}

// hold keeps the role from being changed, as a slow server would, until the
// returned function is called.
func (w *world) hold(t *testing.T, id uuid.UUID) (release func()) {
	t.Helper()
	conn := testdb.Connect(t, w.server.URL())
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "ALTER ROLE "+tenantdb.Name(id, 1)+" VALID UNTIL 'infinity'"); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := tx.Rollback(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

// held waits until somebody waits for what hold keeps.
func (w *world) held(t *testing.T, id uuid.UUID) {
	t.Helper()
	until(t, "somebody who waits for the role", func() bool {
		return fleettest.One[int](t, w.admin, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%' || $1 || '%' AND pid <> pg_backend_pid()",
			tenantdb.Name(id, 1)) > 0
	})
}

// A suspension that is asked for while a resumption is under way wins.
func TestASuspensionDuringAResumptionWins(t *testing.T) {
	t.Parallel()
	fleettest.OnBoth(t, func(t *testing.T, version string) {
		w := newWorld(t, version)
		id := w.Tenant(t, "acme")
		w.suspend(t, id)
		w.settle(t)
		release := w.hold(t, id)
		resumed, suspended := make(chan error, 1), make(chan error, 1)
		go func() { _, err := w.tenants.Resume(context.Background(), ada, id); resumed <- err }()
		w.held(t, id)
		go func() { _, err := w.tenants.Suspend(context.Background(), ada, id, "again"); suspended <- err }()
		w.waits(t)
		release()
		if err := <-resumed; err != nil {
			t.Errorf("the resumption: %v", err)
		}
		if err := <-suspended; err != nil {
			t.Errorf("the suspension: %v", err)
		}
		w.settle(t)
		w.fenced(t, id, "suspended")
	})
}

// A resumption waits for the fence that is just being put on: had it been served in
// between, the fence would shut out a tenant that is active.
func TestAResumptionWaitsForTheFence(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testdb.System)
	id := w.Tenant(t, "acme")
	w.suspend(t, id)
	op := w.latest(t, id)
	release := w.hold(t, id)
	fenced, resumed := make(chan error, 1), make(chan error, 1)
	go func() { fenced <- w.runner.Run(context.Background(), op) }()
	w.held(t, id)
	go func() { _, err := w.tenants.Resume(context.Background(), ada, id); resumed <- err }()
	w.waits(t)
	release()
	for _, ended := range []chan error{fenced, resumed} {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if o := w.Get(t, op); o.Status != operation.Succeeded {
		t.Errorf("the fence was disturbed: %s %+v", o.Status, o.Error)
	}
	w.settle(t)
	w.served(t, id)
}

// waits waits until somebody waits for a row of the control database.
func (w *world) waits(t *testing.T) {
	t.Helper()
	superuser := testdb.Connect(t, w.SuperuserURL)
	until(t, "somebody who waits for the row", func() bool {
		return fleettest.One[int](t, superuser, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%control.tenants%'") > 0
	})
}

// A resumption loses its lock while it is at work on the server, as it does when
// its process stands still: who has the lock now ends its session there, and it
// changes nothing any more.
func TestAStalledResumptionChangesNothing(t *testing.T) {
	t.Parallel()
	fleettest.OnBoth(t, func(t *testing.T, version string) {
		w := newWorld(t, version)
		id := w.Tenant(t, "acme")
		w.suspend(t, id)
		w.settle(t)
		release := w.hold(t, id)
		resumed := make(chan error, 1)
		go func() { _, err := w.tenants.Resume(context.Background(), ada, id); resumed <- err }()
		w.held(t, id)
		superuser := testdb.Connect(t, w.SuperuserURL)
		if n := fleettest.One[int](t, superuser, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'"); n == 0 {
			t.Fatal("nobody holds the row")
		}
		until(t, "the row to be free and the fence to be asked for", func() bool {
			if err := w.life.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			return fleettest.One[int](t, w.Pool, "SELECT count(*) FROM control.operations WHERE status = 'queued'") == 1
		})
		fenced := make(chan struct{})
		go func() { defer close(fenced); w.settle(t) }()
		if err := <-resumed; err == nil {
			t.Error("the resumption says that it succeeded")
		}
		release()
		<-fenced
		w.fenced(t, id, "suspended")
	})
}

// While the server is away nobody can be resumed, and the caller hears what to do.
// What the attempt has left is put right by the sweep.
func TestResumingWithoutTheServer(t *testing.T) {
	t.Parallel()
	own := testdb.Server(t, testdb.System)
	w := furnish(t, fleettest.New(t), &fleettest.Prepared{Server: own, ProvisionerURL: own.URL()})
	id := w.Tenant(t, "acme")
	w.suspend(t, id)
	w.settle(t)
	stopped(t, own)
	_, err := w.tenants.Resume(t.Context(), ada, id)
	refused, ok := errors.AsType[*fault.Error](err)
	if !ok || refused.Kind != fault.KindUnavailable || !strings.Contains(refused.Message, "stays suspended") || !strings.Contains(refused.Message, "Server a") {
		t.Fatalf("resumed without a server: %v", err)
	}
	if r := w.row(t, id); r.Status != "suspended" || r.Fence != "" {
		t.Errorf("%+v", r)
	}
	if err := w.life.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	op := fleettest.One[uuid.UUID](t, w.Pool, "SELECT id FROM control.operations WHERE status = 'queued' AND kind = 'tenant.fence'")
	if o := w.Run(t, w.runner, op); o.Status != operation.Queued || o.Error == nil || o.Error.Code != "server_unreachable" {
		t.Errorf("%s %+v", o.Status, o.Error)
	}
	if err := own.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.MustRun(t, w.runner, op)
	w.fenced(t, id, "suspended")
	if _, err := w.tenants.Resume(t.Context(), ada, id); err != nil {
		t.Fatal(err)
	}
	w.served(t, id)
}

func stopped(t *testing.T, s *pgserver.Server) {
	t.Helper()
	if err := s.StopImmediate(); err != nil {
		t.Fatal(err)
	}
}

// While an operation has a fence of its own, a move say, nobody is resumed, and the
// caller hears whose it is.
func TestNobodyIsResumedWhileTheDatabaseIsWorkedOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testdb.System)
	id := w.Tenant(t, "acme")
	w.suspend(t, id)
	w.settle(t)
	_, err := pg.InTxValue(t.Context(), w.Pool, func(tx pgx.Tx) (uuid.UUID, error) {
		return w.Store.Enqueue(t.Context(), tx, operation.Spec{Kind: "tenant.move", TenantID: id, Steps: []string{"copy"}, CreatedBy: "operator:bob", Exclusive: true})
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.tenants.Resume(t.Context(), ada, id); !fault.Is(err, fault.KindConflict) || !strings.Contains(err.Error(), "tenant.move, started by operator:bob") {
		t.Errorf("resumed during a move: %v", err)
	}
	w.fenced(t, id, "suspended")
}

// A tenant is suspended while another operation has a fence of its own, which it takes
// away when it gives up: the suspension has the last word.
func TestASuspensionOutlastsTheFencesOfOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testdb.System)
	id := w.Tenant(t, "acme")
	_, err := pg.InTxValue(t.Context(), w.Pool, func(tx pgx.Tx) (uuid.UUID, error) {
		return w.Store.Enqueue(t.Context(), tx, operation.Spec{Kind: "tenant.move", TenantID: id, Steps: []string{"copy"}, CreatedBy: "operator:bob", Exclusive: true})
	})
	if err != nil {
		t.Fatal(err)
	}
	w.suspend(t, id)
	op := w.latest(t, id)
	for range 2 {
		if o := w.Run(t, w.runner, op); o.Status != operation.Queued || o.Error == nil || o.Error.Code != "operation_at_work" {
			t.Fatalf("%s %+v", o.Status, o.Error)
		}
		w.fenced(t, id, "suspended")
	}
	name := tenantdb.Name(id, 1)
	exec(t, w.admin, "GRANT ouvira_app TO "+name+" GRANTED BY ouvira_provisioner")
	exec(t, w.admin, "ALTER ROLE "+name+" LOGIN CONNECTION LIMIT 10")
	exec(t, w.Pool, "UPDATE control.operations SET status = 'failed' WHERE kind = 'tenant.move'")
	w.MustRun(t, w.runner, op)
	w.fenced(t, id, "suspended")
}

// What suspends a tenant that was moved since, or in an earlier release, is fenced
// where it is now; what an operation works on is left alone until its end.
func TestTheSweepFencesWhatIsNot(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testdb.System)
	id, busy, served := w.Tenant(t, "acme"), w.Tenant(t, "globex"), w.Tenant(t, "initech")
	for _, tenant := range []uuid.UUID{id, busy} {
		exec(t, w.Pool, "UPDATE control.tenants SET status = 'suspended' WHERE id = $1", tenant)
	}
	_, err := pg.InTxValue(t.Context(), w.Pool, func(tx pgx.Tx) (uuid.UUID, error) {
		return w.Store.Enqueue(t.Context(), tx, operation.Spec{Kind: "tenant.move", TenantID: busy, Steps: []string{"copy"}, CreatedBy: "operator:bob", Exclusive: true})
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := w.life.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := fleettest.One[int](t, w.Pool, "SELECT count(*) FROM control.operations WHERE kind = 'tenant.fence'"); n != 1 {
		t.Errorf("%d fences were asked for", n)
	}
	exec(t, w.Pool, "UPDATE control.operations SET status = 'succeeded' WHERE kind = 'tenant.move'")
	if err := w.life.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.settle(t)
	w.fenced(t, id, "suspended")
	w.fenced(t, busy, "suspended")
	w.served(t, served)
	if err := w.life.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := fleettest.One[int](t, w.Pool, "SELECT count(*) FROM control.operations WHERE status = 'queued'"); n != 0 {
		t.Errorf("a sound fleet has %d fences asked for", n)
	}
}

func exec(t *testing.T, q pg.Querier, sql string, args ...any) {
	t.Helper()
	if _, err := q.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// A role whose rights somebody else has granted too is not fenced, and that is
// said; it is not asked for again at once.
func TestAFenceThatStaysOpenIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testdb.PG18) // where memberships have grantors
	id := w.Tenant(t, "acme")
	name := tenantdb.Name(id, 1)
	exec(t, w.admin, "GRANT ouvira_app TO "+name)
	w.suspend(t, id)
	op := fleettest.One[uuid.UUID](t, w.Pool, "SELECT id FROM control.operations WHERE kind = 'tenant.fence'")
	o := w.Run(t, w.runner, op)
	if o.Status != operation.Failed || o.Error.Code != "fence_open" || !strings.Contains(o.Error.NextAction, name) {
		t.Errorf("%s %+v", o.Status, o.Error)
	}
	if err := w.life.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := fleettest.One[int](t, w.Pool, "SELECT count(*) FROM control.operations WHERE status = 'queued'"); n != 0 {
		t.Error("it is asked for again at once")
	}
	exec(t, w.admin, fmt.Sprintf("REVOKE ouvira_app FROM %s", name))
	exec(t, w.Pool, "UPDATE control.operations SET finished_at = now() - interval '11 minutes' WHERE id = $1", op)
	if err := w.life.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.settle(t)
	w.fenced(t, id, "suspended")
}
