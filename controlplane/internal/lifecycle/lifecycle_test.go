package lifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/lifecycle"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/testdb"
)

// passage is one operation on a tenant: what it begins with and how it ends.
type passage struct {
	kind  string
	from  func(t *testing.T, w *world, slug string) uuid.UUID
	start func(t *testing.T, w *world, id uuid.UUID) (op uuid.UUID)
	ended func(t *testing.T, w *world, id uuid.UUID)
}

var passages = []passage{
	{
		kind:  lifecycle.KindFence,
		from:  func(t *testing.T, w *world, slug string) uuid.UUID { return w.Tenant(t, slug) },
		start: func(t *testing.T, w *world, id uuid.UUID) uuid.UUID { w.suspend(t, id); return w.latest(t, id) },
		ended: func(t *testing.T, w *world, id uuid.UUID) { w.fenced(t, id, "suspended") },
	},
	{
		kind:  lifecycle.KindDelete,
		from:  func(t *testing.T, w *world, slug string) uuid.UUID { return w.Tenant(t, slug) },
		start: func(t *testing.T, w *world, id uuid.UUID) uuid.UUID { return w.delete(t, id) },
		ended: func(t *testing.T, w *world, id uuid.UUID) {
			w.fenced(t, id, "deleted")
			if r := w.row(t, id); r.Routed || r.Purge == nil || r.Before != "active" || !r.Kept {
				t.Errorf("%+v", r)
			}
			w.told(t, id, "tenant.deleted", "tenant.deleted", 1)
		},
	},
	{
		kind: lifecycle.KindUndelete,
		from: func(t *testing.T, w *world, slug string) uuid.UUID { return w.deleted(t, slug) },
		start: func(t *testing.T, w *world, id uuid.UUID) uuid.UUID {
			op, err := w.tenants.Undelete(t.Context(), ada, id)
			if err != nil {
				t.Fatalf("undelete: %v", err)
			}
			return op
		},
		ended: func(t *testing.T, w *world, id uuid.UUID) {
			w.served(t, id)
			w.told(t, id, "tenant.undeleted", "tenant.undeleted", 1)
		},
	},
	{
		kind: lifecycle.KindPurge,
		from: func(t *testing.T, w *world, slug string) uuid.UUID { return w.deleted(t, slug) },
		start: func(t *testing.T, w *world, id uuid.UUID) uuid.UUID {
			op, err := w.tenants.Purge(t.Context(), ada, id, "")
			if err != nil {
				t.Fatalf("purge: %v", err)
			}
			return op
		},
		ended: func(t *testing.T, w *world, id uuid.UUID) { w.purged(t, id) },
	},
}

// latest is the operation that was asked for last.
func (w *world) latest(t *testing.T, id uuid.UUID) uuid.UUID {
	t.Helper()
	return fleettest.One[uuid.UUID](t, w.Pool, "SELECT id FROM control.operations WHERE tenant_id = $1 ORDER BY id DESC LIMIT 1", id)
}

// purged expects that nothing is left but the name.
func (w *world) purged(t *testing.T, id uuid.UUID) {
	t.Helper()
	if r := w.row(t, id); r.Status != "purged" || r.Routed || r.Kept || r.Fence != "" || r.Before != "" || r.Purge != nil {
		t.Errorf("%+v", r)
	}
	if n := w.objects(t, id); n != 0 {
		t.Errorf("%d objects are left on the server", n)
	}
	w.told(t, id, "tenant.purged", "tenant.purged", 1)
}

// objects counts the databases and roles of the tenant.
func (w *world) objects(t *testing.T, id uuid.UUID) int {
	t.Helper()
	names := []string{tenantdb.Name(id, 1), tenantdb.Name(id, 2)}
	return fleettest.One[int](t, w.admin, "SELECT (SELECT count(*) FROM pg_database WHERE datname = ANY ($1)) + (SELECT count(*) FROM pg_roles WHERE rolname = ANY ($1))", names)
}

// spied runs the real steps of all kinds under the spy's eyes.
func (w *world) spied(s *fleettest.Spy) *operation.Runner {
	s.Handler = w.life
	handlers := map[string]operation.Handler{}
	for kind := range w.life.Handlers() {
		handlers[kind] = s
	}
	return w.Runner(handlers)
}

// each runs the test for each of the operations, on both versions.
func each(t *testing.T, test func(t *testing.T, w *world, p passage)) {
	t.Helper()
	fleettest.OnBoth(t, func(t *testing.T, version string) {
		w := newWorld(t, version)
		for _, p := range passages {
			test(t, w, p)
		}
	})
}

