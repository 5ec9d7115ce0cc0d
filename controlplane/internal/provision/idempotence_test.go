package provision_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
)

func (w *world) spied(s *fleettest.Spy) *operation.Runner {
	s.Handler = w.Provision
	return w.Runner(map[string]operation.Handler{provision.Kind: s})
}

// checkTenant expects one complete tenant and nothing else of it.
func (w *world) checkTenant(t *testing.T, server pg.Querier, tenant uuid.UUID) {
	t.Helper()
	m := w.made(t, tenant)
	if m.Status != "active" {
		t.Fatalf("the tenant is %s: %s", m.Status, m.Reason)
	}
	for _, incarnation := range []int{1, 2, 3} {
		name, want := tenantdb.Name(tenant, incarnation), 0
		if incarnation == m.Incarnation {
			want = 1
		}
		if n := fleettest.One[int](t, server, "SELECT count(*) FROM pg_database WHERE datname = $1", name); n != want {
			t.Errorf("%d databases of incarnation %d", n, incarnation)
		}
		if n := fleettest.One[int](t, server, "SELECT count(*) FROM pg_roles WHERE rolname = $1", name); n != want {
			t.Errorf("%d roles of incarnation %d", n, incarnation)
		}
	}
	conn := testdb.Connect(t, w.Login(t, tenant))
	for _, count := range []string{"ouvira.marker", "ouvira.signing_keys", "ouvira.seeds", "public.users", "public.companies", "public.user_companies"} {
		if n := fleettest.One[int](t, conn, "SELECT count(*) FROM "+count); n != 1 {
			t.Errorf("%d rows in %s", n, count)
		}
	}
	for _, event := range []string{"tenant.activated"} {
		if n := fleettest.One[int](t, w.Pool, "SELECT count(*) FROM control.events WHERE tenant_id = $1 AND type = $2", tenant, event); n != 1 {
			t.Errorf("%d events %s", n, event)
		}
	}
}

func TestEachStepTwice(t *testing.T) {
	t.Parallel()
	fleettest.OnBoth(t, func(t *testing.T, version string) {
		w := newWorld(t)
		pgServer := fleettest.TenantServer(t, version)
		w.AddServer(t, "a", pgServer.ProvisionerURL, 100)
		tenant, op := w.Ask(t, "acme", provision.Params{})
		if err := w.spied(&fleettest.Spy{Twice: true}).Run(t.Context(), op); err != nil {
			t.Fatal(err)
		}
		w.checkTenant(t, testdb.Connect(t, pgServer.URL()), tenant)
	})
}

// TestDiesAfterEachStep kills a run after the work of each step and before it
// is recorded; the next one goes on from there.
func TestDiesAfterEachStep(t *testing.T) {
	t.Parallel()
	fleettest.OnBoth(t, func(t *testing.T, version string) {
		w := newWorld(t)
		pgServer := fleettest.TenantServer(t, version)
		w.AddServer(t, "a", pgServer.ProvisionerURL, 100)
		admin := testdb.Connect(t, pgServer.URL())
		for i, step := range provision.Steps() {
			tenant, op := w.Ask(t, fmt.Sprintf("acme-%d", i), provision.Params{})
			dying := &fleettest.Spy{After: func(ctx context.Context, name string) error {
				if name == step {
					return fleettest.Die(ctx, name)
				}
				return nil
			}}
			if err := w.spied(dying).Run(t.Context(), op); err != nil {
				t.Fatal(err)
			}
			left := operation.Running
			if step == provision.StepActivate {
				left = operation.Succeeded // recorded in the commit that activates
			}
			if o := w.Get(t, op); o.Status != left {
				t.Fatalf("%s: the dead run left the operation %s", step, o.Status)
			}
			// Nobody else may have it while the lease lives.
			if o := w.run(t, op); o.Status != left {
				t.Fatalf("%s: a living lease was ignored", step)
			}
			w.Bury(t, op)
			w.mustRun(t, op)
			w.checkTenant(t, admin, tenant)
		}
	})
}

// TestDiesInEveryRun dies after every step in turn, each time in a new run.
func TestDiesInEveryRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pgServer := fleettest.TenantServer(t, testdb.System)
	w.AddServer(t, "a", pgServer.ProvisionerURL, 100)
	tenant, op := w.Ask(t, "acme", provision.Params{SignupID: w.signup(t, "acme")})
	seen := map[string]bool{}
	dying := w.spied(&fleettest.Spy{After: func(ctx context.Context, name string) error {
		if seen[name] {
			return nil
		}
		seen[name] = true
		return fleettest.Die(ctx, name)
	}})
	for range provision.Steps() {
		if err := dying.Run(t.Context(), op); err != nil {
			t.Fatal(err)
		}
		w.Bury(t, op)
	}
	w.mustRun(t, op)
	w.checkTenant(t, testdb.Connect(t, pgServer.URL()), tenant)
}

