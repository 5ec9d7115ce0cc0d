package server

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/shared/budget"
	"github.com/ouvira/ouvira/shared/fault"
)

// Budget is this process's part of the servers' connection budgets:
// *budget.Lease.
type Budget interface {
	// Limit is how many connections this process may have to the server.
	Limit(server uuid.UUID, budget int) int
	// Instance is in the name of each connection.
	Instance() string
	// Age is the time since the limits were renewed.
	Age() time.Duration
	// Short says that somebody waits because a limit is reached.
	Short()
}

// proofFor is how long this process counts as not expelled after the control
// database has heard of it. Nobody is expelled who was heard of within this time,
// with room to spare.
const proofFor = 10 * time.Second

var errExpelled = errors.New("the control database has not heard of this process for a while: its connections may be given to others")

// seats are the connections of this process to each server: taken before they
// are opened, given back when they are closed.
type seats struct {
	budget Budget

	mu      sync.Mutex
	of      map[uuid.UUID]*taken
	changed chan struct{} // closed and replaced when there may be room
}

type taken struct{ open, waiting int }

func newSeats(b Budget) *seats {
	return &seats{budget: b, of: map[uuid.UUID]*taken{}, changed: make(chan struct{})}
}

// take waits for n seats of a server.
func (s *seats) take(ctx context.Context, server uuid.UUID, size, n int) (release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.of[server]
	if t == nil {
		t = &taken{}
		s.of[server] = t
	}
	t.waiting += n
	defer func() { t.waiting -= n }()
	for t.open+n > s.budget.Limit(server, size) {
		changed := s.changed
		s.mu.Unlock()
		s.budget.Short()
		select {
		case <-changed:
			s.mu.Lock()
		case <-ctx.Done():
			s.mu.Lock()
			return nil, fault.Unavailable("This process holds its whole share of the server's connections.").
				RetryAfter(time.Second).Because(ctx.Err())
		}
	}
	t.open += n
	return sync.OnceFunc(func() {
		s.mu.Lock()
		t.open -= n
		s.mu.Unlock()
		s.LimitsChanged()
	}), nil
}

// Demands implements budget.Holder.
func (s *seats) Demands() map[uuid.UUID]budget.Demand {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[uuid.UUID]budget.Demand{}
	for server, t := range s.of {
		if *t != (taken{}) {
			all[server] = budget.Demand{Open: t.open, Wanted: t.open + t.waiting}
		}
	}
	return all
}

// LimitsChanged implements budget.Holder.
func (s *seats) LimitsChanged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

// all is the budget of a process that shares with nobody.
type all struct{}

func (all) Limit(_ uuid.UUID, budget int) int { return budget }
func (all) Instance() string                  { return "" }
func (all) Age() time.Duration                { return 0 }
func (all) Short()                            {}
