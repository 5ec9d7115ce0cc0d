package tenantpool

import (
	"context"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/sony/gobreaker/v2"

	"github.com/ouvira/ouvira/shared/route"
)

// settleEvery is how often someone in the queue looks again by itself: a net
// under the wake-ups, for connections that become idle without a lease (their
// Acquire was cancelled).
const settleEvery = 100 * time.Millisecond

// server is this process's share of one Postgres server's connection budget, for
// all pools on it. It lives as long as the process: what is known of a server survives the
// eviction of pools.
type server struct {
	id     uuid.UUID
	name   string
	budget Budget
	log    *slog.Logger

	// pressed is false while nobody waits and the budget is kept to, which is
	// nearly always: a release then costs one load. Written with mu held.
	pressed atomic.Bool

	mu      sync.Mutex
	version int64
	address string
	breaker *gobreaker.TwoStepCircuitBreaker[struct{}] // of the address
	whole   int                                        // the server's budget
	limit   int                                        // this process's share of it
	over    bool                                       // a tenant may hold more than its cap, which has fallen
	open    int                                        // permits out: sockets, and dials on their way
	leaving int                                        // of these, sockets that are being closed to make room
	proven  time.Time                                  // when a connection last proved that this instance may connect
	tenants map[uuid.UUID]*usage
	pools   map[*pool]int // permits out by pool
	queue   []*waiter     // in order of arrival

	tlsConfig
}

// usage is what one tenant holds here, in all its pools, retired ones
// included.
type usage struct {
	open      int
	connected int // of these, past the marker check
	leaving   int // of these, sockets that are being closed to make room
}

// waiter waits for a permit. It is answered once: nil grants it.
type waiter struct {
	pool  *pool
	ready chan error // of size 1
}

func newServer(r *route.Server, budget Budget, log *slog.Logger) *server {
	s := &server{id: r.ID, name: r.Name, budget: budget, log: log, tenants: map[uuid.UUID]*usage{}, pools: map[*pool]int{}, version: -1}
	s.breaker = newBreaker(r.Name, log)
	return s
}

// resize sets the limit by what the route says of the server.
func (s *server) resize(to *route.Server) {
	s.mu.Lock()
	if to.Version >= s.version {
		s.version, s.whole, s.name = to.Version, to.MaxConnections, to.Name
		s.limit = s.budget.Limit(s.id, s.whole)
		if address := net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port))); address != s.address {
			s.address, s.breaker = address, newBreaker(to.Name, s.log)
		}
	}
	s.press()
	pressed := s.pressed.Load()
	s.mu.Unlock()
	if pressed {
		s.settle()
	}
}

// permit waits until the pool may open one more socket, nobody wants it any
// more (errTryAgain), or ctx ends because the pool is closed. A server whose
// breaker is open is not waited for (errNoAnswer).
func (s *server) permit(ctx context.Context, e *pool) (*permit, error) {
	if s.broken() {
		return nil, errNoAnswer
	}
	w := &waiter{pool: e, ready: make(chan error, 1)}
	s.mu.Lock()
	s.queue = append(s.queue, w)
	s.press()
	s.mu.Unlock()
	s.settle()
	select {
	case err := <-w.ready:
		return grantedTo(e, err)
	default:
	}
	e.owner.meters.waited(s)
	if _, open, limit, _ := s.counts(); open >= limit {
		s.budget.Short()
	}
	again := time.NewTicker(settleEvery)
	defer again.Stop()
	for {
		select {
		case err := <-w.ready:
			return grantedTo(e, err)
		case <-again.C:
			s.settle()
		case <-ctx.Done():
			if !s.withdraw(w) && <-w.ready == nil {
				s.returned(e, nil)
			}
			return nil, ctx.Err()
		}
	}
}

func grantedTo(e *pool, err error) (*permit, error) {
	if err != nil {
		return nil, err
	}
	report, err := e.server.dials().Allow()
	if err != nil {
		e.server.returned(e, nil)
		return nil, errNoAnswer
	}
	return &permit{pool: e, report: report, instance: e.server.budget.Instance()}, nil
}

// withdraw takes w out of the queue; false means that it has been answered.
func (s *server) withdraw(w *waiter) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, queued := range s.queue {
		if queued == w {
			s.queue = append(s.queue[:i], s.queue[i+1:]...)
			s.press()
			return true
		}
	}
	return false
}

// returned takes a permit back. sock is nil when the dial failed.
func (s *server) returned(e *pool, sock *socket) {
	s.mu.Lock()
	s.open--
	u := s.tenants[e.made.TenantID]
	u.open--
	if sock != nil {
		if sock.connected {
			u.connected--
		}
		if sock.leaving {
			s.leaving--
			u.leaving--
		}
		sock.gone = true
	}
	if u.open == 0 {
		delete(s.tenants, e.made.TenantID)
	}
	if s.pools[e]--; s.pools[e] == 0 {
		delete(s.pools, e)
	}
	s.press()
	s.mu.Unlock()
	s.settle()
	e.owner.open.Done()
}

// connected records that the socket has become a connection.
func (s *server) connected(e *pool, sock *socket) {
	s.mu.Lock()
	sock.connected = true
	s.tenants[e.made.TenantID].connected++
	first := s.unproven()
	s.proven = time.Now()
	s.mu.Unlock()
	if first {
		s.settleIfPressed()
	}
}

// leave marks a socket that is about to be closed to make room. false: it is
// closed already.
func (s *server) leave(sock *socket) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sock.gone || sock.leaving {
		return false
	}
	s.leaves(sock.pool, sock)
	return true
}

