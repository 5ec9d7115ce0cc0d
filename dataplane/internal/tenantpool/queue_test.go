package tenantpool

import (
	"errors"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// wait puts n attempts of requests in the pool's line.
func (f *fake) wait(t testing.TB, e *pool, n int) (waiters []*waiter) {
	t.Helper()
	for range n {
		c, w, err := f.takeOrWait(e, false)
		if c != nil || err != nil {
			t.Fatalf("a connection %v, error %v: nobody waits", c, err)
		}
		waiters = append(waiters, w)
	}
	return waiters
}

// connect ends the oldest dial of the pool with a connection.
func (f *fake) connect(t testing.TB, e *pool) *conn {
	t.Helper()
	for i, dialling := range f.dials {
		if dialling != e {
			continue
		}
		f.dials = append(f.dials[:i], f.dials[i+1:]...)
		now := time.Now()
		c := &conn{pool: e, sock: &socket{pool: e}, made: now, idleSince: now, expires: now.Add(time.Hour)}
		f.connected(e, c.sock)
		f.dialled(e, c, nil)
		return c
	}
	t.Fatal("nobody dials for the pool")
	return nil
}

// shut closes what is to be closed.
func (f *fake) shut() {
	ending := f.ending
	f.ending = nil
	for _, c := range ending {
		f.returned(c.pool, c.sock)
	}
}

// has takes the connection that the waiter was given.
func (w *waiter) has(t testing.TB) *conn {
	t.Helper()
	select {
	case a := <-w.answer:
		if a.err != nil {
			t.Fatal(a.err)
		}
		return a.conn
	default:
		t.Fatal("the waiter has no connection")
		return nil
	}
}

func TestInvariant07PermitsGoToThePoorestTenant(t *testing.T) {
	t.Parallel()
	f := fakeServer(6)
	rich, poor, poorest, capped := f.tenant(9), f.tenant(9), f.tenant(9), f.tenant(1)
	for e, n := range map[*pool]int{rich: 3, poor: 2, capped: 1} {
		f.wait(t, e, n)
		for range n {
			f.connect(t, e)
		}
	}
	for _, e := range []*pool{rich, capped, poor, poorest, poorest} {
		f.wait(t, e, 1)
	}
	if f.wants[requests] != 4 {
		t.Errorf("%d permits are wanted: a tenant at its cap counts, or another does not", f.wants[requests])
	}
	for i, want := range []*pool{poorest, poorest, poor, rich} {
		f.limit++
		f.settle()
		if len(f.dials) != i+1 || f.dials[i] != want {
			t.Fatalf("permit %d went to the wrong tenant", i)
		}
	}
	if f.limit++; len(f.round) != 0 || f.wants[requests] != 0 {
		t.Error("somebody still wants a permit")
	}
}

// A budget of one, a hundred waiters of a noisy tenant, then one of a quiet one:
// it is next.
func TestInvariant07TheQuietTenantDoesNotWaitForTheNoisyOnesLine(t *testing.T) {
	t.Parallel()
	f := fakeServer(1)
	noisy, quiet := f.tenant(10), f.tenant(10)
	first := f.wait(t, noisy, 100)
	last := f.wait(t, quiet, 1)
	f.connect(t, noisy)
	c := first[0].has(t)
	c.made = time.Now().Add(-turnFor) // its turn is over
	f.give(c, true)
	f.shut()
	f.connect(t, quiet)
	f.give(last[0].has(t), true)
	f.shut()
	f.connect(t, noisy)
	first[1].has(t)
}

// Tenants that have equally many take turns, whatever the length of their lines.
func TestInvariant07EqualTenantsTakeTurns(t *testing.T) {
	t.Parallel()
	f := fakeServer(1)
	a, b, c := f.tenant(10), f.tenant(10), f.tenant(10)
	f.wait(t, a, 50)
	f.wait(t, b, 3)
	f.wait(t, c, 1)
	for i, want := range []*pool{a, b, c, a, b, a, b, a, a} {
		if len(f.dials) != 1 || f.dials[0] != want {
			t.Fatalf("turn %d is another tenant's", i)
		}
		conn := f.connect(t, want)
		f.discard(conn) // its waiter has what it wanted
		f.shut()
	}
}

// Nobody can jump the round by letting its permit go and asking anew.
func TestInvariant07WhoComesBackStandsAtTheEnd(t *testing.T) {
	t.Parallel()
	f := fakeServer(1)
	eager, patient := f.tenant(10), f.tenant(10)
	f.wait(t, eager, 1)
	f.wait(t, patient, 1)
	f.discard(f.connect(t, eager))
	f.wait(t, eager, 1)
	f.shut()
	if len(f.dials) != 1 || f.dials[0] != patient {
		t.Error("who came back was served before the one who waited")
	}
}

func TestInvariant07ARicherTenantYieldsAReleasedConnection(t *testing.T) {
	t.Parallel()
	f := fakeServer(4)
	rich, poor := f.tenant(9), f.tenant(9)
	waiters := append(f.wait(t, rich, 3), f.wait(t, poor, 1)...)
	var held []*conn
	for _, w := range waiters {
		f.connect(t, w.pool)
		held = append(held, w.has(t))
	}
	now := time.Now()
	old, young := now.Add(turnFor), now
	own := f.wait(t, rich, 1)[0]
	if f.yields(held[0], own, old) || f.yields(held[3], nil, old) {
		t.Error("yields to a tenant that has more, or to itself")
	}
	f.wait(t, poor, 1)
	if f.yields(held[3], own, old) {
		t.Error("the poor one yields")
	}
	held[0].made = now
	if f.yields(held[0], own, young) {
		t.Error("the rich one yields a connection that it has just made, though somebody of its own waits")
	}
	if !f.yields(held[0], own, old) || !f.yields(held[0], nil, young) {
		t.Error("the rich one does not yield")
	}
	f.limit = 1
	f.give(held[3], true)
	if len(f.ending) != 1 {
		t.Error("nobody yields to a limit that has been lowered")
	}
}

func TestInvariant07LinesAreBounded(t *testing.T) {
	t.Parallel()
	f := fakeServer(1)
	f.perTenant, f.perServer = 3, 5
	a, b := f.tenant(9), f.tenant(9)
	waiters := f.wait(t, a, 3)
	if _, _, err := f.takeOrWait(a, false); !errors.Is(err, errTenantLine) {
		t.Errorf("the fourth of a tenant: %v", err)
	}
	f.wait(t, b, 2)
	if _, _, err := f.takeOrWait(b, false); !errors.Is(err, errServerLine) {
		t.Errorf("the sixth of all: %v", err)
	}
	if unanswered, _ := f.withdraw(waiters[1]); !unanswered {
		t.Error("it was answered")
	}
	f.wait(t, a, 1)
}

// Background work waits behind requests, has nothing closed that is in use, and
// is served all the same in the end.
func TestInvariant07BackgroundWorkComesLast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := fakeServer(1)
		busy, idle := f.tenant(9), f.tenant(9)
		c := f.wait(t, busy, 1)[0]
		f.connect(t, busy)
		f.give(c.has(t), true)
		_, work, _ := f.takeOrWait(idle, true)
		if len(f.ending) != 0 {
			t.Fatal("background work has a connection closed that was used a moment ago")
		}
		// What is cold makes room.
		f.pass(coldAfter + time.Second)
		if len(f.ending) != 1 {
			t.Fatal("a cold connection stays")
		}
		again := f.wait(t, busy, 1)[0]
		f.shut()
		f.connect(t, busy) // the request came later, and is first
		held := again.has(t)
		f.promote(work)
		f.wait(t, busy, 1)
		held.made = time.Now().Add(-turnFor)
		f.give(held, true)
		f.shut()
		f.connect(t, idle)
		kept := work.has(t)
		f.give(kept, true)
		if len(f.ending) != 1 || f.ending[0] != kept || len(idle.idle) != 0 {
			t.Error("background work has left a connection to a tenant that nobody uses")
		}
	})
}

