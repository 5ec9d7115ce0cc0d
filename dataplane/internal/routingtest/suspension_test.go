package routingtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/google/uuid"

	"github.com/ouvira/ouvira/dataplane/internal/historytest"
)

// The steps of suspending and resuming, and a request. To suspend is to publish
// and then to fence; it is acknowledged after the fence. To resume is to lift
// the fence and then to publish.
const (
	publishing = "publish"
	fencing    = "fence"
	unfencing  = "unfence"
	requesting = "request"
)

const historyNodes = 2

// event is one of them, on one tenant; the node is a request's.
type event struct {
	slug string
	what string
	node int
}

// standing is what there is of a tenant: how often its route was published
// (an odd number of times: it is suspended), which of these each node goes by,
// and whether the database is fenced.
type standing struct {
	published int
	known     [historyNodes]int
	fenced    bool
}

// suspending is what is promised of suspensions, as a sequential specification.
// A node hears of a publication some time later, but never goes back behind
// what it has acted on. It serves by what it goes by, and never through a
// fence; so after a suspension was acknowledged nobody is served. That a
// resumed tenant is served is promised for "in the end" only, which no history
// shows: a node that was cut off may refuse for long.
var suspending = porcupine.Model{
	Partition: historytest.By(func(e event) string { return e.slug }),
	Init:      func() any { return standing{} },
	Step: func(state, input, output any) (bool, any) {
		s, e := state.(standing), input.(event)
		switch e.what {
		case publishing:
			s.published++
			return true, s
		case fencing:
			s.fenced = true
			return true, s
		case unfencing:
			s.fenced = false
			return true, s
		}
		switch output {
		case served:
			return s.learns(e.node, false) && !s.fenced, s
		case "tenant_suspended":
			return s.learns(e.node, true), s
		}
		return true, s // it could not tell
	},
	DescribeOperation: func(input, output any) string {
		e := input.(event)
		if e.what == requesting {
			return fmt.Sprintf("at %d: %v", e.node, output)
		}
		return e.what
	},
	DescribeState: func(state any) string { return fmt.Sprintf("%+v", state) },
}

// learns brings the node to the first publication, from the one that it goes by
// on, that says so; false when there is none yet. To learn as little as will do
// leaves the most ways to explain the rest.
func (s *standing) learns(node int, suspended bool) bool {
	if s.known[node]%2 == 1 != suspended {
		s.known[node]++
	}
	return s.known[node] <= s.published
}

// TestModelOfSuspensions suspends and resumes two tenants while clients ask for
// them at two nodes, one of which is cut off from the control database for a
// third of the time.
func TestModelOfSuspensions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []*place{sharedPlace(t)}, historyNodes, 2)
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d", seed)
	h := &suspensions{world: w, finished: make(chan struct{})}
	var working, asking sync.WaitGroup
	for i, s := range w.slots {
		for range askersOfEach {
			h.clients++
			c := &client{random: rand.New(rand.NewPCG(seed, uint64(h.clients))), history: w.history, entries: &w.entries, wrote: map[uuid.UUID]int64{}}
			number := h.clients
			asking.Go(func() { h.ask(number, c, s) })
		}
		h.clients++
		number := h.clients
		working.Go(func() {
			for round := range suspensionRounds {
				if err := h.round(t.Context(), number, s, i == 0, round); err != nil {
					t.Errorf("round %d: %v", round, err)
					return
				}
			}
		})
	}
	working.Wait()
	close(h.finished)
	asking.Wait()
	must(t, w.mended(t.Context()))
	h.Judge(t, suspending)
	t.Logf("%s", tally(h.told))
}

const (
	suspensionRounds = 9
	askersOfEach     = 3
)

// suspensions is the history of a run.
type suspensions struct {
	*world
	historytest.Recorder

	clients  int
	finished chan struct{}
}

// ask asks for the tenant at either node until all is over. It takes its time:
// a refusal costs nothing, and thousands of them tell nothing new.
func (h *suspensions) ask(number int, c *client, s *slot) {
	pace := time.NewTicker(5 * time.Millisecond)
	defer pace.Stop()
	for {
		select {
		case <-h.finished:
			return
		case <-pace.C:
		}
		at := c.random.IntN(historyNodes)
		h.Do(number, event{s.slug, requesting, at}, func() any {
			a := c.ask(h.nodes[at], s.slug)
			_ = h.wrong(a) // counts it
			return a.code
		})
	}
}

// round suspends and resumes the tenant once; the first tenant's rounds also cut
// a node off and mend it.
func (h *suspensions) round(ctx context.Context, number int, s *slot, first bool, round int) error {
	defer h.work(s)()
	lonely, db := h.nodes[historyNodes-1], h.last(s).db
	if first && round == suspensionRounds/3 {
		lonely.disturb(h.now())
		lonely.proxy.cut()
	}
	if first && round == 2*suspensionRounds/3 {
		lonely.proxy.mend()
		if err := h.caughtUp(ctx, lonely); err != nil {
			return err
		}
		lonely.calmed(h.now())
	}
	for _, step := range []struct {
		what string
		act  func() error
	}{
		{publishing, func() error { return h.publishSuspended(ctx, s) }},
		{fencing, func() error { return h.fence(ctx, db) }},
		{unfencing, func() error { return h.unfence(ctx, db) }},
		{publishing, func() error { return h.publishResumed(ctx, s) }},
	} {
		var err error
		h.Do(number, event{s.slug, step.what, 0}, func() any {
			err = step.act()
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		if err := h.answers(ctx, "", 10); err != nil {
			return err
		}
	}
	return h.answers(ctx, served, 10)
}

// answers waits until there were so many more with the code, or with any.
func (h *suspensions) answers(ctx context.Context, code string, more int) error {
	count := func() int {
		if code == "" {
			return h.Len()
		}
		h.history.mu.Lock()
		defer h.history.mu.Unlock()
		return h.told[code]
	}
	want := count() + more
	return eventually(ctx, patience, func(context.Context) error {
		if count() < want {
			return fmt.Errorf("no more answers %q", code)
		}
		return nil
	})
}
