package limit

import (
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/ouvira/ouvira/shared/route"
)

// Local counts in memory. It is bounded: who has not been seen for longest is
// forgotten first.
type Local[K comparable] struct {
	mu   sync.Mutex
	full *simplelru.LRU[localKey[K], *time.Time] // when everything is there again
}

type localKey[K comparable] struct {
	tenant uuid.UUID
	limit  string
	key    K
}

// NewLocal makes one that remembers so many keys.
func NewLocal[K comparable](size int) (*Local[K], error) {
	full, err := simplelru.NewLRU[localKey[K], *time.Time](size, nil)
	if err != nil {
		return nil, fmt.Errorf("make the limits of the node: %w", err)
	}
	return &Local[K]{full: full}, nil
}

// Take counts one request of the key at the tenant.
func (l *Local[K]) Take(tenant uuid.UUID, limit route.Limit, key K) Verdict {
	step, window := step(limit)
	k := localKey[K]{tenant, limit.Name, key}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	full, known := l.full.Get(k)
	if !known {
		full = new(time.Time)
		l.full.Add(k, full)
	}
	if full.Before(now) {
		*full = now
	}
	if full.Add(step).After(now.Add(window)) {
		return verdict(limit, false, full.Sub(now))
	}
	*full = full.Add(step)
	return verdict(limit, true, full.Sub(now))
}

// Knows tells whether the key has been counted, as far back as is remembered.
func (l *Local[K]) Knows(tenant uuid.UUID, limit route.Limit, key K) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.full.Contains(localKey[K]{tenant, limit.Name, key})
}
