package tenanttest

import (
	"sync"
	"time"

	"github.com/google/uuid"
)

// Budget stands in for the lease of connection shares: the whole of every
// server's budget and every tenant's cap, until a test sets something else.
type Budget struct {
	// OnChange is told what Set and Expelled have changed: LimitsChanged of the
	// pools.
	OnChange func()

	mu       sync.Mutex
	limit    int // of every server; -1: the whole budget
	nodes    int
	age      time.Duration
	instance string
	shorts   int
	expelled []string
}

// NewBudget makes one.
func NewBudget() *Budget {
	return &Budget{limit: -1, nodes: 1, instance: "testtestte", OnChange: func() {}}
}

// Set changes what the budget says.
func (b *Budget) Set(fn func(limit, nodes *int, age *time.Duration, instance *string)) {
	b.mu.Lock()
	fn(&b.limit, &b.nodes, &b.age, &b.instance)
	b.mu.Unlock()
	b.OnChange()
}

// Limit implements tenantpool.Budget.
func (b *Budget) Limit(_ uuid.UUID, budget int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.limit < 0 {
		return budget
	}
	return b.limit
}

// Nodes implements tenantpool.Budget.
func (b *Budget) Nodes() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.nodes
}

// Instance implements tenantpool.Budget.
func (b *Budget) Instance() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.instance
}

// Age implements tenantpool.Budget.
func (b *Budget) Age() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.age
}

// Short implements tenantpool.Budget.
func (b *Budget) Short() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.shorts++
}

// Shorts is how often somebody waited because a limit was reached.
func (b *Budget) Shorts() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.shorts
}

// Expelled implements tenantpool.Budget: nothing may be opened any more.
func (b *Budget) Expelled(instance string) {
	b.mu.Lock()
	b.limit = 0
	b.expelled = append(b.expelled, instance)
	b.mu.Unlock()
	b.OnChange()
}

// WasExpelled are the instances that servers have refused.
func (b *Budget) WasExpelled() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.expelled...)
}