func TestEachStepTwice(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world, p passage) {
		id := p.from(t, w, "twice-"+p.kind[len("tenant."):])
		w.MustRun(t, w.spied(&fleettest.Spy{Twice: true}), p.start(t, w, id))
		p.ended(t, w, id)
	})
}

// TestDiesAfterEachStep kills a run after the work of each step and before it is
// recorded; the next one goes on from there.
func TestDiesAfterEachStep(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world, p passage) {
		for i, step := range lifecycle.Steps(p.kind) {
			id := p.from(t, w, fmt.Sprintf("dies-%s-%d", p.kind[len("tenant."):], i))
			op := p.start(t, w, id)
			dying := w.spied(&fleettest.Spy{After: func(ctx context.Context, name string) error {
				if name == step {
					return fleettest.Die(ctx, name)
				}
				return nil
			}})
			if o := w.Run(t, dying, op); o.Status != operation.Running {
				t.Fatalf("%s: the dead run left the operation %s", step, o.Status)
			}
			w.Bury(t, op)
			w.MustRun(t, w.runner, op)
			p.ended(t, w, id)
		}
	})
}

// TestStalledRunChangesNothing lets a run sleep before a step until another has
// taken over and finished; what it does then has no effect.
func TestStalledRunChangesNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world, p passage) {
		for i, step := range lifecycle.Steps(p.kind) {
			id := p.from(t, w, fmt.Sprintf("stalls-%s-%d", p.kind[len("tenant."):], i))
			op := p.start(t, w, id)
			asleep, wake := make(chan struct{}), make(chan struct{})
			stalled := w.spied(&fleettest.Spy{Before: func(_ context.Context, name string) error {
				if name == step {
					close(asleep)
					<-wake
				}
				return nil
			}})
			ended := make(chan error, 1)
			go func() { ended <- stalled.Run(context.Background(), op) }()
			<-asleep
			w.Bury(t, op)
			w.MustRun(t, w.runner, op)
			close(wake)
			if err := <-ended; err != nil {
				t.Fatalf("%s: the stalled run: %v", step, err)
			}
			if o := w.Get(t, op); o.Status != operation.Succeeded {
				t.Errorf("%s: the operation is %s", step, o.Status)
			}
			p.ended(t, w, id)
		}
	})
}

// A tenant that was suspended before it was deleted is suspended when it comes
// back, and fenced all the time.
func TestUndeletedToWhatItWas(t *testing.T) {
	t.Parallel()
	fleettest.OnBoth(t, func(t *testing.T, version string) {
		w := newWorld(t, version)
		id := w.Tenant(t, "acme")
		exec(t, w.Pool, `INSERT INTO control.domains (id, tenant_id, hostname, status, challenge) VALUES (gen_random_uuid(), $1, 'app.acme.example', 'verified', 'x')`, id)
		w.suspend(t, id)
		w.settle(t)
		w.MustRun(t, w.runner, w.delete(t, id))
		w.fenced(t, id, "deleted")
		op, err := w.tenants.Undelete(t.Context(), ada, id)
		if err != nil {
			t.Fatal(err)
		}
		w.MustRun(t, w.runner, op)
		w.settle(t)
		w.fenced(t, id, "suspended")
		if r := w.row(t, id); !r.Routed || r.Purge != nil || r.Before != "" {
			t.Errorf("%+v", r)
		}
		if hosts := fleettest.One[[]string](t, w.Pool, "SELECT hosts FROM node.routes_v1 WHERE tenant_id = $1", id); len(hosts) != 1 {
			t.Errorf("hosts %v", hosts)
		}
		if _, err := w.tenants.Resume(t.Context(), ada, id); err != nil {
			t.Fatal(err)
		}
		w.served(t, id)
	})
}

