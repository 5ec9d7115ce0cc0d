package directory

import (
	"maps"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/shared/route"
)

// table is the routes under the names by which they are found. It knows
// tenants that are not deleted; a tombstone takes its tenant out, which is
// enough because pulls come in the order of the clock.
type table struct {
	byID   map[uuid.UUID]*route.Route
	bySlug map[string]*route.Route
	byHost map[string]*route.Route
}

func newTable(size int) table {
	return table{
		byID:   make(map[uuid.UUID]*route.Route, size),
		bySlug: make(map[string]*route.Route, size),
		byHost: make(map[string]*route.Route),
	}
}

// apply brings in what one pull brought and returns what changed. The caller
// holds the write lock. Names are first taken from all who lose them and then
// given to all who get them, so that within one pull they can change hands.
func (t *table) apply(routes []*route.Route) []Event {
	events := make([]Event, 0, len(routes))
	for _, r := range routes {
		old := t.byID[r.TenantID]
		if old != nil && old.Version > r.Version {
			continue
		}
		if old == nil && r.Deleted {
			continue
		}
		if old != nil {
			t.remove(old)
		}
		event := Event{Old: old}
		if !r.Deleted {
			event.New = r
		}
		events = append(events, event)
	}
	for _, e := range events {
		if e.New != nil {
			t.insert(e.New)
		}
	}
	return events
}

func (t *table) remove(r *route.Route) {
	delete(t.byID, r.TenantID)
	if t.bySlug[r.Slug] == r {
		delete(t.bySlug, r.Slug)
	}
	for _, host := range r.Hosts {
		if t.byHost[host] == r {
			delete(t.byHost, host)
		}
	}
}

func (t *table) insert(r *route.Route) {
	t.byID[r.TenantID] = r
	// The control database knows each name once. Should it ever answer twice,
	// the later change has it.
	if holder := t.bySlug[r.Slug]; holder == nil || holder.Version <= r.Version {
		t.bySlug[r.Slug] = r
	}
	for _, host := range r.Hosts {
		if holder := t.byHost[host]; holder == nil || holder.Version <= r.Version {
			t.byHost[host] = r
		}
	}
}

// replace makes routes the whole table and returns what changed. The caller
// holds the write lock.
func (t *table) replace(routes []*route.Route) []Event {
	before := *t
	*t = newTable(len(routes))
	events := t.apply(routes)
	for i, e := range events {
		events[i].Old = before.byID[e.New.TenantID]
		delete(before.byID, e.New.TenantID)
	}
	for gone := range maps.Values(before.byID) {
		events = append(events, Event{Old: gone})
	}
	return events
}

// rebind gives the routes of a changed server the new one. A server's change
// has a version of the clock but does not touch the versions of its routes.
func (t *table) rebind(servers []*route.Server) []*route.Route {
	if len(servers) == 0 {
		return nil
	}
	fresh := make(map[uuid.UUID]*route.Server, len(servers))
	for _, s := range servers {
		fresh[s.ID] = s
	}
	var moved []*route.Route
	for _, r := range t.byID {
		if s := fresh[r.Server.ID]; s != nil && s != r.Server {
			copied := *r
			copied.Server = s
			moved = append(moved, &copied)
		}
	}
	return moved
}
