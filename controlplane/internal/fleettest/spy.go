package fleettest

import (
	"context"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
)

// Spy runs the real steps of a handler and lets a test stand between them.
type Spy struct {
	operation.Handler

	Before func(ctx context.Context, step string) error
	After  func(ctx context.Context, step string) error
	Twice  bool
	Said   func(err error) // what the real step returned
}

// Begin implements operation.Handler.
func (s *Spy) Begin(run *operation.Run) operation.Attempt {
	return &spyAttempt{Attempt: s.Handler.Begin(run), spy: s}
}

type spyAttempt struct {
	operation.Attempt

	spy *Spy
}

// Step implements operation.Attempt.
func (a *spyAttempt) Step(ctx context.Context, name string) error {
	if a.spy.Before != nil {
		if err := a.spy.Before(ctx, name); err != nil {
			return err
		}
	}
	if a.spy.Twice {
		if err := a.Attempt.Step(ctx, name); err != nil {
			return err
		}
	}
	err := a.Attempt.Step(ctx, name)
	if a.spy.Said != nil {
		a.spy.Said(err)
	}
	if err != nil {
		return err
	}
	if a.spy.After != nil {
		return a.spy.After(ctx, name)
	}
	return nil
}

// Die leaves a run as kill -9 would: nothing recorded, nothing given back.
func Die(context.Context, string) error { return operation.ErrFenced }