// A deletion whose backup cannot be made leaves the tenant as it was.
func TestADeletionThatFailsChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testdb.System)
	active, suspended := w.Tenant(t, "acme"), w.Tenant(t, "globex")
	w.suspend(t, suspended)
	w.settle(t)
	w.backups.fails = operation.Fail("storage_refused", "The storage refuses the backup.", "Give it room.")
	for _, id := range []uuid.UUID{active, suspended} {
		op := w.delete(t, id)
		if r := w.row(t, id); r.Status != "deleted" || r.Routed {
			t.Errorf("%+v", r)
		}
		if o := w.Run(t, w.runner, op); o.Status != operation.Failed || o.Error.Code != "storage_refused" {
			t.Errorf("%s %+v", o.Status, o.Error)
		}
		w.told(t, id, "tenant.deleted", "tenant.deleted", 0)
		w.told(t, id, "operation.failed", "tenant.delete_failed", 1)
	}
	w.settle(t)
	w.served(t, active)
	w.fenced(t, suspended, "suspended")

	// Without any backups nothing is deleted either.
	none := lifecycle.NewService(w.Pool, w.Store, w.Servers, w.Log, lifecycle.Options{})
	if o := w.Run(t, w.Runner(none.Handlers()), w.delete(t, active)); o.Status != operation.Failed || o.Error.Code != "no_backups" {
		t.Errorf("%s %+v", o.Status, o.Error)
	}
	w.settle(t)
	w.served(t, active)
}

// A tenant that could never be made has nothing to fence, to back up or to drop.
func TestDeletingATenantThatFailed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testdb.System)
	id, op := w.Ask(t, "acme", provision.Params{Server: "nowhere"})
	if o := w.Run(t, w.Runner(map[string]operation.Handler{provision.Kind: w.Provision}), op); o.Status != operation.Failed {
		t.Fatal(o.Status)
	}
	w.MustRun(t, w.runner, w.delete(t, id))
	if r := w.row(t, id); r.Status != "deleted" || r.Before != "failed" || r.Purge == nil {
		t.Errorf("%+v", r)
	}
	undelete, err := w.tenants.Undelete(t.Context(), ada, id)
	if err != nil {
		t.Fatal(err)
	}
	w.MustRun(t, w.runner, undelete)
	if r := w.row(t, id); r.Status != "failed" || r.Routed {
		t.Errorf("%+v", r)
	}
	w.MustRun(t, w.runner, w.delete(t, id))
	purge, err := w.tenants.Purge(t.Context(), ada, id, "acme")
	if err != nil {
		t.Fatal(err)
	}
	w.MustRun(t, w.runner, purge)
	w.purged(t, id)
}

// TestSec56 a deleted tenant is kept, whole, until its grace is over. Then it is
// purged, a few at a time, and cannot come back.
func TestSec56TheGraceOfADeletedTenant(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testdb.System)
	ids := []uuid.UUID{w.deleted(t, "acme"), w.deleted(t, "globex"), w.deleted(t, "initech")}
	if days := fleettest.One[float64](t, w.Pool, "SELECT extract(epoch FROM purge_at - now()) / 86400 FROM control.tenants WHERE id = $1", ids[0]); days < 29.9 || days > 30 {
		t.Errorf("the grace lasts %v days", days)
	}
	sweep := func(want int) {
		t.Helper()
		if err := w.life.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := fleettest.One[int](t, w.Pool, "SELECT count(*) FROM control.operations WHERE status = 'queued' AND kind = 'tenant.purge'"); n != want {
			t.Fatalf("%d purges are asked for, want %d", n, want)
		}
	}
	sweep(0)
	if n := w.objects(t, ids[0]); n != 2 {
		t.Errorf("%d objects of a deleted tenant", n)
	}
	exec(t, w.Pool, "UPDATE control.tenants SET purge_at = now() - interval '1 second'")
	_, err := w.tenants.Undelete(t.Context(), ada, ids[0])
	if refused, ok := errors.AsType[*fault.Error](err); !ok || refused.EffectiveCode() != "grace_over" {
		t.Errorf("undeleted after the grace: %v", err)
	}
	sweep(2)
	sweep(2)
	w.settle(t)
	sweep(1)
	w.settle(t)
	for _, id := range ids {
		w.purged(t, id)
	}
	sweep(0)
	if err := w.life.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.tenants.Undelete(t.Context(), ada, ids[0]); !fault.Is(err, fault.KindConflict) || !strings.Contains(err.Error(), "purged") {
		t.Errorf("undeleted after the purge: %v", err)
	}
	if available, err := w.tenants.Available(t.Context(), "acme"); err != nil || available {
		t.Errorf("the slug is given out again: %v %v", available, err)
	}
}

