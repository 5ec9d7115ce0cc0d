package provision_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
)

var keeper = &audit.Actor{Kind: audit.KindOperator, ID: "1", Name: "keeper@ouvira.example"}

// pool asks for so many ready databases on server a and has them made.
func (w *world) pool(t *testing.T, size int) {
	t.Helper()
	if err := w.Provision.SetTarget(t.Context(), keeper, "a", "standard", size); err != nil {
		t.Fatal(err)
	}
	w.settle(t)
}

// settle fills the pool and runs what that asks for, until nothing is left to do.
func (w *world) settle(t *testing.T) {
	t.Helper()
	for range 20 {
		if err := w.Provision.Fill(t.Context()); err != nil {
			t.Fatal(err)
		}
		waiting := w.queued(t)
		if len(waiting) == 0 {
			return
		}
		for _, id := range waiting {
			if o := w.run(t, id); !o.Status.Finished() {
				t.Fatalf("%s %s: %+v", o.Kind, o.Status, o.Error)
			}
		}
	}
	t.Fatal("the warm pool does not come to rest")
}

func (w *world) queued(t *testing.T) []uuid.UUID {
	t.Helper()
	rows, err := w.Pool.Query(t.Context(), "SELECT id FROM control.operations WHERE kind LIKE 'warm.%' AND status IN ('queued', 'running')")
	if err != nil {
		t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func (w *world) target(t *testing.T) provision.Target {
	t.Helper()
	targets, err := w.Provision.Targets(t.Context())
	if err != nil || len(targets) != 1 {
		t.Fatalf("%+v, %v", targets, err)
	}
	return targets[0]
}

func (w *world) standard(t *testing.T) uuid.UUID {
	t.Helper()
	return fleettest.One[uuid.UUID](t, w.Pool, "SELECT id FROM control.plans WHERE code = 'standard'")
}

// claim makes a tenant of an entry, if there is one, as a sign-up does.
func (w *world) claim(ctx context.Context, plan uuid.UUID, slug string) (tenant, op uuid.UUID, ok bool, err error) {
	err = pg.InTx(ctx, w.Pool, func(tx pgx.Tx) error {
		c, found, err := w.Provision.Claim(ctx, tx, plan, "")
		if err != nil || !found {
			return err
		}
		_, err = tx.Exec(ctx, `
			INSERT INTO control.tenants (id, slug, name, status, plan_id, server_id, database_name, credential, schema_version)
			VALUES ($1, $2, $2, 'provisioning', $3, $4, $5, $6, $7)`, c.ID, slug, plan, c.Server, c.Database, c.Credential, c.SchemaVersion)
		if err != nil {
			return err
		}
		tenant, ok = c.ID, true
		op, err = w.Provision.Start(ctx, tx, c.ID, provision.Params{Owner: &provision.Owner{Email: "ada@acme.example", FullName: "Ada Lovelace"}}, "operator:test")
		return err
	})
	return tenant, op, ok, err
}

func TestWarmPool(t *testing.T) {
	t.Parallel()
	fleettest.OnBoth(t, func(t *testing.T, version string) {
		w := newWorld(t)
		pgServer := fleettest.TenantServer(t, version)
		a := w.AddServer(t, "a", pgServer.ProvisionerURL, 4)
		w.pool(t, 3)
		if got := w.target(t); got.Ready != 3 || got.Making != 0 || got.Outdated != 0 {
			t.Fatalf("%+v", got)
		}
		if s, err := w.Servers.Get(t.Context(), a.ID); err != nil || s.Databases != 3 || s.Free != 1 {
			t.Errorf("the server says %d used, %d free, %v: entries take room", s.Databases, s.Free, err)
		}
		plan := w.standard(t)

		// A sign-up that comes to nothing gives its database back.
		err := pg.InTx(t.Context(), w.Pool, func(tx pgx.Tx) error {
			if _, ok, err := w.Provision.Claim(t.Context(), tx, plan, "a"); err != nil || !ok {
				t.Errorf("nothing to claim: %v", err)
			}
			return errors.New("changed my mind")
		})
		if err == nil || w.target(t).Ready != 3 {
			t.Error("an entry is lost with the sign-up that did not take it")
		}

		// Nobody gets what another one got.
		tenants := map[uuid.UUID]uuid.UUID{}
		var mu sync.Mutex
		var claiming sync.WaitGroup
		for _, slug := range []string{"acme", "globex", "initech", "umbrella"} {
			claiming.Go(func() {
				tenant, op, ok, err := w.claim(context.WithoutCancel(t.Context()), plan, slug)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Error(err)
				} else if ok {
					tenants[tenant] = op
				}
			})
		}
		claiming.Wait()
		if len(tenants) != 3 {
			t.Fatalf("%d tenants have a database out of a pool of three", len(tenants))
		}
		admin := testdb.Connect(t, pgServer.URL())
		for tenant, op := range tenants {
			w.mustRun(t, op)
			if steps := w.Get(t, op).Steps; len(steps) != 2 {
				t.Errorf("%d steps for a tenant out of the pool", len(steps))
			}
			w.checkTenant(t, admin, tenant)
		}
		w.settle(t)
		if got := w.target(t); got.Ready != 1 {
			t.Errorf("%d are ready again: there is room for one", got.Ready)
		}
	})
}

// What was made by other migrations, or for the plan as it was, is handed out to
// nobody and replaced.
func TestWarmPoolIsNeverStale(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pgServer := fleettest.TenantServer(t, testdb.Versions[0])
	w.AddServer(t, "a", pgServer.ProvisionerURL, 100)
	admin := testdb.Connect(t, pgServer.URL())
	plan := w.standard(t)
	w.pool(t, 1)
	for what, change := range map[string]string{
		"older schema": "UPDATE control.warm_databases SET fingerprint = 'before', schema_version = schema_version - 1",
		"other plan":   "UPDATE control.plans SET max_connections = max_connections + 1",
	} {
		old := fleettest.One[uuid.UUID](t, w.Pool, "SELECT id FROM control.warm_databases")
		if _, err := w.Pool.Exec(t.Context(), change); err != nil {
			t.Fatal(err)
		}
		if _, _, ok, err := w.claim(t.Context(), plan, "acme"); err != nil || ok {
			t.Fatalf("%s: handed out (%v)", what, err)
		}
		if got := w.target(t); got.Outdated != 1 || got.Ready != 0 {
			t.Errorf("%s: %+v", what, got)
		}
		w.settle(t)
		if got := w.target(t); got.Ready != 1 || got.Outdated != 0 {
			t.Errorf("%s: %+v after a while", what, got)
		}
		if n := fleettest.One[int](t, admin, "SELECT count(*) FROM pg_database WHERE datname = $1", tenantdb.Name(old, 1)); n != 0 {
			t.Errorf("%s: the database is still there", what)
		}
		if n := fleettest.One[int](t, admin, "SELECT count(*) FROM pg_roles WHERE rolname = $1", tenantdb.Name(old, 1)); n != 0 {
			t.Errorf("%s: the role is still there", what)
		}
	}
	// A newer release's entries are its own business.
	if _, err := w.Pool.Exec(t.Context(), "UPDATE control.warm_databases SET fingerprint = 'after', schema_version = schema_version + 1"); err != nil {
		t.Fatal(err)
	}
	w.settle(t)
	if got := w.target(t); got.Outdated != 1 || got.Ready != 0 {
		t.Errorf("beside a newer release: %+v", got)
	}
	if _, err := w.Pool.Exec(t.Context(), "UPDATE control.warm_databases SET schema_version = schema_version - 1"); err != nil {
		t.Fatal(err)
	}
	w.pool(t, 0)
	if n := fleettest.One[int](t, w.Pool, "SELECT count(*) FROM control.warm_databases"); n != 0 {
		t.Errorf("%d entries of a pool of none", n)
	}
}

func TestWarmPoolSurvivesACrashAfterEachStep(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pgServer := fleettest.TenantServer(t, testdb.Versions[0])
	w.AddServer(t, "a", pgServer.ProvisionerURL, 100)
	if err := w.Provision.SetTarget(t.Context(), keeper, "a", "standard", 1); err != nil {
		t.Fatal(err)
	}
	crash := func(handler operation.Handler, steps []string, kind string) {
		for _, step := range steps {
			if err := w.Provision.Fill(t.Context()); err != nil {
				t.Fatal(err)
			}
			ids := w.queued(t)
			if len(ids) != 1 {
				t.Fatalf("%d operations at %s", len(ids), step)
			}
			runner := w.Runner(map[string]operation.Handler{kind: &fleettest.Spy{
				Handler: handler, Twice: true,
				After: func(ctx context.Context, name string) error {
					if name == step {
						return fleettest.Die(ctx, name)
					}
					return nil
				},
			}})
			if err := runner.Run(t.Context(), ids[0]); err != nil {
				t.Fatal(err)
			}
			w.Bury(t, ids[0])
		}
		w.settle(t)
	}
	crash(w.Provision.Warm(), provision.WarmSteps(), provision.KindWarm)
	if got := w.target(t); got.Ready != 1 {
		t.Fatalf("%+v", got)
	}
	tenant, op, ok, err := w.claim(t.Context(), w.standard(t), "acme")
	if err != nil || !ok {
		t.Fatalf("%v %v", ok, err)
	}
	w.mustRun(t, op)
	w.checkTenant(t, testdb.Connect(t, pgServer.URL()), tenant)

	w.settle(t)
	if err := w.Provision.SetTarget(t.Context(), keeper, "a", "standard", 0); err != nil {
		t.Fatal(err)
	}
	crash(w.Provision.WarmOff(), []string{"drop"}, provision.KindWarmOff)
	if n := fleettest.One[int](t, w.Pool, "SELECT count(*) FROM control.warm_databases"); n != 0 {
		t.Errorf("%d entries left", n)
	}
}

// A pool that cannot be filled leaves nothing behind and does not try all the time.
func TestWarmPoolOfAServerThatRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pgServer := fleettest.TenantServer(t, testdb.Versions[0])
	w.AddServer(t, "a", pgServer.ProvisionerURL, 100)
	if err := w.Provision.SetTarget(t.Context(), keeper, "a", "standard", 1); err != nil {
		t.Fatal(err)
	}
	if err := w.Provision.Fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	runner := w.Runner(map[string]operation.Handler{provision.KindWarm: &fleettest.Spy{
		Handler: w.Provision.Warm(),
		Before: func(_ context.Context, step string) error {
			if step == provision.StepMigrate {
				return operation.Fail("no_luck", "It cannot be done.", "Nothing.")
			}
			return nil
		},
	}})
	if err := runner.Run(t.Context(), w.queued(t)[0]); err != nil {
		t.Fatal(err)
	}
	if n := fleettest.One[int](t, w.Pool, "SELECT count(*) FROM control.warm_databases"); n != 0 {
		t.Errorf("%d entries left", n)
	}
	if err := w.Provision.Fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ids := w.queued(t); len(ids) != 0 {
		t.Error("it is tried again at once")
	}
	if err := w.Provision.SetTarget(t.Context(), keeper, "nowhere", "standard", 1); !fault.Is(err, fault.KindNotFound) {
		t.Errorf("a server that does not exist: %v", err)
	}
	if err := w.Provision.SetTarget(t.Context(), keeper, "a", "standard", 1001); !fault.Is(err, fault.KindInvalid) {
		t.Errorf("a size without measure: %v", err)
	}
}
