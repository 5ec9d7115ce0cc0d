// Package tenantpool leases connections to tenants' databases.
//
// Nobody ever holds a pool: a caller leases one connection, uses it, releases
// it. Behind that stand at most MaxPools pools, the least recently used going
// first, and one connection budget for each Postgres server, which all pools of
// the server share. Pools are our own and not pgxpool's: who gets the next
// connection is decided over all pools of a server at once, in one place, and a
// pool of the library's would keep a second queue of its own. The package promises (numbers are those of the
// routing invariants):
//
//   - 1. Open backends of this process on a server never exceed the share of
//     the server's budget that it has leased. A permit is a socket: taken before
//     the dial, given back when the server has closed its end.
//   - 2. A pool is closed only when nothing can reach it and no lease is out.
//   - 3. A pool belongs to one tenant and one digest of its connection facts;
//     a lease is always made by the newest route that the directory knows.
//   - 4. Each new connection proves by the marker that it is in the right
//     database and incarnation.
//   - 5. Only what failed while connecting is tried again: once, and only by a
//     newer route. A refusal re-reads the route first, a few times within half
//     a second.
//   - 6. No lock is held across I/O. A cold tenant opens at most its cap.
//   - 7. Waiting is bounded, in time and in number, and ends in 429 (the tenant's
//     own cap) or 503 (the server). Permits go to the tenant that has the fewest,
//     in turns among equals, so that a noisy one waits for itself.
//   - 8. A server that does not answer is not waited for, and slows no other.
//   - 12. A session that a lease has changed is not leased again.
package tenantpool

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ouvira/ouvira/dataplane/internal/directory"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/tracing"
)

// Routes is what the pools ask of the directory.
type Routes interface {
	// ByID finds a tenant that is not deleted.
	ByID(id uuid.UUID) (*route.Route, bool)
	// Admit says by which route the tenant is served now, or why it is not.
	Admit(ctx context.Context, r *route.Route) (*route.Route, error)
	// Refresh reads what was committed before the call.
	Refresh(ctx context.Context, atLeast int64) error
}

// Opener opens the credentials in routes: *seal.DataKey.
type Opener interface {
	Open(sealed, context []byte) ([]byte, error)
}

// Budget is this process's part of the servers' connection budgets:
// *budget.Lease.
type Budget interface {
	// Limit is how many connections this process may have to the server, of
	// whose budget the route says how large it is.
	Limit(server uuid.UUID, budget int) int
	// Nodes is how many nodes share the cap of each tenant.
	Nodes() int
	// Instance is in the name of each connection. It changes only while there is
	// none.
	Instance() string
	// Age is the time since the limits were renewed.
	Age() time.Duration
	// Short says that somebody waits because a limit is reached.
	Short()
	// Expelled says that a server has refused the instance.
	Expelled(instance string)
}

// Options of Pools. NodeID, Budget, Routes and Key are required.
type Options struct {
	NodeID string // shown to Postgres as application_name ouvira/<NodeID>/<instance>
	Budget Budget
	Routes Routes
	Key    Opener

	MaxPools       int           // pools kept at once; default 1,000
	Wait           time.Duration // bound on waiting for a connection; default 3 s
	BackgroundWait time.Duration // the same for background work, which should be more; default three times that and a second
	TenantLine     int           // may wait for one tenant's connections at once; default 2,000
	ServerLine     int           // the same for all connections to one server; default 8,000
	ConnectTimeout time.Duration // bound on making one; default 5 s
	IdleFor        time.Duration // an unused connection is closed after this; default 5 min
	PoolFor        time.Duration // an unused pool is forgotten after this; default 15 min
	Log            *slog.Logger
	Registerer     prometheus.Registerer // nil: no metrics
}

