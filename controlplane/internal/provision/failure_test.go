package provision_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
)

func TestWithoutCapacityItWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tenant, op := w.Ask(t, "initech", provision.Params{SignupID: w.signup(t, "initech")})
	for range 3 {
		o := w.run(t, op)
		if o.Status != operation.Queued || o.Error == nil || o.Error.Code != "no_capacity" || o.Error.NextAction == "" {
			t.Fatalf("%s %+v", o.Status, o.Error)
		}
		if wait := fleettest.One[float64](t, w.Pool, "SELECT extract(epoch FROM wake_at - now()) FROM control.operations WHERE id = $1", op); wait > 3 {
			t.Errorf("it waits %v s before the reaper looks", wait)
		}
	}
	w.AddServer(t, "a", fleettest.TenantServer(t, testdb.System).ProvisionerURL, 1)
	w.mustRun(t, op)
	if m := w.made(t, tenant); m.Status != "active" {
		t.Errorf("%+v", m)
	}
	if o := w.Get(t, op); o.Error != nil {
		t.Errorf("the reason is still shown: %+v", o.Error)
	}
	// Full again.
	_, next := w.Ask(t, "hooli", provision.Params{})
	if o := w.run(t, next); o.Error == nil || o.Error.Code != "no_capacity" {
		t.Errorf("%+v", o)
	}
}

// TestPlacementSpreads fills two servers of different size evenly and keeps off
// those that are not active.
func TestPlacementSpreads(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.AddServer(t, "a", fleettest.TenantServer(t, testdb.System).ProvisionerURL, 4)
	b := w.AddServer(t, "b", fleettest.TenantServer(t, testdb.PG18).ProvisionerURL, 2)
	place := func(wanted string) (uuid.UUID, error) {
		return pg.InTxValue(t.Context(), w.Pool, func(tx pgx.Tx) (uuid.UUID, error) {
			id, err := w.Servers.Place(t.Context(), tx, wanted, 0)
			if err != nil {
				return id, err
			}
			tenant := uuid.Must(uuid.NewV7())
			_, err = tx.Exec(t.Context(), `
				INSERT INTO control.tenants (id, slug, name, status, plan_id, server_id)
				SELECT $1, $2, 'T', 'provisioning', id, $3 FROM control.plans`, tenant, "t"+tenant.String()[24:], id)
			return id, err
		})
	}
	got := map[uuid.UUID]int{}
	for range 3 {
		id, err := place("")
		if err != nil {
			t.Fatal(err)
		}
		got[id]++
	}
	if got[a.ID] != 2 || got[b.ID] != 1 {
		t.Errorf("a has %d of 4, b %d of 2", got[a.ID], got[b.ID])
	}
	if _, err := w.Servers.SetStatus(t.Context(), a.ID, "draining", nil); err != nil {
		t.Fatal(err)
	}
	if id, err := place(""); err != nil || id != b.ID {
		t.Errorf("with a draining: %v %v", id, err)
	}
	for _, wanted := range []string{"", "a", b.ID.String()} {
		if _, err := place(wanted); !errors.Is(err, server.ErrNoCapacity) {
			t.Errorf("wanted %q: %v", wanted, err)
		}
	}
	if _, err := place("nowhere"); !errors.Is(err, server.ErrUnknown) {
		t.Errorf("an unknown server: %v", err)
	}
	list, err := w.Servers.List(t.Context())
	if err != nil || len(list) != 2 || list[0].Databases != 2 || list[0].Free != 2 || list[1].Free != 0 {
		t.Errorf("%+v %v", list, err)
	}
}

