package tenantpool_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/tenantpool"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/testdb"
)

// owner is a session of who migrates the tenant's database.
func owner(t testing.TB, tenant tenanttest.Tenant) *pgx.Conn {
	t.Helper()
	return testdb.Connect(t, tenanttest.WithRole(tenant.AdminURL, migrations.OwnerRole))
}

func migrate(t testing.TB, conn *pgx.Conn, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if _, err := conn.Exec(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// The type of a column changes again and again, under load and before the node
// hears of it: no statement fails, alone or in a transaction, at this tenant or
// its neighbour.
func TestInvariant12AMigrationUnderLoadFailsNoStatement(t *testing.T) {
	t.Parallel()
	n := newNode(t, 20)
	admins := map[string]*pgx.Conn{}
	for _, tenant := range []tenanttest.Tenant{n.A, n.B} {
		conn := owner(t, tenant)
		admins[tenant.Route.Slug] = conn
		migrate(t, conn, "CREATE TABLE things (id int PRIMARY KEY, n int NOT NULL, other int NOT NULL)", "INSERT INTO things VALUES (1, 7, 8)")
	}
	const byID, other, change = "SELECT n FROM things WHERE id = $1", "SELECT other, n FROM things WHERE id = $1", "UPDATE things SET other = other + 1 WHERE id = $1 RETURNING n"
	work := []func(ctx context.Context, l *tenantpool.Lease) error{
		func(ctx context.Context, l *tenantpool.Lease) error {
			var value int
			err := l.QueryRow(ctx, byID, 1).Scan(&value)
			if err == nil && value != 7 {
				err = errors.New("the value is another one")
			}
			return err
		},
		func(ctx context.Context, l *tenantpool.Lease) error {
			rows, err := l.Query(ctx, other, 1)
			if err != nil {
				return err
			}
			_, err = pgx.CollectExactlyOneRow(rows, pgx.RowToMap)
			return err
		},
		func(ctx context.Context, l *tenantpool.Lease) error {
			_, err := l.Exec(ctx, change, 1)
			return err
		},
		func(ctx context.Context, l *tenantpool.Lease) error {
			return pg.InTx(ctx, l, func(tx pgx.Tx) error {
				var one, value int
				if err := tx.QueryRow(ctx, "SELECT 1 WHERE $1 = 1", 1).Scan(&one); err != nil {
					return err
				}
				if err := tx.QueryRow(ctx, byID, 1).Scan(&value); err != nil {
					return err
				}
				return tx.QueryRow(ctx, change, 1).Scan(&value)
			})
		},
	}
	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	var served atomic.Int64
	for i := range 16 {
		tenant := []tenanttest.Tenant{n.A, n.B}[i%2]
		load.Go(func() {
			for round := i; ctx.Err() == nil; round++ {
				l, err := n.pools.Lease(t.Context(), tenant.Route)
				if err == nil {
					for range 3 { // in one lease too
						err = errors.Join(err, work[round/2%len(work)](t.Context(), l))
					}
					l.Release()
				}
				if err != nil {
					t.Errorf("%s: %v", tenant.Route.Slug, err)
				}
				served.Add(1)
			}
		})
	}
	for i := range 10 {
		before := served.Load()
		eventually(t, "it is used", func() bool { return served.Load() > before+50 })
		migrate(t, admins["acme"], "ALTER TABLE things ALTER COLUMN n TYPE "+[]string{"bigint", "int"}[i%2])
	}
	cancel()
	load.Wait()
}

// When the route tells of another schema, connections from before are not
// leased again; those of the other tenant are.
func TestInvariant12ConnectionsFromBeforeAMigrationAreNotLeasedAgain(t *testing.T) {
	t.Parallel()
	n := newNode(t, 20)
	held, idle, other := n.lease(t, n.A), n.lease(t, n.A), n.lease(t, n.B)
	before := []int{pid(t, held), pid(t, idle)}
	neighbour := pid(t, other)
	idle.Release()
	other.Release()
	n.Table.Change(n.A.ID, func(r *route.Route) { r.SchemaVersion++ })
	if pid(t, held) != before[0] {
		t.Error("the lease that was out has lost its connection")
	}
	held.Release()
	for range 3 {
		l := n.lease(t, n.A)
		if id := pid(t, l); id == before[0] || id == before[1] {
			t.Error("a connection from before the migration was leased")
		}
		defer l.Release()
	}
	other = n.lease(t, n.B)
	defer other.Release()
	if pid(t, other) != neighbour {
		t.Error("the other tenant has lost its connection")
	}
}
