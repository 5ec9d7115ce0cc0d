package tenantpool

import "time"

const (
	// turnFor is how long a tenant goes on using a new connection for its own
	// waiters though somebody poorer waits. It is about what a new connection
	// costs: taking turns then costs at most half of the throughput, and the one
	// who waits is served that much later.
	turnFor = 10 * time.Millisecond
	// warmFor is how long an idle connection stays with its tenant although another
	// one that has as many could use it: both have what they need to go on, and to
	// close a connection that is used again at once costs more than to wait for
	// one's own.
	warmFor = time.Second
	// coldAfter is how long a connection must have been idle for background work
	// to have it closed.
	coldAfter = 5 * time.Second
)

// settle grants what can be granted and makes room for the rest. It is called
// after every change.
func (s *server) settle() {
	for s.open < s.limit && len(s.round) > 0 && s.mayDial() {
		s.grant(s.round[0])
	}
	if s.idle.coldest != nil && s.short(s.wants[requests]+s.wants[background]) {
		s.makeRoom(time.Now())
	}
}

// makeRoom closes idle connections, the coldest first, for those who wait for a
// permit. For a tenant that has no connection any may go. For one that has some,
// a connection goes that was not used for a while, or one whose tenant still has
// more afterwards; these go one by one, so that the permit is seen to reach the
// poorest before the next one is looked for.
func (s *server) makeRoom(now time.Time) {
	s.makeCold(s.without, now)
	s.makeCold(s.wants[requests], now.Add(-warmFor))
	if s.wants[requests] > 0 && s.short(s.wants[requests]) && s.idle.coldest != nil {
		if c := s.spare(); c != nil && s.closing == 0 {
			s.closeIdle(c)
		}
		s.settleWhenCold(warmFor, now)
	}
	if s.wants[background] > 0 {
		s.makeCold(s.wants[requests]+s.wants[background], now.Add(-coldAfter))
		s.settleWhenCold(coldAfter, now)
	}
}

// makeCold closes what was not used since then, until there is room for so many.
func (s *server) makeCold(wanted int, since time.Time) {
	for c := s.idle.coldest; c != nil && s.short(wanted) && !c.idleSince.After(since); c = s.idle.coldest {
		s.closeIdle(c)
	}
}

// closeIdle closes an idle connection to make room.
func (s *server) closeIdle(c *conn) {
	s.cold++
	s.end(s.idle.remove(c))
}

// spare is the coldest idle connection of a tenant that can spare it for the
// poorest who waits, or nil.
func (s *server) spare() *conn {
	for c := s.idle.coldest; c != nil; c = c.warmer {
		if s.canSpare(c.pool, s.round[0]) {
			return c
		}
	}
	return nil
}

// canSpare tells whether the pool's tenant would not have fewer than the one who
// waits, if it gave one up to it, or the latter has none at all.
func (s *server) canSpare(e, waits *pool) bool {
	has := s.holds(waits)
	return has == 0 || has+1 < s.keeps(e)
}

// settleWhenCold settles when the coldest connection will have been idle for so
// long, if nothing happens before.
func (s *server) settleWhenCold(idle time.Duration, now time.Time) {
	if s.idle.coldest == nil {
		return
	}
	at := s.idle.coldest.idleSince.Add(idle)
	if !s.lookAt.IsZero() && !at.Before(s.lookAt) {
		return
	}
	s.lookAt = at
	time.AfterFunc(at.Sub(now), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.lookAt.Equal(at) {
			s.lookAt = time.Time{}
		}
		s.settle()
	})
}

// short tells whether there is no room for so many more, also when all that is
// being closed has been.
func (s *server) short(more int) bool { return s.open-s.closing+more > s.limit }

// yields tells whether a free connection must be closed although its own pool
// could use it: somebody waits for room who has none, or fewer by two. Without this, a
// tenant that keeps its connections busy would keep them for ever. next is who
// waits in its own pool.
func (s *server) yields(c *conn, next *waiter, now time.Time) bool {
	switch {
	case s.wants[requests] == 0, !s.canSpare(c.pool, s.round[0]):
		return false
	case s.holds(s.round[0]) == 0 && !s.short(s.without): // what is being closed is enough
		return false
	case s.holds(s.round[0]) > 0 && (s.closing > 0 || !s.short(s.wants[requests])): // one by one: see makeRoom
		return false
	}
	return next == nil || next.line == background || now.Sub(c.made) >= turnFor
}