// A connection of a tenant that is in use serves background work, and is as cold
// afterwards as it was before.
func TestInvariant07BackgroundWorkWarmsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := fakeServer(9)
		a, b := f.tenant(9), f.tenant(9)
		var conns []*conn
		for _, w := range append(f.wait(t, a, 2), f.wait(t, b, 1)...) {
			f.connect(t, w.pool)
			conns = append(conns, w.has(t))
		}
		for _, c := range conns {
			f.pass(time.Second)
			f.give(c, true)
		}
		got, _, _ := f.takeOrWait(a, true)
		if got != conns[0] {
			t.Error("background work takes the connection that the next request would have had")
		}
		f.pass(time.Second)
		f.give(got, true)
		var order []*conn
		for c := f.idle.coldest; c != nil; c = c.warmer {
			order = append(order, c)
		}
		if len(order) != 3 || order[0] != conns[0] || order[1] != conns[1] || order[2] != conns[2] {
			t.Error("background work has changed who is cold")
		}
		if a.idle[0] != conns[0] || a.idle[1] != conns[1] {
			t.Error("… also within the pool")
		}
	})
}

// Ten connections of a tenant that was busy once, one of a tenant that was used
// later: the ten go first, but for the one that is still in use.
func TestInvariant01TheColdestConnectionsGoFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := fakeServer(11)
		many, single, hot := f.tenant(10), f.tenant(10), f.tenant(20)
		var conns []*conn
		for _, w := range f.wait(t, many, 10) {
			f.connect(t, many)
			conns = append(conns, w.has(t))
		}
		for _, c := range conns {
			f.give(c, true)
		}
		f.pass(time.Minute)
		w := f.wait(t, single, 1)[0]
		f.connect(t, single)
		f.give(w.has(t), true)
		f.pass(time.Minute)
		last, _, _ := f.takeOrWait(many, false)
		f.give(last, true)
		f.wait(t, hot, 9)
		if len(f.ending) != 9 || len(many.idle) != 1 || many.idle[0] != last || len(single.idle) != 1 {
			t.Fatalf("%d go, %d and %d are left", len(f.ending), len(many.idle), len(single.idle))
		}
		f.wait(t, hot, 1)
		if len(single.idle) != 0 || len(many.idle) != 1 {
			t.Error("the tenth is not the one that was used two minutes ago")
		}
	})
}

