package operation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/tracing"
)

const (
	leaseTime  = 15 * time.Second
	renewEvery = 5 * time.Second
	// renewTimeout leaves a run that cannot renew the time to notice and stop
	// before its lease is dead.
	renewTimeout = 4 * time.Second
	leaseMargin  = 2 * time.Second
	// settleTimeout bounds the last writes of a run that was interrupted.
	settleTimeout = 5 * time.Second
)

// Handler runs the operations of one kind.
type Handler interface {
	// Begin prepares one attempt; it does no I/O.
	Begin(run *Run) Attempt
}

// Attempt is one run through the steps that are not recorded yet.
type Attempt interface {
	// Step does the named step. It is idempotent: the same step may have been
	// done, in part or in whole, by a run that did not live to record it.
	// Errors: *Failure says how to go on; ErrFenced stops; anything else is
	// tried again a few times.
	Step(ctx context.Context, name string) error
	// Undo removes what the steps have built, after the operation was decided
	// to fail. It is idempotent too.
	Undo(ctx context.Context) error
	// Failed writes what else changes with the failure, in the transaction that
	// records it.
	Failed(ctx context.Context, tx pgx.Tx, why Problem) error
	// Close gives back what the attempt holds.
	Close()
}

// Patient is implemented by a Handler with steps that may take longer than
// StepTimeout.
type Patient interface {
	// Timeout of a step, or of "undo"; 0: StepTimeout.
	Timeout(step string) time.Duration
}

// StepTimeout bounds a step, unless its handler is Patient. One that takes longer
// is tried again.
const StepTimeout = time.Minute

// Runner claims operations and runs them. It may be used by several
// goroutines.
type Runner struct {
	Tracing *tracing.Tracing // of each run and its steps; nil: none. Set it before the first Run

	db       pg.DB
	waker    Waker
	holder   string
	log      *slog.Logger
	handlers map[string]Handler
	renew    time.Duration // renewEvery; tests are in more of a hurry
}

// NewRunner makes a runner for the kinds of operations that handlers names.
// holder is the name of this process in leases.
func NewRunner(store *Store, holder string, log *slog.Logger, handlers map[string]Handler) *Runner {
	return &Runner{db: store.db, waker: store.waker, holder: holder, log: log, handlers: maps.Clone(handlers), renew: renewEvery}
}

