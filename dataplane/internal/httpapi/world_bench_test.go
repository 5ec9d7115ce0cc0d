package httpapi_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ouvira/ouvira/dataplane/internal/directory"
	"github.com/ouvira/ouvira/dataplane/internal/tenantpool"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/testdb"
	"github.com/ouvira/ouvira/shared/testdb/sidebyside"
)

const (
	// manyTenants is how many real databases a world has.
	manyTenants = 1000
	// worldConnections is what its server takes: a connection to each tenant
	// for one way of serving them, and a few hundred for the other.
	worldConnections = manyTenants + 500
)

// world is a thousand tenants on a server of their own, a control database that
// knows them, and a directory.
type world struct {
	*tenanttest.Fixture
	*directory.Directory

	tenants []tenanttest.Tenant
	address string // of the control database
	control *pgx.Conn
	pools   atomic.Pointer[tenantpool.Pools] // those of the present benchmark
	look    *pgxpool.Pool                    // of the superuser, at the tenants' server

	requests map[string][]byte // those of tenants' owners, by slug
	signedIn time.Time         // before the first of their tokens

	rounds int
	each   time.Duration
}

// newWorld makes it, and a small one for `go test -short`: to see that
// everything works.
func newWorld(b *testing.B) *world {
	b.Helper()
	w := &world{rounds: 5, each: 2 * time.Second}
	n := manyTenants
	if testing.Short() {
		n, w.rounds, w.each = 90, 1, 300*time.Millisecond
	}
	w.Fixture, w.tenants = tenanttest.NewFleet(b, n, worldConnections)
	w.address = w.Control(b, w.tenants...)
	w.control = testdb.Connect(b, w.address)
	w.Directory = w.DirectoryOf(b, w.address, n, func(e directory.Event) {
		if pools := w.pools.Load(); pools != nil {
			pools.RouteChanged(e)
		}
	})
	var err error
	if w.look, err = pgxpool.New(b.Context(), w.SuperuserDB); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(w.look.Close)
	return w
}

// node serves the world with fresh pools within a budget.
func (w *world) node(b *testing.B, budget int) *routing {
	b.Helper()
	w.setBudget(b, budget)
	pools, err := tenantpool.New(tenantpool.Options{NodeID: "bench", Budget: tenanttest.NewBudget(), Routes: w.Directory, Key: w.Key})
	if err != nil {
		b.Fatal(err)
	}
	w.pools.Store(pools)
	b.Cleanup(func() {
		w.pools.Store(nil)
		if err := pools.Close(context.Background()); err != nil {
			b.Errorf("close the pools: %v", err)
		}
	})
	return &routing{Directory: w.Directory, pools: pools}
}

// setBudget publishes what the tenants' server may have of connections.
func (w *world) setBudget(b *testing.B, budget int) {
	b.Helper()
	if _, err := w.control.Exec(b.Context(), "UPDATE control.servers SET max_connections = $2 WHERE id = $1", w.Server.ID, budget); err != nil {
		b.Fatal(err)
	}
	if _, err := w.control.Exec(b.Context(), "SELECT control.publish_server($1)", w.Server.ID); err != nil {
		b.Fatal(err)
	}
	if err := w.Refresh(b.Context(), 0); err != nil {
		b.Fatal(err)
	}
}

// way is one of two ways of serving the tenants.
type way struct {
	op       func(worker int)
	backends string // SQL: which of pg_stat_activity are its own
	settle   bool   // work a moment before each turn, because the other way takes connections away
}

// oursBackends are a node's.
const oursBackends = "application_name LIKE 'ouvira/%'"

// compare is sidebyside.Throughput, with the backends that each way held at the
// most, and how many of its requests found a connection.
func (w *world) compare(b *testing.B, clientCount int, ours, reference way) {
	b.Helper()
	// Connections are made until either has as many as it keeps.
	sidebyside.Run(clientCount, w.each, ours.op)
	sidebyside.Run(clientCount, w.each, reference.op)
	counts := w.watch(ours, reference)
	var requests, connects [2]float64
	turn := func(i int, way way) func(float64) sidebyside.Turn {
		return func(share float64) sidebyside.Turn {
			if way.settle {
				sidebyside.Run(clientCount, w.each/4, way.op)
			}
			before := w.connects(b)
			t := sidebyside.Run(clientCount, time.Duration(share*float64(w.each)), way.op)
			if share == 1 {
				requests[i] += float64(len(t.Took))
				connects[i] += w.connects(b) - before
			}
			return t
		}
	}
	sidebyside.TurnByTurn(b, w.rounds, turn(0, ours), turn(1, reference))
	most := counts()
	for i, whose := range []string{"ours", "reference"} {
		b.ReportMetric(most[i], whose+"-backends")
		b.ReportMetric(max(0, 1-connects[i]/requests[i]), whose+"-hit-rate")
	}
}

// connects is how many connections the tenants' databases have seen.
func (w *world) connects(b *testing.B) (n float64) {
	b.Helper()
	if err := w.look.QueryRow(b.Context(), `SELECT coalesce(sum(sessions), 0)::float8 FROM pg_stat_database WHERE datname LIKE 'ov\_%'`).Scan(&n); err != nil {
		b.Fatal(err)
	}
	return n
}

// watch counts the backends of each way until the returned function is called,
// which gives the most that each of them had.
func (w *world) watch(ways ...way) (most func() []float64) {
	ask := "SELECT ARRAY["
	for i, way := range ways {
		if i > 0 {
			ask += ", "
		}
		ask += fmt.Sprintf("count(*) FILTER (WHERE %s)", way.backends)
	}
	ask += "]::float8[] FROM pg_stat_activity WHERE backend_type = 'client backend'"
	ctx, cancel := context.WithCancel(context.Background())
	highest := make([]float64, len(ways))
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			var now []float64
			if err := w.look.QueryRow(ctx, ask).Scan(&now); err == nil {
				for i := range highest {
					highest[i] = max(highest[i], now[i])
				}
			}
			<-tick.C
		}
	}()
	return func() []float64 {
		cancel()
		<-done
		return highest
	}
}