// What replicates from or into a database does not keep it from being purged, and
// the database of an earlier incarnation goes with it. Domains are free again.
func TestPurgingTakesEverything(t *testing.T) {
	t.Parallel()
	for _, version := range testdb.Versions {
		t.Run("postgres="+version, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, version)
			id := w.Tenant(t, "acme")
			first, second := tenantdb.Name(id, 1), tenantdb.Database{Tenant: id, Incarnation: 2}
			exec(t, w.Pool, `INSERT INTO control.domains (id, tenant_id, hostname, status, challenge) VALUES (gen_random_uuid(), $1, 'app.acme.example', 'verified', 'x')`, id)
			// As a restore in place leaves it: the next incarnation is served.
			exec(t, w.admin, "CREATE DATABASE "+second.Name()+" OWNER ouvira_owner TEMPLATE "+first)
			exec(t, w.admin, "COMMENT ON DATABASE "+second.Name()+" IS '"+second.Mark()+"'")
			exec(t, w.admin, "SET ROLE ouvira_provisioner")
			exec(t, w.admin, "CREATE ROLE "+second.Name()+" LOGIN CONNECTION LIMIT 10")
			exec(t, w.admin, "RESET ROLE")
			exec(t, w.Pool, "UPDATE control.tenants SET incarnation = 2, database_name = $2 WHERE id = $1", id, second.Name())
			inside := testdb.Connect(t, w.server.DatabaseURL(second.Name()))
			exec(t, inside, "CREATE SUBSCRIPTION left_over CONNECTION 'host=127.0.0.1 dbname=nowhere' PUBLICATION p WITH (connect = false)")
			w.MustRun(t, w.runner, w.delete(t, id))
			purge := func() *operation.Operation {
				op, err := w.tenants.Purge(t.Context(), ada, id, "")
				if err != nil {
					t.Fatal(err)
				}
				return w.Run(t, w.runner, op)
			}
			// It is a superuser's, and the provisioner says so.
			if o := purge(); o.Status != operation.Failed || o.Error.Code != "subscription_left" {
				t.Fatalf("%s %+v", o.Status, o.Error)
			}
			if r := w.row(t, id); r.Status != "deleted" || r.Purge == nil {
				t.Errorf("%+v", r)
			}
			if version == testdb.System { // only a superuser owns one there
				exec(t, inside, "ALTER SUBSCRIPTION left_over SET (slot_name = NONE)")
				exec(t, inside, "DROP SUBSCRIPTION left_over")
			} else {
				exec(t, w.admin, "GRANT pg_create_subscription TO ouvira_provisioner")
				exec(t, w.admin, "GRANT CREATE ON DATABASE "+second.Name()+" TO ouvira_provisioner")
				exec(t, inside, "ALTER SUBSCRIPTION left_over SET (password_required = false)")
				exec(t, inside, "ALTER SUBSCRIPTION left_over OWNER TO ouvira_provisioner")
				exec(t, inside, "ALTER SUBSCRIPTION left_over SET (password_required = true)")
			}
			o := purge()
			if o.Status != operation.Queued || o.Error.Code != "superuser_connected" {
				t.Fatalf("%s %+v", o.Status, o.Error)
			}
			if err := inside.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.MustRun(t, w.runner, o.ID)
			w.purged(t, id)
			if n := fleettest.One[int](t, w.Pool, "SELECT count(*) FROM control.domains"); n != 0 {
				t.Errorf("%d domains are still taken", n)
			}
		})
	}
}

// Two operators want opposite things of one tenant: one of them wins, the other is
// told who it was.
func TestTwoOperatorsRace(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testdb.System)
	id := w.deleted(t, "acme")
	undelete := func(done chan<- error) {
		_, err := w.tenants.Undelete(context.Background(), ada, id)
		done <- err
	}
	purge := func(done chan<- error) {
		_, err := w.tenants.Purge(context.Background(), ada, id, "")
		done <- err
	}
	done := make(chan error, 4)
	for _, ask := range []func(chan<- error){undelete, purge, undelete, purge} {
		go ask(done)
	}
	won := 0
	for range 4 {
		err := <-done
		refused, ok := errors.AsType[*fault.Error](err)
		switch {
		case err == nil:
			won++
		case !ok || refused.EffectiveCode() != "operation_in_progress" || !strings.Contains(refused.Message, "started by cli:ada"):
			t.Errorf("the loser hears %v", err)
		}
	}
	if won != 1 {
		t.Errorf("%d won", won)
	}
	_, err := w.tenants.Suspend(t.Context(), ada, id, "unpaid")
	if refused, ok := errors.AsType[*fault.Error](err); !ok || refused.EffectiveCode() != "tenant_deleted" || !strings.Contains(refused.Message, "started by cli:ada") || !strings.Contains(refused.Message, "Allowed now") {
		t.Errorf("suspending what is deleted: %v", err)
	}
	w.settle(t)
	if r := w.row(t, id); r.Status != "active" && r.Status != "purged" {
		t.Errorf("%+v", r)
	}
}