// TestFailureCleansUpAndRetries fails in the seed, after everything was built.
func TestFailureCleansUpAndRetries(t *testing.T) {
	t.Parallel()
	fleettest.OnBoth(t, func(t *testing.T, version string) {
		w := newWorld(t)
		pgServer := fleettest.TenantServer(t, version)
		w.AddServer(t, "a", pgServer.ProvisionerURL, 10)
		admin := testdb.Connect(t, pgServer.URL())
		signup := w.signup(t, "initech")
		if _, err := w.Pool.Exec(t.Context(), "UPDATE control.signups SET company_name = '' WHERE id = $1", signup); err != nil {
			t.Fatal(err)
		}
		tenant, op := w.Ask(t, "initech", provision.Params{SignupID: signup})

		// The decision is recorded before anything is undone: dying between the
		// two goes on undoing.
		o := w.run(t, op)
		if o.Status != operation.Failed || o.Error == nil || o.Error.Code != "server_refused" || o.FinishedAt == nil {
			t.Fatalf("%s %+v", o.Status, o.Error)
		}
		m := w.made(t, tenant)
		if m.Status != "failed" || m.Reason == "" || m.Server != nil || m.Database != nil || m.Credential != nil {
			t.Errorf("%+v", m)
		}
		if status := fleettest.One[string](t, w.Pool, "SELECT status FROM control.signups WHERE id = $1 AND password_hash IS NOT NULL", signup); status != "failed" {
			t.Errorf("the sign-up is %s", status)
		}
		name := tenantdb.Name(tenant, 1)
		if n := fleettest.One[int](t, admin, "SELECT (SELECT count(*) FROM pg_database WHERE datname = $1) + (SELECT count(*) FROM pg_roles WHERE rolname = $1)", name); n != 0 {
			t.Errorf("%d objects left", n)
		}
		if n := fleettest.One[int](t, w.Pool, "SELECT count(*) FROM control.events WHERE type = 'operation.failed' AND tenant_id = $1", tenant); n != 1 {
			t.Errorf("%d events", n)
		}

		if _, err := w.Pool.Exec(t.Context(), "UPDATE control.signups SET company_name = 'Initech' WHERE id = $1", signup); err != nil {
			t.Fatal(err)
		}
		retry := func() (uuid.UUID, error) {
			return pg.InTxValue(t.Context(), w.Pool, func(tx pgx.Tx) (uuid.UUID, error) {
				return w.Provision.Retry(t.Context(), tx, tenant, "operator:test")
			})
		}
		again, err := retry()
		if err != nil {
			t.Fatal(err)
		}
		w.mustRun(t, again)
		w.checkTenant(t, admin, tenant)
		if m := w.made(t, tenant); m.Incarnation != 2 {
			t.Errorf("incarnation %d", m.Incarnation)
		}
		if _, err := retry(); !fault.Is(err, fault.KindConflict) {
			t.Errorf("a retry of an active tenant: %v", err)
		}
	})
}

// TestDyingWhileUndoing: a run that dies between the decision and the end is
// followed by one that undoes, not by one that builds on.
func TestDyingWhileUndoing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pgServer := fleettest.TenantServer(t, testdb.System)
	w.AddServer(t, "a", pgServer.ProvisionerURL, 10)
	tenant, op := w.Ask(t, "acme", provision.Params{})
	restore := func() {
		if _, err := w.Pool.Exec(t.Context(), "UPDATE control.servers SET port = $1", pgServer.Port()); err != nil {
			t.Fatal(err)
		}
	}
	// Everything is built, then the server moves out of reach: the failure is
	// decided, and the undoing has to wait.
	moved := w.spied(&fleettest.Spy{Before: func(_ context.Context, step string) error {
		if step == provision.StepLockdown {
			if _, err := w.Pool.Exec(context.Background(), "UPDATE control.servers SET port = 1"); err != nil {
				return err
			}
			return operation.ErrFenced
		}
		return nil
	}})
	if err := moved.Run(t.Context(), op); err != nil {
		t.Fatal(err)
	}
	w.Bury(t, op)
	failing := w.spied(&fleettest.Spy{Before: func(context.Context, string) error { return operation.Fail("test", "It fails.", "Nothing.") }})
	if err := failing.Run(t.Context(), op); err != nil {
		t.Fatal(err)
	}
	if o := w.Get(t, op); o.Status != operation.Queued || o.Error == nil || o.Error.Code != "test" {
		t.Fatalf("%s %+v", o.Status, o.Error)
	}
	restore()
	undoing := w.spied(&fleettest.Spy{Before: func(_ context.Context, step string) error {
		t.Errorf("after the decision to fail, step %s was run", step)
		return nil
	}})
	if err := undoing.Run(t.Context(), op); err != nil {
		t.Fatal(err)
	}
	if o := w.Get(t, op); o.Status != operation.Failed || o.Error.Code != "test" {
		t.Errorf("%s %+v", o.Status, o.Error)
	}
	admin := testdb.Connect(t, pgServer.URL())
	name := tenantdb.Name(tenant, 1)
	if n := fleettest.One[int](t, admin, "SELECT (SELECT count(*) FROM pg_database WHERE datname = $1) + (SELECT count(*) FROM pg_roles WHERE rolname = $1)", name); n != 0 {
		t.Errorf("%d objects left", n)
	}
}

