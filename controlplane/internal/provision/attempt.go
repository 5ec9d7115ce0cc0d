package provision

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
)

// Begin implements operation.Handler.
func (s *Service) Begin(run *operation.Run) operation.Attempt { return &attempt{s: s, run: run} }

// attempt is one run through the steps.
type attempt struct {
	s   *Service
	run *operation.Run
}

// Step implements operation.Attempt.
func (a *attempt) Step(_ context.Context, name string) error {
	return fmt.Errorf("no step %q", name)
}

// Undo implements operation.Attempt.
func (a *attempt) Undo(context.Context) error { return nil }

// Failed implements operation.Attempt.
func (a *attempt) Failed(context.Context, pgx.Tx, operation.Problem) error { return nil }

// Close implements operation.Attempt.
func (a *attempt) Close() {}
