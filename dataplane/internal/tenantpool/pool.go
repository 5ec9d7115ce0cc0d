package tenantpool

import (
	"container/list"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ouvira/ouvira/shared/route"
)

// pool is one tenant's connections by one set of connection facts. It costs
// next to nothing while it has none: what makes a connection is put together
// when one is made.
type pool struct {
	owner  *Pools
	server *server
	made   *route.Route // by which it was made
	key    route.PoolKey

	route *route.Route // the newest of the same key; guarded by Pools.mu
	round uint64       // of the janitor, in which a request came last; likewise

	refs atomic.Int64 // leases and attempts
	open atomic.Int64 // permits

	retired atomic.Bool // has left the LRU
	stale   atomic.Bool // … because its route is not the tenant's any more
	closing sync.Once

	life context.Context //nolint:containedctx // of its dials, which outlive who asked for them
	end  func()          // of it, when nothing can reach the pool any more

	// Guarded by server.mu.
	idle     []*conn      // the warmest is last
	lines    [2]list.List // of waiters; see queue
	dialing  int          // dials on their way
	usage    *usage       // of its tenant, as long as it has a permit
	full     bool         // the role's own limit has refused the last dial
	paused   bool         // … a moment ago
	wants    [2]int       // see queue.wants
	without  bool         // … and queue.without
	standing standing
}

// cap is this process's part of the tenant's cap, which all nodes share. The
// role's own limit at the server stands behind it.
func (e *pool) cap() int {
	return max(1, e.made.MaxConnections/max(1, int(e.owner.nodes.Load())))
}

// follow has the pool go on by a newer route, if its connections are as good for
// that as new ones: the facts are the same, and so is the schema. Connections
// from before a migration hold plans of statements whose results look otherwise
// now. It is called with Pools.mu held.
func (e *pool) follow(r *route.Route) bool {
	if e.key != r.PoolKey() || e.made.SchemaVersion != r.SchemaVersion {
		return false
	}
	e.route = r
	return true
}

// acquire gets a connection, or waits for one as long as patience lasts.
func (e *pool) acquire(ctx context.Context, patience *patience) (*conn, error) {
	for {
		c, w, err := e.server.takeOrWait(e, patience.background)
		switch {
		case err != nil:
			return nil, err
		case w != nil:
			return e.wait(ctx, w, patience)
		case c.alive(ctx):
			return c, nil
		}
		e.server.discard(c)
	}
}

// wait waits for the answer.
func (e *pool) wait(ctx context.Context, w *waiter, patience *patience) (*conn, error) {
	s := e.server
	select {
	case a := <-w.answer:
		return a.conn, a.err
	default:
	}
	if s.lacks(e) {
		e.owner.meters.waited(s)
		if _, open, limit, _ := s.counts(); open >= limit {
			s.budget.Short()
		}
		if s.broken() { // and would not be dialled with a permit
			return e.leave(w, errNoAnswer)
		}
	}
	timer := time.NewTimer(patience.next())
	defer timer.Stop()
	for {
		select {
		case a := <-w.answer:
			return a.conn, a.err
		case <-ctx.Done():
			return e.leave(w, ctx.Err())
		case <-timer.C:
			left := patience.left()
			if left <= 0 {
				return e.leave(w, nil)
			}
			s.promote(w)
			timer.Reset(left)
		}
	}
}

// leave gives up waiting. err is why, or nil when it was too long.
func (e *pool) leave(w *waiter, err error) (*conn, error) {
	unanswered, why := e.server.withdraw(w)
	switch {
	case unanswered && err == nil:
		return nil, why
	case unanswered:
		return nil, err
	}
	a := <-w.answer
	if err == nil || a.conn == nil {
		return a.conn, a.err
	}
	e.server.give(a.conn, true)
	return nil, err
}

// retire is called when the pool has left the LRU. Idle connections go now;
// the rest when their leases end.
func (e *pool) retire() {
	e.refs.Add(1)
	e.retired.Store(true)
	e.server.retire(e)
	e.unref()
}

// unref lets go of a reference; the last one of a retired pool closes it.
func (e *pool) unref() {
	if e.refs.Add(-1) == 0 && e.retired.Load() {
		e.closing.Do(func() {
			e.end()
			e.owner.open.Done()
		})
	}
}

// patience is how long a Lease waits for a connection, counted from the first
// time that it has to.
type patience struct {
	background bool
	first      time.Duration // background work is promoted after this
	bound      time.Duration
	until      time.Time
}

// end is when it is over.
func (p *patience) end() time.Time {
	if p.until.IsZero() {
		p.until = time.Now().Add(p.bound)
	}
	return p.until
}

func (p *patience) left() time.Duration { return time.Until(p.end()) }

// next is how long until something is to be done.
func (p *patience) next() time.Duration {
	if p.background {
		return min(p.first, p.left())
	}
	return p.left()
}
