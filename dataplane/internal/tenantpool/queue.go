package tenantpool

import (
	"container/heap"
	"container/list"
	"slices"
	"time"

	"github.com/google/uuid"
)

// capAgain is the pause before a pool dials again that the tenant's own limit
// at the server has refused.
const capAgain = 50 * time.Millisecond

// queue is who waits for a connection to a server. Its rules:
//
//   - In one pool, first come, first served; background work comes last.
//   - A permit goes to the tenant that has the fewest, so that a noisy one
//     waits for itself. Among those who have equally many they take turns: one
//     permit, then to the end of the round, however long its own line is.
//   - A tenant at its cap waits for its own connections only.
//   - An idle connection is closed for a tenant that has none, or fewer by two,
//     or when it has not been used for a while: see makeRoom.
//   - Background work gets a permit when no request wants one.
//   - Both the line of a tenant and all of them together are bounded.
type queue struct {
	perTenant, perServer int

	waiting int       // in all lines
	wants   [2]int    // permits that the lines could use now: requests', background's
	without int       // pools whose requests want one and whose tenants have none
	lookAt  time.Time // when a timer settles; zero: none does
	round   round
	turns   uint64
}

// The lines of a pool.
const (
	requests = iota
	background
)

// waiter is an attempt to get a connection. It is answered once.
type waiter struct {
	pool       *pool
	background bool          // what the connection is for
	line       int           // of the pool, in which it stands
	place      *list.Element // there; nil: answered
	answer     chan answer   // of size 1
}

// answer is a connection, or why there is none.
type answer struct {
	conn *conn
	err  error
}

// round is the pools that could use a permit, as a heap: the next one is first.
type round []*pool

// standing is a pool's place among them.
type standing struct {
	in       bool
	position int
	patient  bool // only background work waits
	holds    int  // permits of the tenant
	turn     uint64
}

func (r *round) Len() int { return len(*r) }

func (r *round) Less(i, j int) bool {
	a, b := &(*r)[i].standing, &(*r)[j].standing
	switch {
	case a.patient != b.patient:
		return b.patient
	case a.holds != b.holds:
		return a.holds < b.holds
	}
	return a.turn < b.turn
}

func (r *round) Swap(i, j int) {
	all := *r
	all[i], all[j] = all[j], all[i]
	all[i].standing.position, all[j].standing.position = i, j
}

// Push implements heap.Interface.
func (r *round) Push(x any) {
	e, _ := x.(*pool)
	e.standing.in, e.standing.position = true, len(*r)
	*r = append(*r, e)
}

// Pop implements heap.Interface.
func (r *round) Pop() any {
	last := len(*r) - 1
	e := (*r)[last]
	(*r)[last] = nil
	*r = (*r)[:last]
	e.standing.in = false
	return e
}

func (e *pool) inLine() int { return e.lines[requests].Len() + e.lines[background].Len() }

// takeOrWait gives an idle connection of the pool, or a place in its line.
func (s *server) takeOrWait(e *pool, isBackground bool) (*conn, *waiter, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.stale.Load() {
		return nil, nil, errStale
	}
	if len(e.idle) > 0 {
		return s.take(e, isBackground), nil, nil
	}
	switch {
	case e.inLine() >= s.perTenant:
		return nil, nil, errTenantLine
	case s.waiting >= s.perServer:
		return nil, nil, errServerLine
	}
	w := &waiter{pool: e, background: isBackground, line: requests, answer: make(chan answer, 1)}
	if isBackground {
		w.line = background
	}
	if e.inLine() == 0 {
		u := s.usageOf(e)
		u.waiting = append(u.waiting, e)
	}
	w.place = e.lines[w.line].PushBack(w)
	s.waiting++
	s.reconsider(e.made.TenantID)
	s.settle()
	return nil, w, nil
}

// take takes the connection that was used last; background work takes the one
// that would be the last to be used.
func (s *server) take(e *pool, isBackground bool) *conn {
	c := e.idle[len(e.idle)-1]
	if isBackground {
		c = e.idle[0]
	}
	c.background = isBackground
	return s.idle.remove(c)
}

