package tenantpool_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/ouvira/ouvira/dataplane/internal/tenantpool"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/testdb"
)

func TestMain(m *testing.M) {
	// The guardian of the test server lives as long as the process.
	testdb.Main(m, func() error {
		return goleak.Find(goleak.IgnoreAnyFunction("github.com/ouvira/ouvira/shared/testdb/guardian.(*guardian).start.func1"))
	})
}

// node is a data-plane node as the pools see it.
type node struct {
	*tenanttest.Fixture

	id     string
	budget *tenanttest.Budget
	pools  *tenantpool.Pools
}

// newNode serves the fixture's two tenants. budget is the server's; the node
// has all of it.
func newNode(t testing.TB, budget int, adjust ...func(*tenantpool.Options)) *node {
	t.Helper()
	n := &node{Fixture: tenanttest.New(t), id: "n" + uuid.NewString()[:8], budget: tenanttest.NewBudget()}
	server := *n.Server
	server.MaxConnections = budget
	server.Version++
	n.Server = &server
	for _, id := range []uuid.UUID{n.A.ID, n.B.ID} {
		n.Table.Change(id, func(r *route.Route) { r.Server = n.Server })
	}
	n.A.Route, _ = n.Table.ByID(n.A.ID)
	n.B.Route, _ = n.Table.ByID(n.B.ID)
	options := tenantpool.Options{NodeID: n.id, Budget: n.budget, Routes: n.Table, Key: n.Key, Wait: 10 * time.Second}
	for _, fn := range adjust {
		fn(&options)
	}
	var err error
	if n.pools, err = tenantpool.New(options); err != nil {
		t.Fatal(err)
	}
	n.budget.OnChange = n.pools.LimitsChanged
	n.Table.Subscribe(n.pools.RouteChanged)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := n.pools.Close(ctx); err != nil {
			t.Errorf("the pools do not close: %v", err)
		}
	})
	return n
}

func (n *node) lease(t testing.TB, tenant tenanttest.Tenant) *tenantpool.Lease {
	t.Helper()
	l, err := n.pools.Lease(t.Context(), tenant.Route)
	if err != nil {
		t.Fatalf("lease for %s: %v", tenant.Route.Slug, err)
	}
	return l
}

// use leases, asks who the owner is, releases.
func (n *node) use(ctx context.Context, tenant tenanttest.Tenant) error {
	l, err := n.pools.Lease(ctx, tenant.Route)
	if err != nil {
		return err
	}
	defer l.Release()
	var email string
	if err := l.QueryRow(ctx, "SELECT email FROM users WHERE id = $1", tenant.OwnerID).Scan(&email); err != nil {
		return err
	}
	if email != tenant.OwnerEmail {
		return fmt.Errorf("the owner is %s, want %s: another tenant's database", email, tenant.OwnerEmail)
	}
	return nil
}

// exec runs statements as the superuser.
func (n *node) exec(t testing.TB, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), n.SuperuserDB)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, s := range statements {
		if _, err := conn.Exec(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// backends counts this node's on the server, as Postgres sees them.
func (n *node) backends(ctx context.Context, conn *pgx.Conn) (int, error) {
	var count int
	err := conn.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE starts_with(application_name, 'ouvira/' || $1::text || '/')", n.id).Scan(&count)
	return count, err
}

// watch samples the number of backends until the returned function is called,
// which gives the highest.
func (n *node) watch(t testing.TB) (highest func() int) {
	t.Helper()
	conn := testdb.Connect(t, n.SuperuserDB)
	ctx, cancel := context.WithCancel(context.Background())
	var most atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			count, err := n.backends(ctx, conn)
			if err != nil {
				if ctx.Err() == nil {
					t.Errorf("count backends: %v", err)
				}
				return
			}
			most.Store(max(most.Load(), int64(count)))
		}
	}()
	return func() int {
		cancel()
		<-done
		return int(most.Load())
	}
}

// eventually polls until ok, or fails the test.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("this did not come true: %s", what)
		}
		<-tick.C
	}
}

// none waits until this node has no backend.
func (n *node) none(t testing.TB) {
	t.Helper()
	conn := testdb.Connect(t, n.SuperuserDB)
	eventually(t, "no backend is left", func() bool {
		count, err := n.backends(t.Context(), conn)
		return err == nil && count == 0
	})
}

func wantFault(t testing.TB, err error, kind fault.Kind, code string) *fault.Error {
	t.Helper()
	var f *fault.Error
	if !errors.As(err, &f) || f.Kind != kind || f.EffectiveCode() != code {
		t.Fatalf("got %v, want a fault %s/%s", err, kind, code)
	}
	return f
}