// TestStalledRunChangesNothing lets a run sleep before a step until another has
// taken over and finished; what it does then must have no effect.
func TestStalledRunChangesNothing(t *testing.T) {
	t.Parallel()
	fleettest.OnBoth(t, func(t *testing.T, version string) {
		w := newWorld(t)
		pgServer := fleettest.TenantServer(t, version)
		w.AddServer(t, "a", pgServer.ProvisionerURL, 100)
		admin := testdb.Connect(t, pgServer.URL())
		for i, step := range provision.Steps() {
			tenant, op := w.Ask(t, fmt.Sprintf("globex-%d", i), provision.Params{})
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
			w.mustRun(t, op)
			before := w.made(t, tenant)
			close(wake)
			if err := <-ended; err != nil {
				t.Fatalf("%s: the stalled run: %v", step, err)
			}
			after := w.made(t, tenant)
			if string(before.Credential) != string(after.Credential) || string(before.Keys) != string(after.Keys) {
				t.Errorf("%s: the stalled run wrote to the control database", step)
			}
			if o := w.Get(t, op); o.Status != operation.Succeeded {
				t.Errorf("%s: the operation is %s", step, o.Status)
			}
			w.checkTenant(t, admin, tenant)
		}
	})
}

// TestFenceOnTheServer: a run ends the connections of earlier runs of its
// operation, whatever they do, and no others.
func TestFenceOnTheServer(t *testing.T) {
	t.Parallel()
	fleettest.OnBoth(t, func(t *testing.T, version string) {
		w := newWorld(t)
		pgServer := fleettest.TenantServer(t, version)
		w.AddServer(t, "a", pgServer.ProvisionerURL, 100)
		_, op := w.Ask(t, "acme", provision.Params{})
		_, other := w.Ask(t, "globex", provision.Params{})
		if _, err := w.Pool.Exec(t.Context(), "UPDATE control.operations SET epoch = 1"); err != nil { // as a first run leaves it
			t.Fatal(err)
		}
		connect := func(name string) *pgx.Conn {
			return testdb.Connect(t, pgServer.ProvisionerURL+"&application_name="+url.QueryEscape(name))
		}
		earlier := connect(operation.ApplicationPrefix + op.String() + "/1")
		stranger := connect(operation.ApplicationPrefix + other.String() + "/1")
		w.mustRun(t, op)
		if _, err := earlier.Exec(t.Context(), "SELECT 1"); pg.Code(err) != pg.CodeAdminShutdown {
			t.Errorf("the earlier run's connection: %v", err)
		}
		if _, err := stranger.Exec(t.Context(), "SELECT 1"); err != nil {
			t.Errorf("another operation's connection: %v", err)
		}
	})
}

// TestStalledBeforeConnecting: a run that was overtaken before it had a
// connection finds out after connecting, and does not act.
func TestStalledBeforeConnecting(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pgServer := fleettest.TenantServer(t, testdb.System)
	w.AddServer(t, "a", pgServer.ProvisionerURL, 100)
	for i, step := range []string{provision.StepDatabase, provision.StepLockdown, provision.StepMigrate, provision.StepSeed} {
		tenant, op := w.Ask(t, fmt.Sprintf("late-%d", i), provision.Params{})
		dying := w.spied(&fleettest.Spy{Before: func(ctx context.Context, name string) error {
			if name == step {
				return fleettest.Die(ctx, name)
			}
			return nil
		}})
		if err := dying.Run(t.Context(), op); err != nil {
			t.Fatal(err)
		}
		w.Bury(t, op)
		asleep, wake := make(chan struct{}), make(chan struct{})
		var said error
		stalled := w.spied(&fleettest.Spy{
			Before: func(context.Context, string) error {
				close(asleep)
				<-wake
				return nil
			},
			Said: func(err error) { said = err },
		})
		ended := make(chan error, 1)
		go func() { ended <- stalled.Run(context.Background(), op) }()
		<-asleep
		w.Bury(t, op)
		w.mustRun(t, op)
		close(wake)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if !errors.Is(said, operation.ErrFenced) {
			t.Errorf("%s: the stalled run's step said %v", step, said)
		}
		w.checkTenant(t, testdb.Connect(t, pgServer.URL()), tenant)
	}
}

