package tenantpool

import (
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/shared/budget"
)

// proofFor is how long a process counts as not expelled after it was last heard
// of. Nobody is expelled who was heard of within this time, with room to spare.
const proofFor = 10 * time.Second

var _ budget.Holder = (*Pools)(nil)

// Demands implements budget.Holder.
func (p *Pools) Demands() map[uuid.UUID]budget.Demand {
	all := map[uuid.UUID]budget.Demand{}
	for _, s := range p.known() {
		if d := s.demand(); d != (budget.Demand{}) {
			all[s.id] = d
		}
	}
	return all
}

// LimitsChanged implements budget.Holder.
func (p *Pools) LimitsChanged() {
	p.nodes.Store(int64(p.options.Budget.Nodes()))
	for _, s := range p.known() {
		s.relimit()
	}
}

func (p *Pools) known() []*server {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*server, 0, len(p.servers))
	for _, s := range p.servers {
		all = append(all, s)
	}
	return all
}

func (s *server) demand() budget.Demand {
	s.mu.Lock()
	defer s.mu.Unlock()
	return budget.Demand{Open: s.open, Wanted: s.open - s.idle.count + s.wants[requests] + s.wants[background]}
}

// relimit keeps to what this process may hold now. What is too much goes: idle
// connections at once, the others when their leases end.
func (s *server) relimit() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = s.budget.Limit(s.id, s.whole)
	for c := s.idle.coldest; c != nil; {
		next := c.warmer
		if s.excess(c.pool) > 0 {
			s.end(s.idle.remove(c))
		}
		c = next
	}
	for _, e := range s.waitingPools() { // their tenants' caps may be others
		s.update(e)
	}
	s.settle()
}

func (s *server) waitingPools() []*pool {
	var all []*pool
	for _, u := range s.tenants {
		all = append(all, u.waiting...)
	}
	return all
}

// excess is by how much the tenant of a pool that has a connection is over its
// cap, which has fallen. It is called with mu held.
func (s *server) excess(e *pool) int { return e.usage.open - e.usage.closing - e.cap() }

// mayDial tells whether one more connection may be opened now, as far as the
// process itself goes. One that nobody has heard of for a while may have been
// expelled meanwhile: it opens one connection after the other, because the next
// may be the one that finds out. That the last one did not says nothing: what
// this process held may have been given to others since.
func (s *server) mayDial() bool {
	if s.budget.Age() <= proofFor {
		return true
	}
	dialling := s.open
	for _, u := range s.tenants {
		dialling -= u.connected
	}
	return dialling == 0
}
