// Package load knows the tenants that load a node the most, by requests, by
// errors and by database time, over the last minute.
//
// However many tenants there are, it keeps a bounded number of counters: the
// space-saving algorithm (Metwally, Agrawal, El Abbadi 2005) for each order and
// each part of the minute. It promises that a tenant with more than 1/size of a
// part's total is among them, and that nobody is said to have asked for more
// than they have. Libraries that we found count one number, without a window.
package load

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
)

// Window is the time that is looked back on; it moves in parts.
const (
	Window = time.Minute
	parts  = 6
	part   = Window / parts
)

// perShown counters are kept for each tenant that is shown: the more, the
// smaller the share of the load that is certain to be seen.
const perShown = 10

// Sum is what a tenant has asked for.
type Sum struct {
	Requests int64
	Errors   int64 // answers that were our fault: 5xx
	Database time.Duration
}

func (s Sum) plus(o Sum) Sum {
	return Sum{s.Requests + o.Requests, s.Errors + o.Errors, s.Database + o.Database}
}

// Order is what tenants are compared by.
type Order string

// The orders.
const (
	ByRequests Order = "requests"
	ByErrors   Order = "errors"
	BySeconds  Order = "seconds"
)

// orders are the orders, and what of a sum counts in each.
var orders = [...]struct {
	name   Order
	weight func(Sum) int64
}{
	{ByRequests, func(s Sum) int64 { return s.Requests }},
	{ByErrors, func(s Sum) int64 { return s.Errors }},
	{BySeconds, func(s Sum) int64 { return int64(s.Database) }},
}

// Tenant is one of the busiest.
type Tenant struct {
	ID   uuid.UUID
	Slug string
	Sum
}

// Tenants counts. Its methods may be called at the same time, and on nil, which
// counts nothing.
type Tenants struct {
	shown int

	mu     sync.Mutex
	window [parts]slice
}

// slice is a part of the window: a summary for each order.
type slice struct {
	number    int64 // of the part of time, since 1970
	summaries [len(orders)]summary
}

// New shows at most so many tenants in each order; 0 is nil, which counts
// nothing. The registerer may be nil.
func New(shown int, registerer prometheus.Registerer) (*Tenants, error) {
	if shown == 0 {
		return nil, nil
	}
	if shown < 0 {
		return nil, errors.New("the number of tenants to show must not be negative")
	}
	t := &Tenants{shown: shown}
	if registerer == nil {
		return t, nil
	}
	if err := registerer.Register(collector{t}); err != nil {
		return nil, fmt.Errorf("register the metrics of the busiest tenants: %w", err)
	}
	return t, nil
}

// Add counts what a tenant has asked for.
func (t *Tenants) Add(id uuid.UUID, slug string, what Sum) {
	if t == nil {
		return
	}
	now := time.Now().UnixNano() / int64(part)
	t.mu.Lock()
	defer t.mu.Unlock()
	current := &t.window[now%parts]
	if current.number != now {
		*current = slice{number: now}
	}
	for i, order := range orders {
		if weight := order.weight(what); weight > 0 {
			current.summaries[i].add(id, slug, what, weight, t.shown*perShown)
		}
	}
}

// Busiest are the first of the order, the most loading one first. exact is false
// when more tenants were there than are counted: figures are then too low by
// what came before a tenant was noticed.
func (t *Tenants) Busiest(by Order, limit int) (busiest []Tenant, exact bool) {
	i := slices.IndexFunc(orders[:], func(o struct {
		name   Order
		weight func(Sum) int64
	},
	) bool {
		return o.name == by
	})
	if t == nil || i < 0 {
		return nil, true
	}
	sums, exact := t.sums(i)
	busiest = slices.SortedFunc(maps.Values(sums), func(a, b Tenant) int {
		return cmp.Or(cmp.Compare(orders[i].weight(b.Sum), orders[i].weight(a.Sum)), cmp.Compare(a.Slug, b.Slug))
	})
	return busiest[:min(limit, t.shown, len(busiest))], exact
}

// sums adds the parts of the window up.
func (t *Tenants) sums(order int) (sums map[uuid.UUID]Tenant, exact bool) {
	oldest := time.Now().UnixNano()/int64(part) - parts + 1
	sums, exact = map[uuid.UUID]Tenant{}, true
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.window {
		if t.window[i].number < oldest {
			continue
		}
		s := &t.window[i].summaries[order]
		exact = exact && !s.crowded
		for _, c := range s.heap {
			sums[c.id] = Tenant{c.id, c.slug, sums[c.id].plus(c.seen)}
		}
	}
	return sums, exact
}