// HandOver has a worker run what was kept for this process (Spec.Here). One that has
// begun, or is somebody's, is left alone.
func (r *Runner) HandOver(ctx context.Context, id uuid.UUID) error {
	return pg.InTx(ctx, r.db, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			UPDATE control.operations SET lease_until = NULL, lease_holder = '', wake_at = now() + $3::interval
			WHERE id = $1 AND status = 'queued' AND lease_holder = $2`, id, r.holder, wakeGrace)
		if err != nil {
			return fmt.Errorf("hand the operation over: %w", err)
		}
		if tag.RowsAffected() == 0 {
			return nil
		}
		return r.waker.Wake(ctx, tx, id)
	})
}

func (r *Runner) kinds() []string { return slices.Sorted(maps.Keys(r.handlers)) }

// Run claims the operation and runs it until it has finished, has to wait, or
// ctx ends; then the lease is given back. It does nothing when the operation is
// somebody else's or finished. Errors: only those of the control database; all
// others are in the operation.
func (r *Runner) Run(ctx context.Context, id uuid.UUID) error {
	run, err := r.claim(ctx, id)
	if err != nil || run == nil {
		return err
	}
	ctx, span := r.Tracing.Root(ctx, "operation "+run.Kind)
	defer span.End()
	tracing.Annotate(ctx, "ouvira.operation_id", run.ID.String())
	tracing.Annotate(ctx, "ouvira.tenant_id", run.TenantID.String())
	log := r.log.With("operation", run.ID, "kind", run.Kind, "tenant", run.TenantID, "epoch", run.Epoch)
	working, stop := r.keep(ctx, run)
	err = r.work(working, run, log)
	if err != nil {
		tracing.Fail(span, err)
	}
	interrupted := working.Err() != nil
	fenced := errors.Is(err, ErrFenced) || errors.Is(context.Cause(working), ErrFenced)
	stop()

	// What follows is written even though the process may be stopping.
	settling, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	switch {
	case err == nil:
		return nil
	case fenced:
		log.WarnContext(ctx, "operation taken over by another worker")
		return nil
	case interrupted:
		log.InfoContext(ctx, "operation interrupted, lease given back", "error", err)
		err = run.giveBack(settling, r.waker, nil, 0)
	default:
		err = r.wait(settling, run, err, log)
	}
	if errors.Is(err, ErrFenced) {
		return nil
	}
	return err
}

// keep renews the lease until stop is called, and ends the context when the
// lease is lost or can no longer be proven.
func (r *Runner) keep(ctx context.Context, run *Run) (working context.Context, stop func()) {
	working, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(r.renew)
		defer tick.Stop()
		proven := time.Now()
		for {
			select {
			case <-working.Done():
				return
			case <-tick.C:
			}
			asked := time.Now()
			renewing, done := context.WithTimeout(working, renewTimeout)
			err := run.renew(renewing)
			done()
			switch {
			case err == nil:
				proven = asked
			case errors.Is(err, ErrFenced) || time.Since(proven) > leaseTime-leaseMargin-renewEvery:
				cancel(ErrFenced)
				return
			}
		}
	}()
	return working, func() {
		cancel(nil)
		<-ended
	}
}

// work runs the steps, or goes on undoing.
func (r *Runner) work(ctx context.Context, run *Run, log *slog.Logger) error {
	attempt := r.handlers[run.Kind].Begin(run)
	defer attempt.Close()
	if run.last.Final {
		return r.undo(ctx, run, attempt, run.last, log)
	}
	err := r.steps(ctx, run, attempt)
	if _, foreseen := errors.AsType[*Failure](err); !foreseen && errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = Later("step_timeout", "A step took too long.", "It is tried again.").Because(err)
	}
	if err == nil {
		log.InfoContext(ctx, "operation succeeded", "seconds", time.Since(run.CreatedAt).Seconds())
		return nil
	}
	if ctx.Err() != nil || errors.Is(err, ErrFenced) {
		return err
	}
	failure, why := classify(err, run.last)
	if !failure.Final {
		return err
	}
	log.ErrorContext(ctx, "operation fails", "code", failure.Code, "error", failure)
	if err := run.decide(ctx, why); err != nil {
		return err
	}
	run.last = why
	return r.undo(ctx, run, attempt, why, log)
}

func (r *Runner) steps(ctx context.Context, run *Run, attempt Attempt) error {
	for {
		if len(run.todo) > 0 {
			name := run.todo[0]
			if err := r.step(ctx, run, attempt, name); err != nil {
				return fmt.Errorf("step %s: %w", name, err)
			}
		}
		if !run.kept {
			if err := run.advance(ctx, run.db, run.todo); err != nil {
				return err
			}
		}
		run.kept = false
		if len(run.todo) <= 1 {
			return nil
		}
		run.todo = run.todo[1:]
	}
}

func (r *Runner) step(ctx context.Context, run *Run, attempt Attempt, name string) error {
	ctx, cancel := context.WithTimeout(ctx, r.timeout(run.Kind, name))
	defer cancel()
	ctx, span := tracing.Start(ctx, "step "+name)
	err := attempt.Step(ctx, name)
	tracing.End(span, err)
	if err == nil {
		err = ctx.Err() // what a step does after its time is not to be relied on
	}
	return err
}

func (r *Runner) timeout(kind, step string) time.Duration {
	if patient, ok := r.handlers[kind].(Patient); ok {
		return cmp.Or(patient.Timeout(step), StepTimeout)
	}
	return StepTimeout
}

func (r *Runner) undo(ctx context.Context, run *Run, attempt Attempt, why record, log *slog.Logger) error {
	undoing, cancel := context.WithTimeout(ctx, r.timeout(run.Kind, "undo"))
	defer cancel()
	undoing, span := tracing.Start(undoing, "undo")
	err := attempt.Undo(undoing)
	tracing.End(span, err)
	if err != nil {
		return fmt.Errorf("undo: %w", err)
	}
	err = run.fail(ctx, why, func(tx pgx.Tx) error { return attempt.Failed(ctx, tx, why.Problem) })
	if err == nil {
		log.InfoContext(ctx, "operation undone", "code", why.Code)
	}
	return err
}

// wait queues the operation for another try.
func (r *Runner) wait(ctx context.Context, run *Run, err error, log *slog.Logger) error {
	failure, why := classify(err, run.last)
	if run.last.Final {
		why = run.last // an undoing that has to wait is still a failure
	}
	pause := backoff(failure.After, why.Repeats, time.Since(run.CreatedAt))
	log.WarnContext(ctx, "operation waits", "code", failure.Code, "seconds", pause.Seconds(), "error", err)
	return run.giveBack(ctx, r.waker, &why, pause)
}

// recent is how long an operation is tried again at a pace that a waiting
// person expects.
const recent = 15 * time.Minute

// backoff is how long to wait before the next try: with what the reaper's tick
// adds at most 5 s while the operation is recent, up to a minute later.
func backoff(least time.Duration, repeats int, age time.Duration) time.Duration {
	pause := 500 * time.Millisecond << min(repeats, 2)
	if age > recent {
		pause = min(time.Minute, age/60)
	}
	pause = max(pause, least)
	return pause + rand.N(pause/4+1) //nolint:gosec // spreading, not secrecy
}
