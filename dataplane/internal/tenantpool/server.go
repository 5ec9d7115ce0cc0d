package tenantpool

import (
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/sony/gobreaker/v2"

	"github.com/ouvira/ouvira/shared/route"
)

// server is this process's share of one Postgres server's connection budget, for
// all pools on it, with everybody who waits for a connection there (queue.go) and all
// connections that nobody uses (idle.go). It lives as long as the process: what
// is known of a server survives the eviction of pools.
//
// It is one state behind one lock: whoever changes something (a lease, a
// release, a socket that is closed, another limit) settles it before letting go
// of the lock, so that nobody ever waits for what could be had.
type server struct {
	id     uuid.UUID
	budget Budget
	log    *slog.Logger
	works  works

	mu      sync.Mutex
	name    string
	version int64
	address string
	breaker *gobreaker.TwoStepCircuitBreaker[struct{}] // of the address
	whole   int                                        // the server's budget
	limit   int                                        // this process's share of it
	open    int                                        // permits out: sockets, and dials on their way
	closing int                                        // of these, sockets that we are closing
	tenants map[uuid.UUID]*usage
	idle    idleList
	cold    int // connections closed to make room, the coldest first
	yielded int // … and those that a tenant had to yield

	queue

	tlsConfig
}

// works is what a server has done by others, who do not block.
type works struct {
	dial func(*pool) // makes a connection with a permit of the pool's
	end  func(*conn) // ends a connection
}

// usage is what one tenant holds and wants here, in all its pools, those out of
// the LRU included.
type usage struct {
	open      int
	connected int     // of these, past the marker check
	closing   int     // of these, sockets that we are closing
	waiting   []*pool // those with a waiter; more than one only while a pool leaves the LRU
}

func newServer(r *route.Server, budget Budget, log *slog.Logger, w works) *server {
	s := &server{id: r.ID, name: r.Name, budget: budget, log: log, works: w, tenants: map[uuid.UUID]*usage{}, version: -1}
	s.breaker = newBreaker(r.Name, log)
	return s
}

// resize sets the limit by what the route says of the server.
func (s *server) resize(to *route.Server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if to.Version >= s.version {
		s.version, s.whole, s.name = to.Version, to.MaxConnections, to.Name
		s.limit = s.budget.Limit(s.id, s.whole)
		if address := net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port))); address != s.address {
			s.address, s.breaker = address, newBreaker(to.Name, s.log)
		}
	}
	s.settle()
}

// usageOf is called with mu held, as all that follow without a lock of their own.
func (s *server) usageOf(e *pool) *usage {
	u := s.tenants[e.made.TenantID]
	if u == nil {
		u = &usage{}
		s.tenants[e.made.TenantID] = u
	}
	return u
}

// holds is how many permits the pool's tenant has.
func (s *server) holds(e *pool) int {
	if u := s.tenants[e.made.TenantID]; u != nil {
		return u.open
	}
	return 0
}

// keeps is how many permits the pool's tenant has, less those that it is giving
// back.
func (s *server) keeps(e *pool) int {
	if u := s.tenants[e.made.TenantID]; u != nil {
		return u.open - u.closing
	}
	return 0
}

// grant gives the pool a permit, and has it used.
func (s *server) grant(e *pool) {
	u := s.usageOf(e)
	u.open++
	s.open++
	e.usage = u
	e.open.Add(1)
	e.dialing++
	e.standing.turn = s.nextTurn()
	s.update(e)
	s.reconsider(e.made.TenantID)
	e.owner.open.Add(1)
	s.works.dial(e)
}

// returned takes a permit back. sock is nil when there was no socket.
func (s *server) returned(e *pool, sock *socket) {
	s.mu.Lock()
	s.open--
	e.open.Add(-1)
	u := s.tenants[e.made.TenantID]
	u.open--
	if sock != nil {
		if sock.connected {
			u.connected--
		}
		if sock.leaving {
			s.closing--
			u.closing--
		}
		sock.gone = true
	}
	for _, waiting := range u.waiting { // it has had its turn
		waiting.standing.turn = s.nextTurn()
		s.update(waiting)
	}
	s.reconsider(e.made.TenantID)
	s.settle()
	s.mu.Unlock()
	e.owner.open.Done()
}

// connected records that the socket has become a connection.
func (s *server) connected(e *pool, sock *socket) {
	s.mu.Lock()
	sock.connected = true
	s.tenants[e.made.TenantID].connected++
	s.mu.Unlock()
}

// dialled takes in what came of a dial: a connection for the first who waits,
// or the reason why there is none.
func (s *server) dialled(e *pool, c *conn, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.dialing--
	e.full = isTenantCap(err)
	switch w := s.first(e); {
	case err == nil:
		s.place(c, time.Now())
	case e.full:
		s.pause(e)
	case w != nil:
		s.answer(w, nil, err)
	}
	s.reconsider(e.made.TenantID)
	s.settle()
}

// give takes back a connection whose lease has ended. fit: its session is as a
// new one's.
func (s *server) give(c *conn, fit bool) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !c.background {
		c.warm, c.idleSince = true, now
	}
	if fit {
		s.place(c, now)
	} else {
		s.end(c)
	}
	s.settle()
}

// place finds a place for a connection that is free: with whoever waits first in
// its own pool, unless somebody poorer waits for room; else among the idle ones.
func (s *server) place(c *conn, now time.Time) {
	e := c.pool
	w := s.first(e)
	switch {
	case e.stale.Load(), now.After(c.expires), s.open-s.closing > s.limit, s.excess(e) > 0:
		s.end(c)
	case s.yields(c, w, now):
		s.yielded++
		s.end(c)
	case w != nil:
		c.background = w.background
		s.answer(w, c, nil)
	case e.retired.Load(), !c.warm && c.background:
		s.end(c)
	default:
		s.idle.add(c)
	}
}

// end closes a connection. Its permit comes back when its socket is closed.
func (s *server) end(c *conn) {
	if sock := c.sock; !sock.gone && !sock.leaving {
		sock.leaving = true
		s.closing++
		c.pool.usage.closing++
	}
	s.works.end(c)
}

// discard ends a leased connection that has turned out to be dead.
func (s *server) discard(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(c)
	s.settle()
}

// retire ends the idle connections of a pool that keeps none from now on. Who waits there is served to the end, or begins anew if the pool is stale.
func (s *server) retire(e *pool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(e.idle) > 0 {
		s.end(s.idle.remove(e.idle[0]))
	}
	if e.stale.Load() {
		for w := s.first(e); w != nil; w = s.first(e) {
			s.answer(w, nil, errStale)
		}
	}
	s.settle()
}

// endIdle ends what nobody has used since then.
func (s *server) endIdle(since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := s.idle.coldest; c != nil && c.idleSince.Before(since); c = s.idle.coldest {
		s.end(s.idle.remove(c))
	}
	s.settle()
}

// madeRoom is how many connections were closed for the good of others: idle ones
// that were the coldest, and those of tenants that had more.
func (s *server) madeRoom() (cold, yielded int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cold, s.yielded
}

// counts are what the meters show.
func (s *server) counts() (name string, open, limit, waiting int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.name, s.open, s.limit, s.waiting
}
