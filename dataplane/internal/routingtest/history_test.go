package routingtest

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"
)

// never is the end of what has not ended.
const never = math.MaxInt64

// span is a stretch of the run's own clock, which ticks at every event.
type span struct{ from, to int64 }

func (s span) meets(other span) bool { return s.from <= other.to && other.from <= s.to }

// kind is what an address leads to.
type kind string

const (
	absent     kind = "absent"
	serving    kind = "serving"
	suspended  kind = "suspended"
	held       kind = "held"
	maintained kind = "maintenance"
)

// state is what was published of an address at one time.
type state struct {
	kind    kind
	db      *database // nil when absent
	since   int64     // when its publication began
	version int64     // of the route clock; 0 until it is committed
}

// slot is an address, and whose it was one after the other.
type slot struct {
	slug   string
	states []state
	busy   []span // when the operator worked on the tenant's database
}

// answer is what a client got.
type answer struct {
	span

	slug      string
	node      string
	knew      int64 // version of the node's table when it was asked
	disturbed bool  // the node was cut off, killed or catching up meanwhile
	code      string
	err       error

	// Of what was served:
	tenant, routed uuid.UUID // whose database it was, and whose route led there
	incarnation    int
	lost           int64 // an entry that should have been there
}

// Codes of answers beside the faults' own.
const (
	served = "served"
	gaveUp = "gave up" // the client did not wait any longer
	broken = "broken"  // a statement failed
)

// outcome of a write.
type outcome struct {
	code   string // served, refused, or gaveUp: nobody knows
	tenant uuid.UUID
}

const refused = "refused"

// history is the model: what was published, and what was answered.
type history struct {
	tick  atomic.Int64
	count atomic.Int64 // answers

	mu     sync.Mutex
	slots  map[string]*slot
	writes map[int64]outcome
	told   map[string]int // answers by code
	log    []string
}

func newHistory() *history {
	return &history{slots: map[string]*slot{}, writes: map[int64]outcome{}, told: map[string]int{}}
}

func (h *history) now() int64 { return h.tick.Add(1) }

// note keeps a line for whoever has to understand a failure.
func (h *history) note(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.log = append(h.log, fmt.Sprintf("%8d  ", h.tick.Load())+fmt.Sprintf(format, args...))
}

// recent is the end of the log.
func (h *history) recent(lines int) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.log[max(0, len(h.log)-lines):], "\n")
}

// announce begins the publication of a state: from now on it may be seen.
func (h *history) announce(s *slot, k kind, db *database) (published func(version int64)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.states = append(s.states, state{kind: k, db: db, since: h.now()})
	i := len(s.states) - 1
	return func(version int64) {
		h.mu.Lock()
		defer h.mu.Unlock()
		s.states[i].version = version
	}
}

// work marks the tenant as worked on until the returned function is called.
func (h *history) work(s *slot) (done func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.busy = append(s.busy, span{h.now(), never})
	i := len(s.busy) - 1
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		s.busy[i].to = h.now()
	}
}

// open opens the door of a database, and shut says that it is closed now.
func (h *history) open(db *database) {
	h.mu.Lock()
	defer h.mu.Unlock()
	db.doors = append(db.doors, span{h.now(), never})
}

func (h *history) shut(db *database) {
	h.mu.Lock()
	defer h.mu.Unlock()
	db.doors[len(db.doors)-1].to = h.now()
}

// last is what the address leads to by the latest publication.
func (h *history) last(s *slot) state {
	h.mu.Lock()
	defer h.mu.Unlock()
	return s.states[len(s.states)-1]
}

// window is the states that a node may have gone by: the one that it knew when
// it was asked, and all whose publication had begun when it answered.
func (s *slot) window(a answer) []state {
	from := 0
	for i, st := range s.states {
		if st.version > 0 && st.version <= a.knew {
			from = i
		}
	}
	to := from + 1
	for to < len(s.states) && s.states[to].since <= a.to {
		to++
	}
	return s.states[from:to]
}

// refusals are the states that each refusal names.
var refusals = map[string]kind{
	"unknown_host":     absent,
	"tenant_suspended": suspended,
	"tenant_held":      held,
	"maintenance":      maintained,
}

// wrong says how the answer breaks what is promised; "" when it does not.
func (h *history) wrong(a answer) string {
	h.count.Add(1)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told[a.code]++
	s := h.slots[a.slug]
	window := s.window(a)
	was := func(k kind) bool {
		return slices.ContainsFunc(window, func(st state) bool { return st.kind == k })
	}
	switch k, named := refusals[a.code]; {
	case a.code == served:
		return wronglyServed(a, window)
	case named && !was(k):
		return fmt.Sprintf("refused as %s, which it was not", k)
	case named, a.disturbed:
		return ""
	case slices.ContainsFunc(s.busy, a.meets):
		return ""
	}
	return fmt.Sprintf("refused by a node that nobody disturbs, while nobody worked on the tenant, which was %s", kinds(window))
}

func wronglyServed(a answer, window []state) string {
	switch {
	case a.tenant != a.routed:
		return fmt.Sprintf("the route of %s led to the database of %s", a.routed, a.tenant)
	case a.lost != 0:
		return fmt.Sprintf("entry %d, which was acknowledged before, is not there", a.lost)
	}
	for _, st := range window {
		if st.kind != serving || st.db.tenant != a.tenant || st.db.incarnation != a.incarnation {
			continue
		}
		if slices.ContainsFunc(st.db.doors, a.meets) {
			return ""
		}
		return fmt.Sprintf("served from incarnation %d of %s behind its fence: %v", a.incarnation, a.tenant, st.db.doors)
	}
	return fmt.Sprintf("served from incarnation %d of %s, which was %s", a.incarnation, a.tenant, kinds(window))
}

func kinds(window []state) string {
	words := make([]string, len(window))
	for i, st := range window {
		words[i] = fmt.Sprintf("%s (version %d)", st.kind, st.version)
	}
	return strings.Join(words, ", then ")
}

// wrote keeps the outcome of a write.
func (h *history) wrote(entry int64, o outcome) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.writes[entry] = o
}

// foreign finds an entry that a tenant's database should not hold.
func (h *history) foreign(tenant uuid.UUID, entries []int64) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range entries {
		if o := h.writes[e]; o.code == refused || o.tenant != tenant {
			return fmt.Sprintf("the database of %s holds entry %d, which was %q by %s", tenant, e, o.code, o.tenant)
		}
	}
	return ""
}

// missing finds an acknowledged entry that the tenant's last database lacks.
func (h *history) missing(tenant uuid.UUID, entries []int64) string {
	has := make(map[int64]bool, len(entries))
	for _, e := range entries {
		has[e] = true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for e, o := range h.writes {
		if o.code == served && o.tenant == tenant && !has[e] {
			return fmt.Sprintf("entry %d of %s was acknowledged and is gone", e, tenant)
		}
	}
	return ""
}