// Random histories against the rules, seen from outside: permits within the
// limit, nobody waits for what can be had, each permit to whom the rules name,
// and everybody is answered.
func TestInvariant07RandomHistories(t *testing.T) {
	t.Parallel()
	for range 40 {
		synctest.Test(t, func(t *testing.T) {
			seed := rand.Uint64()
			h := &history{fake: fakeServer(0), t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 0)), entered: map[*pool]int{}, asked: map[*waiter]bool{}}
			h.works.dial = h.granted
			h.limit, h.perTenant, h.perServer = 1+h.rng.IntN(6), 50, 200
			for range 1 + h.rng.IntN(8) {
				h.pools = append(h.pools, h.tenant(1+h.rng.IntN(4)))
			}
			for range 1000 {
				h.step()
				h.check()
			}
			h.finish()
		})
	}
}

type history struct {
	*fake

	t       *testing.T
	seed    uint64
	rng     *rand.Rand
	pools   []*pool
	clock   int
	entered map[*pool]int // when it began to want a permit, or got the last one
	asked   map[*waiter]bool
	leased  []*conn
}

func (h *history) fatal(what string) {
	h.t.Helper()
	h.t.Fatalf("%s (seed %d)", what, h.seed)
}

// granted compares each permit with the rules, by looking at all.
func (h *history) granted(e *pool) {
	h.clock++
	for _, other := range h.pools {
		switch has, others := h.holds(e)-1, h.holds(other); {
		case other == e || other.wants[requests] == 0:
		case others < has:
			h.fatal("a permit went to a tenant that is not the poorest")
		case others == has && h.since(other) < h.since(e):
			h.fatal("a permit went to a tenant whose turn it was not")
		}
	}
	h.entered[e] = h.clock
	h.dials = append(h.dials, e)
}

func (h *history) since(e *pool) int {
	if at, ok := h.entered[e]; ok {
		return at
	}
	return h.clock
}

func (h *history) step() {
	e := h.pools[h.rng.IntN(len(h.pools))]
	switch h.rng.IntN(9) {
	case 0, 1, 2:
		c, w, _ := h.takeOrWait(e, false)
		if c != nil {
			h.leased = append(h.leased, c)
		} else if w != nil {
			h.asked[w] = true
		}
	case 3:
		if len(h.dials) > 0 {
			h.connect(h.t, h.dials[h.rng.IntN(len(h.dials))])
		}
	case 4:
		if i := h.rng.IntN(len(h.leased) + 1); i < len(h.leased) {
			c := h.leased[i]
			h.leased = append(h.leased[:i], h.leased[i+1:]...)
			c.made = c.made.Add(-time.Duration(h.rng.IntN(2)) * turnFor)
			h.give(c, h.rng.IntN(8) > 0)
		}
	case 5:
		if i := h.rng.IntN(len(h.ending) + 1); i < len(h.ending) {
			c := h.ending[i]
			h.ending = append(h.ending[:i], h.ending[i+1:]...)
			h.closed(c)
		}
	case 6:
		for w := range h.asked {
			if unanswered, _ := h.withdraw(w); unanswered {
				delete(h.asked, w)
			}
			break
		}
	case 7:
		h.mu.Lock()
		h.limit = max(1, h.limit+h.rng.IntN(3)-1)
		h.settle()
		h.mu.Unlock()
	case 8:
		h.pass(time.Duration(h.rng.Int64N(int64(warmFor))))
	}
	h.collect()
}

// closed gives a permit back: its tenant has had its turn.
func (h *history) closed(c *conn) {
	h.clock++
	h.entered[c.pool] = h.clock
	h.returned(c.pool, c.sock)
}

// collect takes the answers, and notes who wants what.
func (h *history) collect() {
	for w := range h.asked {
		select {
		case a := <-w.answer:
			delete(h.asked, w)
			if a.err != nil {
				h.fatal("a waiter was refused")
			}
			h.leased = append(h.leased, a.conn)
		default:
		}
	}
	h.clock++
	for _, e := range h.pools {
		if _, in := h.entered[e]; e.wants[requests] == 0 {
			delete(h.entered, e)
		} else if !in {
			h.entered[e] = h.clock
		}
	}
}