// Pools leases connections to tenants' databases. Make one with New, pass its
// RouteChanged to directory.Subscribe, and Close it after the last request.
//
// How its locks work together. There are two kinds: mu, one for the process,
// guards which pool a tenant has; server.mu, one for each Postgres server,
// guards its connections, permits and waiters. Neither is ever held while a
// network is waited for. server.mu may be taken while mu is held, never the
// other way round.
//
// A pool counts what can reach it. The LRU's own hold is the flag retired; each
// lease, and each attempt to get one, is a reference taken under mu while the
// pool was found in the LRU. Hence a pool that has left the LRU gains no new
// references, and whoever sees both "retired" and "no references" first (the
// one who retires it, or the last to let go) closes it.
//
// A route changes like this: the directory publishes it, then calls
// RouteChanged, which takes the tenant's pool out of the LRU if its key differs,
// or if the tenant is not served now; who waits in its line starts again. An
// attempt that has a connection looks at the directory once more: if the tenant's
// route is another one by then, it lets go and starts again.
//
// A connection is opened like this: an attempt that finds no idle connection
// stands in its pool's line. When its turn has come, the server grants the pool
// a permit, and a goroutine that outlives the attempt dials with it and proves
// the marker. What comes of it goes to whoever is first in line then, or is
// idle. The permit goes back when the socket is closed, however the attempt
// ended: see permit and socket. Whenever something changes, the server is
// settled: see queue for who comes next, and idleList for who makes room.
type Pools struct {
	options Options
	base    *pgx.ConnConfig
	works   works
	meters  *meters

	mu      sync.Mutex
	pools   *simplelru.LRU[uuid.UUID, *pool] // by tenant: a tenant has one live pool
	servers map[uuid.UUID]*server
	round   uint64      // of the janitor
	janitor *time.Timer // nil before the first pool
	closed  bool

	nodes atomic.Int64 // that share the cap of each tenant

	// open counts pools that are not closed yet and sockets that are not
	// returned yet.
	open sync.WaitGroup
}

// New checks the options. Nothing is contacted before the first Lease.
func New(o Options) (*Pools, error) {
	switch {
	case o.NodeID == "":
		return nil, errors.New("the node has no name: set OUVIRA_NODE_ID")
	case o.Routes == nil || o.Key == nil || o.Budget == nil:
		return nil, errors.New("tenantpool needs routes, the data key and a connection budget")
	}
	o = o.withDefaults()
	base, err := baseConfig(o)
	if err != nil {
		return nil, err
	}
	// One more than is kept: eviction is ours, under our lock, not a callback's.
	pools, err := simplelru.NewLRU[uuid.UUID, *pool](o.MaxPools+1, nil)
	if err != nil {
		return nil, err
	}
	p := &Pools{options: o, base: base, pools: pools, servers: map[uuid.UUID]*server{}}
	p.nodes.Store(int64(o.Budget.Nodes()))
	p.works = works{dial: func(e *pool) { go e.dial() }, end: endConn}
	p.meters, err = newMeters(p, o.Registerer)
	return p, err
}

