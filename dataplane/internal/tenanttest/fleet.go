package tenanttest

import (
	"context"
	"fmt"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
)

// SharedRole may read every database of a fleet: what a team gives its
// application when it puts a pooler in front of all tenants. Its password is
// testdb.RolePassword.
const SharedRole = "fleet_app"

// fleetTemplate is the database that those of a fleet are clones of.
const fleetTemplate = "fleet_template"

// fleetCap is how many connections one tenant of a fleet may have: no less than
// a benchmark has clients.
const fleetCap = 100

// NewFleet makes a fixture with many tenants for benchmarks, all of them real
// databases with the whole schema, on a Postgres server of their own that takes
// the given number of connections. The server goes with the test as a whole:
// dropping a thousand databases one by one would take longer than measuring.
//
// A and B are the first two of the tenants, which are called t-0000, t-0001, ….
func NewFleet(t testing.TB, n, connections int) (*Fixture, []Tenant) {
	t.Helper()
	server := testdb.ServerWith(t, testdb.System, map[string]string{
		"max_connections":           strconv.Itoa(connections),
		"max_locks_per_transaction": "64",
		// A worker would visit one of a thousand databases every few moments.
		"autovacuum": "off",
	})
	f := newFixture(t, server.URL())
	admin := testdb.Connect(t, f.SuperuserDB)
	execAll(t, admin, "CREATE DATABASE "+fleetTemplate)
	must(t, build(t.Context(), server.DatabaseURL(fleetTemplate)))
	verifier, err := pg.SCRAMVerifier(testdb.RolePassword)
	must(t, err)
	grant := grantApp(t, admin)
	execAll(t, admin, "CREATE ROLE "+SharedRole+" LOGIN PASSWORD '"+verifier+"'", fmt.Sprintf(grant, SharedRole))

	tenants := make([]Tenant, n)
	seeds := make([][]any, n)
	for i := range tenants {
		tenants[i] = newTenant(t, fmt.Sprintf("t-%04d", i))
		f.routeTo(t, &tenants[i], "ov_"+token(12))
		tenants[i].Route.MaxConnections = fleetCap
		seeds[i] = f.seedArguments(t, &tenants[i])
		f.Table.Set(tenants[i].Route)
	}
	making, ctx := errgroup.WithContext(t.Context())
	making.SetLimit(4) // as many as the disk and the cores take
	for i := range tenants {
		making.Go(func() error { return f.found(ctx, &tenants[i], grant, seeds[i]) })
	}
	must(t, making.Wait())
	must(t, admin.Close(t.Context()))
	f.A, f.B = tenants[0], tenants[1]
	return f, tenants
}

// found makes the database of one tenant of a fleet.
func (f *Fixture) found(ctx context.Context, tenant *Tenant, grant string, seeds []any) error {
	verifier, err := pg.SCRAMVerifier(tenant.Password)
	if err != nil {
		return err
	}
	name := tenant.Route.Database
	admin, err := pgx.Connect(ctx, f.SuperuserDB)
	if err != nil {
		return fmt.Errorf("connect to make a tenant: %w", err)
	}
	defer admin.Close(ctx)
	for _, statement := range []string{
		"CREATE DATABASE " + name + " TEMPLATE " + fleetTemplate + " OWNER " + migrations.OwnerRole + " STRATEGY wal_log",
		"REVOKE ALL ON DATABASE " + name + " FROM PUBLIC",
		"CREATE ROLE " + name + " LOGIN PASSWORD '" + verifier + "'",
		fmt.Sprintf(grant, name),
		"GRANT CONNECT ON DATABASE " + name + " TO " + name + ", " + SharedRole,
	} {
		if _, err := admin.Exec(ctx, statement); err != nil {
			return fmt.Errorf("make the database of a tenant: %w", err)
		}
	}
	inside, err := pgx.Connect(ctx, WithRole(tenant.AdminURL, migrations.OwnerRole))
	if err != nil {
		return fmt.Errorf("connect to the tenant's database: %w", err)
	}
	defer inside.Close(ctx)
	if err := mark(ctx, inside, tenant.ID, 1); err != nil {
		return err
	}
	return seed(ctx, inside, tenant, seeds)
}