func (h *history) check() {
	idle, open, waiting := 0, 0, 0
	for _, e := range h.pools {
		idle, waiting, open = idle+len(e.idle), waiting+e.inLine(), open+h.holds(e)
		if len(e.idle) > 0 && e.inLine() > 0 {
			h.fatal("somebody waits beside an idle connection of the pool")
		}
		if h.holds(e) > e.cap() {
			h.fatal("a tenant has more than its cap")
		}
	}
	listed := 0
	for c := h.idle.coldest; c != nil; c = c.warmer {
		listed++
		if c.warmer != nil && c.warmer.idleSince.Before(c.idleSince) {
			h.fatal("the idle ones are not in order")
		}
	}
	switch {
	case open != h.open || open != len(h.dials)+len(h.leased)+idle+len(h.ending):
		h.fatal("permits are lost, or there are too many")
	case listed != idle:
		h.fatal("the list of idle connections is not that of the pools")
	case waiting != h.waiting || waiting != len(h.asked):
		h.fatal("waiters are lost")
	case h.wants[requests] > 0 && h.open < h.limit:
		h.fatal("somebody waits for a permit that can be had")
	case idle > 0 && h.short(h.without):
		h.fatal("a tenant without a connection waits, and an idle one does not make room")
	case idle > 0 && h.short(h.wants[requests]) && time.Since(h.idle.coldest.idleSince) >= warmFor:
		h.fatal("somebody waits, and a cold connection does not make room")
	case h.wants[requests] > 0 && h.closing == 0 && h.spare() != nil && h.short(h.wants[requests]):
		h.fatal("a tenant waits, and one that has two more and does not use them makes no room")
	}
}

// finish serves all who are left.
func (h *history) finish() {
	for rounds := 0; len(h.asked) > 0; rounds++ {
		if rounds > 10_000 {
			h.fatal("not everybody is answered")
		}
		for len(h.dials) > 0 {
			h.connect(h.t, h.dials[0])
		}
		h.collect()
		for _, c := range h.leased {
			h.give(c, true)
		}
		h.leased = nil
		ending := h.ending
		h.ending = nil
		for _, c := range ending {
			h.closed(c)
		}
		h.collect()
	}
	if len(h.round) != 0 || h.wants != [2]int{} {
		h.fatal("somebody wants a permit when nobody waits")
	}
}

// A tenant that goes on with what it has does not take the only connection of
// one that uses it all the time.
func TestInvariant07AWarmConnectionStaysWithItsTenant(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := fakeServer(3)
		noisy, quiet := f.tenant(9), f.tenant(9)
		own := f.wait(t, quiet, 1)[0]
		f.connect(t, quiet)
		only := own.has(t)
		busy := f.wait(t, noisy, 2)
		f.connect(t, noisy)
		f.connect(t, noisy)
		more := f.wait(t, noisy, 1)[0]
		for range 20 {
			f.give(only, true)
			f.pass(warmFor / 2)
			if got, _, err := f.takeOrWait(quiet, false); err != nil || got != only {
				t.Fatal("the quiet tenant's connection was taken from it")
			}
		}
		// When it is not used any more, it goes without anything else happening.
		f.give(only, true)
		f.pass(warmFor + time.Millisecond)
		if len(f.ending) != 1 || f.ending[0] != only {
			t.Fatal("a cold connection stays, and the noisy tenant waits")
		}
		f.shut()
		f.connect(t, noisy)
		held := []*conn{busy[0].has(t), busy[1].has(t), more.has(t)}
		// A tenant that has none takes one from who has more, at once.
		f.give(held[0], true)
		f.wait(t, quiet, 1)
		if len(f.ending) != 1 || f.ending[0] != held[0] {
			t.Error("an idle connection does not make room for a tenant that has none")
		}
	})
}

// One connection makes room for one who has none, however many others would like
// a second: those who use theirs all the time keep them.
func TestInvariant07NoMoreIsYieldedThanIsNeeded(t *testing.T) {
	t.Parallel()
	const tenants = 5
	f := fakeServer(tenants)
	var all []*pool
	var held []*conn
	for range tenants {
		e := f.tenant(9)
		all = append(all, e)
		w := f.wait(t, e, 1)[0]
		f.connect(t, e)
		held = append(held, w.has(t))
	}
	for _, e := range all {
		f.wait(t, e, 1) // a second one, which it could use
	}
	f.wait(t, f.tenant(9), 1) // has none
	for _, c := range held {
		c.made = time.Now().Add(-turnFor)
		f.give(c, true)
	}
	if len(f.ending) != 1 {
		t.Errorf("%d connections are closed for one", len(f.ending))
	}
}
