// Package tenantpool leases connections to tenants' databases.
//
// Nobody ever holds a pool: a caller leases one connection, uses it, releases
// it. Behind that stand at most MaxPools pgx pools, the least recently used
// going first, and one connection budget for each Postgres server, which all
// pools of the server share. The package promises (numbers are those of the
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
//   - 7. Waiting is bounded and ends in 429 (the tenant's own cap) or 503 (the
//     server). Permits go to the tenant that has the fewest, so that a noisy
//     one waits for itself.
//   - 8. A server that does not answer is not waited for, and slows no other.
//   - 12. A session that a lease has changed is not leased again.
package tenantpool

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ouvira/ouvira/dataplane/internal/directory"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/route"
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
	ConnectTimeout time.Duration // bound on making one; default 5 s
	Log            *slog.Logger
	Registerer     prometheus.Registerer // nil: no metrics
}

// Pools leases connections to tenants' databases. Make one with New, pass its
// RouteChanged to directory.Subscribe, and Close it after the last request.
//
// How its locks work together. There are two kinds: mu, one for the process,
// guards which pool a tenant has; server.mu, one for each Postgres server,
// guards who may open a connection there. Neither is ever held while a network
// is waited for. server.mu may be taken while mu is held, never the other way
// round. Below server.mu only the locks inside pgx's pool are taken (to count
// idle connections), and pgx calls none of our hooks while it holds them.
//
// A pool counts what can reach it. The LRU's own hold is the flag retired; each
// lease, and each attempt to get one, is a reference taken under mu while the
// pool was found in the LRU. Hence a pool that has left the LRU gains no new
// references, and whoever sees both "retired" and "no references" first (the
// one who retires it, or the last to let go) closes it, in the background.
//
// A route changes like this: the directory publishes it, then calls
// RouteChanged, which takes the tenant's pool out of the LRU if its key differs.
// A lease that runs at the same time either finds the new route, or puts its
// pool into the LRU before RouteChanged looks there; the attempt then finds its
// pool marked stale once it has a connection, lets go and starts again.
//
// A connection is opened like this: pgx's pool, in a goroutine that outlives a
// cancelled Acquire, asks the server for a permit (BeforeConnect) and waits in
// the server's queue, dials with it, and proves the marker (AfterConnect). The
// permit goes back when the socket is closed, however the attempt ended: see
// permit and socket. Whenever something changes (somebody queues, a lease is
// released, a socket is closed), the server is settled: permits are granted to
// the poorest tenant first, whoever could use an idle connection of its own is
// sent back to take it, and for the rest idle connections of the coldest pools
// are closed.
type Pools struct {
	options Options
	base    *pgxpool.Config
	meters  *meters

	mu      sync.Mutex
	pools   *simplelru.LRU[uuid.UUID, *pool] // by tenant: a tenant has one live pool
	servers map[uuid.UUID]*server
	tick    uint64 // counts leases; a pool's last one tells how cold it is
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
	if o.MaxPools <= 0 {
		o.MaxPools = 1000
	}
	if o.Wait <= 0 {
		o.Wait = 3 * time.Second
	}
	if o.ConnectTimeout <= 0 {
		o.ConnectTimeout = 5 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
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
	p.meters, err = newMeters(p, o.Registerer)
	return p, err
}

// Lease gives a connection to the tenant's database; the caller must Release
// it. r is what the request was routed by; the lease is made by the newest
// route that the directory knows (see Lease.Route).
//
// Faults: 403 suspended, 404 gone, 429 the tenant's own cap is in use, 503
// with Retry-After when the server's budget is in use or it does not answer,
// or the tenant is under maintenance.
func (p *Pools) Lease(ctx context.Context, r *route.Route) (*Lease, error) {
	waiting, cancel := context.WithTimeout(ctx, p.options.Wait)
	defer cancel()
	current, err := p.current(ctx, r.TenantID)
	if err != nil {
		return nil, err
	}
	for retried := false; ; {
		lease, err := p.lease(ctx, waiting, current)
		switch {
		case err == nil:
			return lease, nil
		case errors.Is(err, errStale) && waiting.Err() == nil:
			// Nobody refused: begin again with what is current now.
			if current, err = p.current(ctx, r.TenantID); err != nil {
				return nil, err
			}
			continue
		case retried || !mayBeStale(err):
			return nil, p.refuse(ctx, current, err)
		}
		newer, refused := p.reread(ctx, waiting, current)
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
func (p *Pools) lease(ctx, waiting context.Context, r *route.Route) (*Lease, error) {
	e, err := p.pool(r)
	if err != nil {
		return nil, err
	}
	conn, err := e.acquire(ctx, waiting)
	if err != nil {
		e.unref()
		return nil, err
	}
	lease := &Lease{pool: e, conn: conn, route: r}
	if e.stale.Load() {
		lease.Release()
		return nil, errStale
	}
	return lease, nil
}

// pool finds or makes the pool for the route and takes a reference to it.
func (p *Pools) pool(r *route.Route) (*pool, error) {
	e, evicted, err := p.reach(r)
	for _, old := range evicted {
		old.retire()
	}
	if err != nil {
		return nil, err
	}
	if err := e.build(); err != nil {
		p.forget(e)
		e.unref()
		return nil, err
	}
	return e, nil
}

// reach does the part of pool that needs the lock.
func (p *Pools) reach(r *route.Route) (e *pool, evicted []*pool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, errClosed
	}
	p.tick++
	e, ok := p.pools.Get(r.TenantID)
	if ok && e.route != r {
		if e.key == r.PoolKey() {
			e.route = r // a change that connections do not depend on
		} else {
			p.pools.Remove(r.TenantID)
			e.stale.Store(true)
			evicted = append(evicted, e)
			ok = false
		}
	}
	if !ok {
		e = p.newPool(r)
		p.pools.Add(r.TenantID, e)
		for p.pools.Len() > p.options.MaxPools {
			_, oldest, _ := p.pools.RemoveOldest()
			evicted = append(evicted, oldest)
		}
	}
	e.refs.Add(1)
	e.used.Store(p.tick)
	return e, evicted, nil
}

// newPool is called with mu held.
func (p *Pools) newPool(r *route.Route) *pool {
	s := p.servers[r.Server.ID]
	if s == nil {
		s = newServer(r.Server, p.options.Budget, p.options.Log)
		p.servers[r.Server.ID] = s
	}
	s.resize(r.Server)
	p.open.Add(1)
	return &pool{owner: p, server: s, route: r, made: r, key: r.PoolKey()}
}

// forget takes the pool out of the LRU, if it is the one that is there.
func (p *Pools) forget(e *pool) {
	p.mu.Lock()
	if live, ok := p.pools.Peek(e.made.TenantID); ok && live == e {
		p.pools.Remove(e.made.TenantID)
	}
	p.mu.Unlock()
	e.retire()
}

// RouteChanged retires the tenant's pool when its route has changed in what a
// connection is made from, or the tenant is not served any more. It does not
// block.
func (p *Pools) RouteChanged(e directory.Event) {
	id := uuid.Nil
	switch {
	case e.New != nil:
		id = e.New.TenantID
	case e.Old != nil:
		id = e.Old.TenantID
	}
	if e.New != nil {
		p.mu.Lock()
		s := p.servers[e.New.Server.ID]
		p.mu.Unlock()
		if s != nil {
			s.resize(e.New.Server)
		}
	}
	served := e.New != nil && !e.New.Deleted && e.New.Status == route.StatusActive
	p.mu.Lock()
	live, ok := p.pools.Peek(id)
	if ok && served && (live.key == e.New.PoolKey() || live.route.Version > e.New.Version) {
		ok = false
	}
	if ok {
		p.pools.Remove(id)
		live.stale.Store(true)
	}
	p.mu.Unlock()
	if ok {
		live.retire()
	}
}

// Close refuses new leases, waits until all are released and all connections
// are closed, or until ctx ends.
func (p *Pools) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
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