// TestWhatACrashInsideTheDatabaseStepLeaves makes by hand what a killed run or
// server can leave under the tenant's name.
func TestWhatACrashInsideTheDatabaseStepLeaves(t *testing.T) {
	t.Parallel()
	fleettest.OnBoth(t, func(t *testing.T, version string) {
		w := newWorld(t)
		pgServer := fleettest.TenantServer(t, version)
		w.AddServer(t, "a", pgServer.ProvisionerURL, 100)
		admin := testdb.Connect(t, pgServer.URL())
		exec := func(sql string) {
			t.Helper()
			if _, err := admin.Exec(t.Context(), sql); err != nil {
				t.Fatalf("%s: %v", sql, err)
			}
		}
		// One run first: the template is there for the others.
		_, warm := w.Ask(t, "warm", provision.Params{})
		w.mustRun(t, warm)
		template := fleettest.One[string](t, admin, "SELECT datname FROM pg_database WHERE datname LIKE 'ouvira\\_template\\_%' AND datistemplate")

		cases := map[string]struct {
			leave func(database string)
			fails string
		}{
			"made, not marked": {leave: func(d string) {
				exec("CREATE DATABASE " + d + " OWNER ouvira_owner TEMPLATE " + template + " ALLOW_CONNECTIONS false")
			}},
			"half dropped": {leave: func(d string) {
				exec("CREATE DATABASE " + d + " OWNER ouvira_owner TEMPLATE " + template + " ALLOW_CONNECTIONS false")
				exec("UPDATE pg_database SET datconnlimit = -2 WHERE datname = '" + d + "'")
			}},
			"role only": {leave: func(d string) { exec("SET ROLE ouvira_provisioner"); exec("CREATE ROLE " + d); exec("RESET ROLE") }},
			"somebody else's": {fails: "database_foreign", leave: func(d string) {
				exec("CREATE DATABASE " + d + " TEMPLATE template0")
				exec("COMMENT ON DATABASE " + d + " IS 'precious'")
			}},
			"open and unmarked": {fails: "database_foreign", leave: func(d string) {
				exec("CREATE DATABASE " + d + " OWNER ouvira_owner TEMPLATE template0")
			}},
		}
		i := 0
		for name, c := range cases {
			i++
			tenant, op := w.Ask(t, fmt.Sprintf("left-%d", i), provision.Params{})
			database := tenantdb.Name(tenant, 1)
			c.leave(database)
			o := w.run(t, op)
			if c.fails == "" {
				if o.Status != operation.Succeeded {
					t.Fatalf("%s: %s %+v", name, o.Status, o.Error)
				}
				w.checkTenant(t, admin, tenant)
				continue
			}
			if o.Status != operation.Failed || o.Error == nil || o.Error.Code != c.fails || o.Error.NextAction == "" {
				t.Errorf("%s: %s %+v", name, o.Status, o.Error)
			}
			if n := fleettest.One[int](t, admin, "SELECT count(*) FROM pg_database WHERE datname = $1", database); n != 1 {
				t.Errorf("%s: the foreign database is gone", name)
			}
			if m := w.made(t, tenant); m.Status != "failed" || !strings.Contains(m.Reason, "not the tenant's") || m.Server != nil {
				t.Errorf("%s: %+v", name, m)
			}
		}
	})
}

// TestTwoRunsAtOnce lets ten workers loose on three operations.
func TestTwoRunsAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pgServer := fleettest.TenantServer(t, testdb.System)
	w.AddServer(t, "a", pgServer.ProvisionerURL, 100)
	var tenants, ops []uuid.UUID
	for i := range 3 {
		tenant, op := w.Ask(t, fmt.Sprintf("many-%d", i), provision.Params{})
		tenants, ops = append(tenants, tenant), append(ops, op)
	}
	ended := make(chan error)
	for i := range 10 {
		go func() { ended <- w.runner.Run(context.Background(), ops[i%len(ops)]) }()
	}
	for range 10 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	admin := testdb.Connect(t, pgServer.URL())
	for i, tenant := range tenants {
		if o := w.Get(t, ops[i]); o.Status != operation.Succeeded {
			t.Errorf("operation %d is %s: %+v", i, o.Status, o.Error)
		}
		w.checkTenant(t, admin, tenant)
	}
}
