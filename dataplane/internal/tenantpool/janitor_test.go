package tenantpool

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/dataplane/internal/directory"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/route"
)

// known is the routes of tenants that have no database.
type known map[uuid.UUID]*route.Route

func (k known) ByID(id uuid.UUID) (*route.Route, bool) {
	r, ok := k[id]
	return r, ok
}

func (known) Admit(_ context.Context, r *route.Route) (*route.Route, error) {
	return r, directory.Refusal(r)
}

func (known) Refresh(context.Context, int64) error { return nil }

type noKey struct{}

func (noKey) Open(_, _ []byte) ([]byte, error) { return nil, nil }

// within makes pools whose connections are made and ended by nobody, in a bubble
// with a clock of its own, and n tenants.
func within(t *testing.T, tenants int, o Options, test func(t *testing.T, p *Pools, routes []*route.Route, ended *[]*conn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		k := known{}
		o.NodeID, o.Budget, o.Routes, o.Key = "n", tenanttest.NewBudget(), k, noKey{}
		p, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		var ended []*conn
		p.works.dial = func(e *pool) {
			go func() {
				now := time.Now()
				c := &conn{pool: e, sock: &socket{pool: e, look: func() bool { return true }}, made: now, idleSince: now, expires: now.Add(time.Hour)}
				e.server.connected(e, c.sock)
				e.server.dialled(e, c, nil)
			}()
		}
		p.works.end = func(c *conn) {
			ended = append(ended, c)
			go c.pool.server.returned(c.pool, c.sock)
		}
		server := &route.Server{ID: uuid.New(), MaxConnections: 1000}
		var routes []*route.Route
		for range tenants {
			r := &route.Route{TenantID: uuid.New(), Status: route.StatusActive, Mode: route.ModeServe, MaxConnections: 10, Server: server}
			k[r.TenantID] = r
			routes = append(routes, r)
		}
		test(t, p, routes, &ended)
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// use leases n connections at once and gives them back.
func use(t *testing.T, p *Pools, r *route.Route, n int) {
	t.Helper()
	var leases []*Lease
	for range n {
		l, err := p.Lease(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		leases = append(leases, l)
	}
	for _, l := range leases {
		l.pool.server.give(l.conn, true)
		l.pool.unref()
	}
}

func (p *Pools) live() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pools.Len()
}

// Connections that nobody uses are closed after IdleFor, one by one also in a
// pool that is in use; pools that nobody uses are forgotten after PoolFor.
func TestInvariant02TheJanitorClosesWhatNobodyUses(t *testing.T) {
	t.Parallel()
	within(t, 2, Options{}, func(t *testing.T, p *Pools, routes []*route.Route, ended *[]*conn) {
		use(t, p, routes[0], 5)
		use(t, p, routes[1], 1)
		for range 34 {
			time.Sleep(25 * time.Second) //nolint:forbidigo // the clock is the bubble's; no ping comes before 30 s
			use(t, p, routes[0], 1)
		}
		if len(*ended) != 5 || p.live() != 2 {
			t.Errorf("%d connections were closed, want four of the busy tenant and the idle one's; %d pools live", len(*ended), p.live())
		}
		time.Sleep(2 * time.Minute) //nolint:forbidigo // the clock is the bubble's
		if p.live() != 1 {
			t.Errorf("%d pools live: one was not used for a quarter of an hour", p.live())
		}
		use(t, p, routes[1], 1)
		if p.live() != 2 {
			t.Error("the tenant is not served again")
		}
	})
}

// Ten thousand idle pools have no goroutine and no timer each: the janitor's is
// all that there is, and it leaves nothing behind.
func TestInvariant02TheJanitorForgetsTenThousand(t *testing.T) {
	t.Parallel()
	within(t, 10_000, Options{MaxPools: 10_000}, func(t *testing.T, p *Pools, routes []*route.Route, _ *[]*conn) {
		for _, r := range routes {
			e, err := p.pool(r, false)
			if err != nil {
				t.Fatal(err)
			}
			e.unref()
		}
		if p.live() != 10_000 {
			t.Errorf("%d pools live", p.live())
		}
		time.Sleep(16 * time.Minute) //nolint:forbidigo // the clock is the bubble's
		if p.live() != 0 {
			t.Errorf("%d pools live after 16 minutes", p.live())
		}
	})
}

// A pool too many costs one without connections first, then one that nobody
// uses, then the least recently used.
func TestInvariant02ThePoolThatIsLeastUsefulGoes(t *testing.T) {
	t.Parallel()
	within(t, 5, Options{MaxPools: 3}, func(t *testing.T, p *Pools, routes []*route.Route, _ *[]*conn) {
		lives := func(r *route.Route) bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.pools.Contains(r.TenantID)
		}
		held, err := p.Lease(t.Context(), routes[0]) // in use, and used the longest ago
		if err != nil {
			t.Fatal(err)
		}
		use(t, p, routes[1], 1) // has an idle connection
		bare, err := p.pool(routes[2], false)
		if err != nil {
			t.Fatal(err)
		}
		bare.unref() // has none, and was used last
		use(t, p, routes[3], 1)
		if lives(routes[2]) || !lives(routes[1]) || !lives(routes[0]) {
			t.Error("another one than that without a connection went")
		}
		use(t, p, routes[4], 1)
		if lives(routes[1]) || !lives(routes[0]) {
			t.Error("another one than the idle one went")
		}
		held.pool.server.give(held.conn, true)
		held.pool.unref()
	})
}