// leaves is called with mu held.
func (s *server) leaves(e *pool, sock *socket) {
	sock.leaving = true
	s.tenants[e.made.TenantID].leaving++
}

// press is called with mu held, after each change.
func (s *server) press() {
	s.pressed.Store(len(s.queue) > 0 || s.over || s.open-s.leaving > s.limit)
}

// settle answers whom it can and makes room for whom it cannot.
func (s *server) settle() { s.dismiss(s.plan()) }

// dismiss has the victims close what they shall, which counts as leaving
// already.
func (s *server) dismiss(victims []victim) {
	for _, v := range victims {
		if short := v.n - v.pool.dropIdle(v.n); short > 0 {
			s.mu.Lock()
			s.leaving -= short
			s.press()
			s.mu.Unlock()
		}
	}
}

func (s *server) settleIfPressed() {
	if s.pressed.Load() {
		s.settle()
	}
}

// victim is a pool that shall close n idle connections.
type victim struct {
	pool *pool
	n    int
}

// plan answers waiters and returns who shall make room for the rest. The room
// is counted as leaving already, so that plans made meanwhile do not ask for
// it twice.
func (s *server) plan() []victim {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.press()
	promised := s.answerIdle()
	for s.open < s.limit && s.mayDial() {
		w := s.takePoorest()
		if w == nil {
			break
		}
		s.grant(w)
	}
	need := s.open - s.limit + s.hungry() - s.leaving
	if need <= 0 {
		return nil
	}
	victims := s.coldest(need, promised)
	for _, v := range victims {
		s.leaving += v.n
	}
	return victims
}

// answerIdle sends back whom nobody waits for any more, and who can have an
// idle connection of its own pool. It returns how many of those each pool has
// promised away.
func (s *server) answerIdle() map[*pool]int {
	if len(s.queue) == 0 {
		return nil
	}
	promised := map[*pool]int{}
	rest := s.queue[:0]
	for _, w := range s.queue {
		if w.pool.acquiring.Load() == 0 || promised[w.pool] < w.pool.idle() {
			promised[w.pool]++
			w.ready <- errTryAgain
			continue
		}
		rest = append(rest, w)
	}
	clear(s.queue[len(rest):])
	s.queue = rest
	return promised
}

// takePoorest takes the waiter whose tenant has the fewest permits, the one
// who came first among equals, out of the queue. Tenants at their cap wait for
// themselves.
func (s *server) takePoorest() *waiter {
	best, least := -1, 0
	for i, w := range s.queue {
		has := s.holds(w.pool)
		if has < w.pool.cap() && (best < 0 || has < least) {
			best, least = i, has
		}
	}
	if best < 0 {
		return nil
	}
	w := s.queue[best]
	s.queue = append(s.queue[:best], s.queue[best+1:]...)
	return w
}

func (s *server) holds(e *pool) int {
	if u := s.tenants[e.made.TenantID]; u != nil {
		return u.open
	}
	return 0
}

func (s *server) grant(w *waiter) {
	u := s.tenants[w.pool.made.TenantID]
	if u == nil {
		u = &usage{}
		s.tenants[w.pool.made.TenantID] = u
	}
	u.open++
	s.open++
	s.pools[w.pool]++
	// The pool is open: one of its connections is being constructed.
	w.pool.owner.open.Add(1)
	w.ready <- nil
}

// hungry is how many permits the queue could use.
func (s *server) hungry() int {
	if len(s.queue) == 0 {
		return 0
	}
	n := 0
	could := map[uuid.UUID]int{}
	for _, w := range s.queue {
		id := w.pool.made.TenantID
		if s.holds(w.pool)+could[id] < w.pool.cap() {
			could[id]++
			n++
		}
	}
	return n
}

// coldest chooses whose idle connections go: those of the pools that were
// leased from the longest ago.
func (s *server) coldest(need int, promised map[*pool]int) []victim {
	var victims []victim
	chosen := map[*pool]bool{}
	for need > 0 {
		var cold *pool
		free := 0
		for e := range s.pools {
			if chosen[e] || (cold != nil && e.used.Load() >= cold.used.Load()) {
				continue
			}
			if idle := e.idle() - promised[e]; idle > 0 {
				cold, free = e, idle
			}
		}
		if cold == nil {
			break
		}
		chosen[cold] = true
		n := min(free, need)
		need -= n
		victims = append(victims, victim{cold, n})
	}
	return victims
}

// yields tells whether a connection that a lease gives back must be closed
// instead, because someone waits whose tenant has fewer: without this, a
// tenant that keeps its connections busy would keep them for ever.
func (s *server) yields(e *pool, sock *socket) bool {
	if !s.pressed.Load() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	need := s.open - s.limit + s.hungry() - s.leaving
	over := s.excess(e) > 0
	if (need <= 0 && !over) || sock.gone || sock.leaving {
		return false
	}
	yield := over || s.open-s.leaving > s.limit
	for _, w := range s.queue {
		yield = yield || (s.holds(w.pool) < w.pool.cap() && s.holds(w.pool) < s.holds(e))
	}
	if yield {
		s.leaves(e, sock)
		s.leaving++
		s.over = s.over && s.anyOver()
		s.press()
	}
	return yield
}

// overflow says why nobody could be served within the time of waiting.
func (s *server) overflow(e *pool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.tenants[e.made.TenantID]; u != nil && u.connected >= e.cap() {
		return errTenantBusy
	}
	for _, w := range s.queue {
		if w.pool.made.TenantID == e.made.TenantID {
			return errServerBusy
		}
	}
	return errNoAnswer
}

// counts are what the meters show.
func (s *server) counts() (name string, open, limit, waiting int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.name, s.open, s.limit, len(s.queue)
}
