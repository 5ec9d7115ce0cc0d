package load

import (
	"container/heap"

	"github.com/google/uuid"
)

// summary is a space-saving summary: a bounded number of counters, of which the
// smallest goes to a tenant that has none.
type summary struct {
	byID    map[uuid.UUID]*counter
	heap    smallestFirst
	crowded bool // a counter has changed hands
}

// counter counts one tenant's weight, and that of whom it counted before: what
// keeps a newcomer from being the next to go.
type counter struct {
	id     uuid.UUID
	slug   string
	weight int64
	seen   Sum // of this tenant, since it has the counter
	at     int // in the heap
}

func (s *summary) add(id uuid.UUID, slug string, what Sum, weight int64, size int) {
	c, ok := s.byID[id]
	switch {
	case ok:
	case len(s.heap) < size:
		c = &counter{id: id}
		if s.byID == nil {
			s.byID = map[uuid.UUID]*counter{}
		}
		s.byID[id] = c
		heap.Push(&s.heap, c)
	default:
		c = s.heap[0]
		delete(s.byID, c.id)
		c.id, c.seen = id, Sum{}
		s.byID[id] = c
		s.crowded = true
	}
	c.slug, c.seen = slug, c.seen.plus(what)
	c.weight += weight
	heap.Fix(&s.heap, c.at)
}

// smallestFirst is a heap of counters.
type smallestFirst []*counter //nolint:recvcheck // heap.Interface: Push and Pop change the slice, the rest look at it

func (h smallestFirst) Len() int           { return len(h) }
func (h smallestFirst) Less(i, j int) bool { return h[i].weight < h[j].weight }

func (h smallestFirst) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}

// Push implements heap.Interface.
func (h *smallestFirst) Push(x any) {
	c, _ := x.(*counter)
	c.at = len(*h)
	*h = append(*h, c)
}

// Pop implements heap.Interface; counters change hands and are never taken out.
func (h *smallestFirst) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