// first is who is next in the pool's line, or nil.
func (s *server) first(e *pool) *waiter {
	for i := range e.lines {
		if front := e.lines[i].Front(); front != nil {
			w, _ := front.Value.(*waiter)
			return w
		}
	}
	return nil
}

// answer takes the waiter out of its line.
func (s *server) answer(w *waiter, c *conn, err error) {
	s.leaveLine(w)
	w.answer <- answer{c, err}
	s.reconsider(w.pool.made.TenantID)
}

func (s *server) leaveLine(w *waiter) {
	e := w.pool
	e.lines[w.line].Remove(w.place)
	w.place = nil
	s.waiting--
	if e.inLine() == 0 {
		u := s.usageOf(e)
		u.waiting = slices.DeleteFunc(u.waiting, func(other *pool) bool { return other == e })
		s.update(e)
	}
}

// withdraw takes who has given up out of the line, and says why there was no
// connection. false: there is an answer already.
func (s *server) withdraw(w *waiter) (unanswered bool, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.place == nil {
		return false, nil
	}
	why = s.overflow(w.pool)
	s.leaveLine(w)
	s.reconsider(w.pool.made.TenantID)
	s.settle()
	return true, why
}

// promote puts background work that has waited long enough in line with the
// requests: it must be done some day, on a server that is always busy too.
func (s *server) promote(w *waiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.place == nil || w.line == requests {
		return
	}
	w.pool.lines[w.line].Remove(w.place)
	w.line = requests
	w.place = w.pool.lines[requests].PushBack(w)
	s.reconsider(w.pool.made.TenantID)
	s.settle()
}

// lacks tells whether somebody in the pool's lines waits for a permit.
func (s *server) lacks(e *pool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return e.wants != [2]int{}
}

// overflow says why nobody could be served within the time of waiting.
func (s *server) overflow(e *pool) error {
	u := s.usageOf(e)
	switch {
	case u.connected >= e.cap(), e.full:
		return errTenantBusy
	case u.open < e.cap() && e.inLine() > e.dialing:
		return errServerBusy
	}
	return errNoAnswer
}

// reconsider brings the tenant's place in the round up to date after a change of
// what it has or wants.
func (s *server) reconsider(tenant uuid.UUID) {
	u := s.tenants[tenant]
	if u == nil {
		return
	}
	for _, e := range u.waiting {
		s.update(e)
	}
	if u.open == 0 && len(u.waiting) == 0 {
		delete(s.tenants, tenant)
	}
}

// update finds out how many permits the pool's lines could use now.
func (s *server) update(e *pool) {
	room := max(0, e.cap()-s.holds(e))
	if e.paused {
		room = 0
	}
	all := min(room, max(0, e.inLine()-e.dialing))
	ofRequests := min(room, max(0, e.lines[requests].Len()-e.dialing))
	without := ofRequests > 0 && s.holds(e) == 0
	switch {
	case without && !e.without:
		s.without++
	case !without && e.without:
		s.without--
	}
	e.without = without
	s.wants[requests] += ofRequests - e.wants[requests]
	s.wants[background] += all - ofRequests - e.wants[background]
	e.wants = [2]int{ofRequests, all - ofRequests}
	// One pool changes at a time: the heap is in order but for this one.
	st := &e.standing
	st.patient, st.holds = ofRequests == 0, s.holds(e)
	switch {
	case all > 0 && st.in:
		heap.Fix(&s.round, st.position)
	case all > 0:
		st.turn = s.nextTurn()
		heap.Push(&s.round, e)
	case st.in:
		heap.Remove(&s.round, st.position)
	}
}

// pause has the pool dial no more for a moment, because the tenant's own limit at
// the server has refused it: other nodes hold what is the tenant's, perhaps only
// until they know that this one serves it too. Who waits goes on waiting.
func (s *server) pause(e *pool) {
	e.paused = true
	time.AfterFunc(capAgain, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		e.paused = false
		s.reconsider(e.made.TenantID)
		s.settle()
	})
}

// nextTurn is the end of the round.
func (s *server) nextTurn() uint64 {
	s.turns++
	return s.turns
}