func (o Options) withDefaults() Options {
	o.MaxPools = cmp.Or(max(o.MaxPools, 0), 1000)
	o.Wait = cmp.Or(max(o.Wait, 0), 3*time.Second)
	o.BackgroundWait = cmp.Or(max(o.BackgroundWait, 0), 3*o.Wait+time.Second)
	// A stampede of 1,000 first requests at one tenant is served.
	o.TenantLine = cmp.Or(max(o.TenantLine, 0), 2000)
	o.ServerLine = cmp.Or(max(o.ServerLine, 0), 8000)
	o.ConnectTimeout = cmp.Or(max(o.ConnectTimeout, 0), 5*time.Second)
	o.IdleFor = cmp.Or(max(o.IdleFor, 0), 5*time.Minute)
	o.PoolFor = cmp.Or(max(o.PoolFor, 0), 15*time.Minute)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Lease gives a connection to the tenant's database; the caller must Release
// it. r is what the request was routed by; the lease is made by the newest
// route that the directory knows (see Lease.Route).
//
// Faults: 403 suspended, 404 gone, 429 the tenant's own cap is in use, 503
// with Retry-After when the server's budget is in use or it does not answer,
// or the tenant is under maintenance.
func (p *Pools) Lease(ctx context.Context, r *route.Route) (*Lease, error) {
	begun := time.Now()
	ctx, span := tracing.Start(ctx, "lease")
	lease, err := p.obtain(ctx, r, patience{bound: p.options.Wait})
	p.leased(ctx, r, begun, lease, err)
	tracing.End(span, err)
	return lease, err
}

// Background is Lease for work that nobody waits for. It must not cost those
// who do: it waits longer, and behind requests; it has no connection closed that
// was used a moment ago, before it has waited as long as a request would; and it
// keeps no tenant warm. A connection that only background work has used is
// closed at its release.
func (p *Pools) Background(ctx context.Context, r *route.Route) (*Lease, error) {
	return p.obtain(ctx, r, patience{background: true, first: p.options.Wait, bound: p.options.BackgroundWait})
}

func (p *Pools) obtain(ctx context.Context, r *route.Route, patience patience) (*Lease, error) {
	current, err := p.current(ctx, r.TenantID)
	if err != nil {
		return nil, err
	}
	for retried := false; ; {
		lease, err := p.lease(ctx, &patience, current)
		switch {
		case err == nil:
			return lease, nil
		case errors.Is(err, errStale) && patience.left() > 0:
			// Nobody refused: begin again with what is current now.
			if current, err = p.current(ctx, r.TenantID); err != nil {
				return nil, err
			}
			continue
		case retried || !mayBeStale(err):
			return nil, p.refuse(ctx, current, err)
		}
		newer, refused := p.reread(ctx, &patience, current)
		if refused != nil {
			return nil, refused
		}
		if newer == nil {
			return nil, p.refuse(ctx, current, err)
		}
		current, retried = newer, true
	}
}

// current is the newest route of the tenant, if it is served.
func (p *Pools) current(ctx context.Context, tenant uuid.UUID) (*route.Route, error) {
	r, ok := p.options.Routes.ByID(tenant)
	if !ok {
		return nil, directory.Refusal(nil)
	}
	return p.options.Routes.Admit(ctx, r)
}

// lease makes one attempt by one route.
func (p *Pools) lease(ctx context.Context, patience *patience, r *route.Route) (*Lease, error) {
	e, err := p.pool(r, patience.background)
	if err != nil {
		return nil, err
	}
	c, err := e.acquire(ctx, patience)
	if err != nil {
		e.unref()
		return nil, err
	}
	lease := &Lease{pool: e, conn: c, route: r}
	if p.superseded(e, r) {
		lease.Release()
		return nil, errStale
	}
	return lease, nil
}

// superseded tells whether the tenant is not served any more by the route, and
// the pool, that a lease is about to be made by.
func (p *Pools) superseded(e *pool, r *route.Route) bool {
	now, ok := p.options.Routes.ByID(r.TenantID)
	return e.stale.Load() || !ok || (now != r && (directory.Refusal(now) != nil || now.PoolKey() != e.key))
}

// newPool is called with mu held.
func (p *Pools) newPool(r *route.Route) *pool {
	s := p.servers[r.Server.ID]
	if s == nil {
		s = newServer(r.Server, p.options.Budget, p.options.Log, p.works)
		s.perTenant, s.perServer = p.options.TenantLine, p.options.ServerLine
		p.servers[r.Server.ID] = s
	}
	s.resize(r.Server)
	if p.janitor == nil {
		p.janitor = time.AfterFunc(janitorEvery, p.tidy)
	}
	p.open.Add(1)
	e := &pool{owner: p, server: s, route: r, made: r, key: r.PoolKey()}
	e.life, e.end = context.WithCancel(context.Background())
	return e
}

// Close refuses new leases, waits until all are released and all connections
// are closed, or until ctx ends.
func (p *Pools) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	if p.janitor != nil {
		p.janitor.Stop()
	}
	live := p.pools.Values()
	p.pools.Purge()
	p.mu.Unlock()
	for _, e := range live {
		e.retire()
	}
	done := make(chan struct{})
	go func() {
		p.open.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fault.Unavailable("Leases are still out.").Because(ctx.Err())
	}
}
