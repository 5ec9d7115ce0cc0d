package tenantpool

import "github.com/google/uuid"

// Waiting is how many wait for a connection to the server.
func (p *Pools) Waiting(server uuid.UUID) int {
	p.mu.Lock()
	s := p.servers[server]
	p.mu.Unlock()
	_, _, _, waiting := s.counts()
	return waiting
}
