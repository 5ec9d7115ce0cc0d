package tenantpool

import "time"

// janitorEvery is how often the janitor comes. It is one timer for all pools: an
// idle pool has neither goroutine nor timer.
const janitorEvery = 30 * time.Second

// tidy closes connections that were idle for IdleFor, and forgets pools that no
// request has used for PoolFor. Both stand in order, so it looks at nothing that
// stays.
func (p *Pools) tidy() {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.round++
	var gone []*pool
	for p.pools.Len() > 0 {
		_, oldest, _ := p.pools.GetOldest()
		if time.Duration(p.round-oldest.round)*janitorEvery <= p.options.PoolFor {
			break
		}
		p.pools.RemoveOldest()
		p.meters.evicted(oldest, evictedIdle)
		gone = append(gone, oldest)
	}
	servers := make([]*server, 0, len(p.servers))
	for _, s := range p.servers {
		servers = append(servers, s)
	}
	p.janitor.Reset(janitorEvery)
	p.mu.Unlock()
	for _, e := range gone {
		e.retire()
	}
	for _, s := range servers {
		s.endIdle(time.Now().Add(-p.options.IdleFor))
	}
}
