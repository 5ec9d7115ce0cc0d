package tenanttest

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/dataplane/internal/directory"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/route"
)

// Table is a directory without a control database: it knows what the test
// tells it.
type Table struct {
	suffix string

	mu          sync.Mutex
	routes      map[uuid.UUID]*route.Route
	subscribers []func(directory.Event)

	// OnRefresh, when set, is called by Refresh: the moment at which a node
	// would learn what the control plane has changed.
	OnRefresh func()
	// Refreshes counts the calls of Refresh.
	Refreshes atomic.Int64
}

// NewTable makes an empty one.
func NewTable(baseDomain string) *Table {
	return &Table{suffix: "." + baseDomain, routes: map[uuid.UUID]*route.Route{}}
}

// Subscribe is directory.Directory's.
func (t *Table) Subscribe(fn func(directory.Event)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.subscribers = append(t.subscribers, fn)
}

// Set adds or replaces a tenant's route and tells the subscribers.
func (t *Table) Set(r *route.Route) {
	t.mu.Lock()
	event := directory.Event{Old: t.routes[r.TenantID], New: r}
	if r.Deleted {
		delete(t.routes, r.TenantID)
		event.New = nil
	} else {
		t.routes[r.TenantID] = r
	}
	subscribers := t.subscribers
	t.mu.Unlock()
	for _, tell := range subscribers {
		tell(event)
	}
}

// Change sets a copy of the tenant's route, one version up, as change leaves
// it, and returns it.
func (t *Table) Change(id uuid.UUID, change func(r *route.Route)) *route.Route {
	t.mu.Lock()
	r := *t.routes[id]
	t.mu.Unlock()
	r.Version++
	change(&r)
	t.Set(&r)
	return &r
}

// ByID is directory.Directory's.
func (t *Table) ByID(id uuid.UUID) (*route.Route, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, ok := t.routes[id]
	return r, ok
}

// BySlug is directory.Directory's.
func (t *Table) BySlug(slug string) (*route.Route, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.routes {
		if r.Slug == slug {
			return r, true
		}
	}
	return nil, false
}

// Lookup is directory.Directory's.
func (t *Table) Lookup(host string) (*route.Route, error) {
	name, err := route.NormalizeHost(host)
	if err != nil {
		return nil, fault.Malformed("The Host header is not a host name.").Code("bad_host")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.routes {
		if r.Slug+t.suffix == name {
			return r, nil
		}
		if slices.Contains(r.Hosts, name) {
			return r, nil
		}
	}
	return nil, fault.NotFound("No workspace answers at this address. Check the spelling.").Code("unknown_host")
}

// Find is Lookup: the table is never behind.
func (t *Table) Find(_ context.Context, host string) (*route.Route, error) { return t.Lookup(host) }

// Admit is directory.Directory's, without waiting.
func (t *Table) Admit(_ context.Context, r *route.Route) (*route.Route, error) {
	return r, directory.Refusal(r)
}

// Refresh is directory.Directory's.
func (t *Table) Refresh(context.Context, int64) error {
	t.Refreshes.Add(1)
	if t.OnRefresh != nil {
		t.OnRefresh()
	}
	return nil
}

// Ready is directory.Directory's.
func (t *Table) Ready() bool { return true }
