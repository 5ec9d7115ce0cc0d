package tenantpool

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/sony/gobreaker/v2"
)

const (
	// breakAfter dials in a row without a word from the server, no further ones
	// are made, and whoever needs one is refused at once.
	breakAfter = 3
	// breakFor is how long; then one dial finds out how things are.
	breakFor = 2 * time.Second
)

// newBreaker keeps requests from waiting for a Postgres server that does not
// answer (invariant 8). It belongs to the server, at one
// address, and so outlives pools.
// Connections that are there go on being leased: only new ones are its matter.
// A server that answers with a refusal, be it that it is starting up, answers.
func newBreaker(name string, log *slog.Logger) *gobreaker.TwoStepCircuitBreaker[struct{}] {
	return gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests: 1,
		Timeout:     breakFor,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= breakAfter },
		// The pool was closed while it dialled: that says nothing.
		IsExcluded: func(err error) bool { return errors.Is(err, context.Canceled) },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			log.Warn("a Postgres server's breaker has changed", "server", name, "from", from.String(), "to", to.String())
		},
	})
}

func (s *server) dials() *gobreaker.TwoStepCircuitBreaker[struct{}] {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.breaker
}

// broken tells whether the server is not dialled now.
func (s *server) broken() bool { return s.dials().State() == gobreaker.StateOpen }
