package tenantpool

import (
	"cmp"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/dataplane/internal/directory"
	"github.com/ouvira/ouvira/shared/route"
)

// pool finds or makes the pool for the route and takes a reference to it.
func (p *Pools) pool(r *route.Route, background bool) (*pool, error) {
	e, gone, err := p.reach(r, background)
	if gone != nil {
		gone.retire()
	}
	return e, err
}

// reach does the part of pool that needs the lock. gone has left the LRU.
//
// Background work does not count as use. For a tenant that has no pool it makes
// one outside of the LRU, so that it pushes nobody out: a retired one, which
// keeps no connection.
func (p *Pools) reach(r *route.Route, background bool) (e, gone *pool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, errClosed
	}
	e, ok := p.find(r.TenantID, background)
	if ok && e.route != r && !e.follow(r) {
		p.pools.Remove(r.TenantID)
		e.stale.Store(true)
		p.meters.evicted(e, evictedRoute)
		gone, ok = e, false
	}
	switch {
	case ok:
	case background:
		e = p.newPool(r)
		e.retired.Store(true)
	default:
		e = p.newPool(r)
		p.pools.Add(r.TenantID, e)
		if p.pools.Len() > p.options.MaxPools {
			gone = p.leastUseful(e)
			p.pools.Remove(gone.made.TenantID)
			p.meters.evicted(gone, evictedRoom)
		}
	}
	e.refs.Add(1)
	if !background {
		e.round = p.round
	}
	return e, gone, nil
}

func (p *Pools) find(tenant uuid.UUID, background bool) (*pool, bool) {
	if background {
		return p.pools.Peek(tenant)
	}
	return p.pools.Get(tenant)
}

// leastUseful is the pool that goes when there is one too many: one that has no
// connection, because it costs nothing to make again, then one that nobody uses
// now, then any; of these the least recently used.
func (p *Pools) leastUseful(but *pool) *pool {
	var unused, oldest *pool
	for _, e := range p.pools.Values() { // the oldest comes first
		switch {
		case e == but:
		case e.refs.Load() == 0 && e.open.Load() == 0:
			return e
		case unused == nil && e.refs.Load() == 0:
			unused = e
		case oldest == nil:
			oldest = e
		}
	}
	return cmp.Or(unused, oldest)
}

// outdate takes the pool out of the LRU, if it is there still: its connections
// hold plans from before a migration.
func (p *Pools) outdate(e *pool) {
	p.mu.Lock()
	live, ok := p.pools.Peek(e.made.TenantID)
	ok = ok && live == e
	if ok {
		p.pools.Remove(e.made.TenantID)
		e.stale.Store(true)
	}
	p.mu.Unlock()
	if ok {
		e.retire()
	}
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
	served := directory.Refusal(e.New) == nil
	p.mu.Lock()
	live, ok := p.pools.Peek(id)
	if ok && served && (live.route.Version > e.New.Version || live.follow(e.New)) {
		ok = false
	}
	if ok {
		p.pools.Remove(id)
		live.stale.Store(true)
		p.meters.evicted(live, evictedRoute)
	}
	p.mu.Unlock()
	if ok {
		live.retire()
	}
}