// TestServerStopsBetweenTheSteps crashes the tenant server after each step; the
// operation waits with a reason while it is away.
func TestServerStopsBetweenTheSteps(t *testing.T) {
	t.Parallel()
	fleettest.OnBoth(t, func(t *testing.T, version string) {
		w := newWorld(t)
		pgServer := testdb.Server(t, version)
		w.AddServer(t, "a", pgServer.URL(), 10)
		tenant, op := w.Ask(t, "acme", provision.Params{})
		crashed := map[string]bool{}
		runner := w.spied(&fleettest.Spy{After: func(_ context.Context, step string) error {
			if crashed[step] {
				return nil
			}
			crashed[step] = true
			return pgServer.StopImmediate()
		}})
		for tries := 0; ; tries++ {
			if err := runner.Run(t.Context(), op); err != nil {
				t.Fatal(err)
			}
			o := w.Get(t, op)
			if o.Status == operation.Succeeded {
				break
			}
			if o.Status != operation.Queued || o.Error == nil || (o.Error.Code != "server_lost" && o.Error.Code != "server_unreachable") || tries > 20 {
				t.Fatalf("after %d tries: %s %+v", tries, o.Status, o.Error)
			}
			if err := pgServer.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if err := pgServer.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.checkTenant(t, testdb.Connect(t, pgServer.URL()), tenant)
	})
}

func TestOperatorCreatedOwnerGetsALink(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.AddServer(t, "a", fleettest.TenantServer(t, testdb.System).ProvisionerURL, 10)
	tenant, op := w.Ask(t, "acme", provision.Params{Server: "a"})
	w.mustRun(t, op)
	token, err := provision.OwnerToken(w.Keys.Control, 0, op)
	if err != nil {
		t.Fatal(err)
	}
	conn := testdb.Connect(t, w.Login(t, tenant))
	days := fleettest.One[float64](t, conn, `
		SELECT extract(epoch FROM k.expires_at - now()) / 86400
		FROM public.password_tokens k JOIN public.users u ON u.id = k.user_id
		WHERE k.token_hash = $1 AND k.purpose = 'set' AND u.email = 'ada@acme.example' AND u.password_hash IS NULL AND NOT u.email_verified`,
		provision.OwnerTokenHash(token))
	if days < 6.9 || days > 7 {
		t.Errorf("the link works for %v days", days)
	}
	if len(token) < 40 {
		t.Errorf("a token of %d characters", len(token))
	}
}

func TestUnknownServerFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tenant, op := w.Ask(t, "acme", provision.Params{Server: "nowhere"})
	if o := w.run(t, op); o.Status != operation.Failed || o.Error.Code != "server_unknown" {
		t.Fatalf("%s %+v", o.Status, o.Error)
	}
	if m := w.made(t, tenant); m.Status != "failed" {
		t.Errorf("%+v", m)
	}
}
