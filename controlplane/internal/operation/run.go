package operation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/event"
	"github.com/ouvira/ouvira/shared/pg"
)

// ApplicationPrefix begins the application_name of every connection that works
// for an operation: prefix, operation id, "/", epoch.
const ApplicationPrefix = "ouvira/op/"

// Run is one claim of an operation: what was asked for, and the epoch that
// fences all it writes. It is valid for the time of one Handler.Begin … Close.
type Run struct {
	ID        uuid.UUID
	Kind      string
	TenantID  uuid.UUID // uuid.Nil: of no tenant
	Params    json.RawMessage
	CreatedBy string
	CreatedAt time.Time
	Epoch     int64

	db   pg.DB
	last record
	todo []string // the steps that are not recorded; the first is the one at work
	kept bool     // the step at work is recorded already, by Finish
}

// ApplicationName is how connections to other servers are marked, so that a
// later run can end those of an earlier one.
func (r *Run) ApplicationName() string {
	return ApplicationPrefix + r.ID.String() + "/" + strconv.FormatInt(r.Epoch, 10)
}

// Check returns ErrFenced when another run has taken over. Call it after
// connecting to another server and before acting there.
func (r *Run) Check(ctx context.Context) error {
	var held bool
	err := r.db.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM control.operations WHERE id = $1 AND epoch = $2 AND status = 'running')`,
		r.ID, r.Epoch).Scan(&held)
	if err != nil {
		return fmt.Errorf("check the epoch: %w", err)
	}
	if !held {
		return ErrFenced
	}
	return nil
}

// InTx runs fn in a transaction on the control database that holds the
// operation's row: no other run can claim it before the end. Errors: ErrFenced.
func (r *Run) InTx(ctx context.Context, fn func(tx pgx.Tx) error) error {
	return pg.InTx(ctx, r.db, func(tx pgx.Tx) error {
		var one int
		err := tx.QueryRow(ctx, `
			SELECT 1 FROM control.operations WHERE id = $1 AND epoch = $2 AND status = 'running' FOR UPDATE`,
			r.ID, r.Epoch).Scan(&one)
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrFenced
		}
		if err != nil {
			return fmt.Errorf("lock the operation: %w", err)
		}
		return fn(tx)
	})
}

// Finish is InTx for the last act of a step: the same commit records that the step is
// done and the next has begun or, after the last, that the operation has succeeded.
// Called again in the same step, it does nothing.
func (r *Run) Finish(ctx context.Context, fn func(tx pgx.Tx) error) error {
	if r.kept {
		return nil
	}
	err := r.InTx(ctx, func(tx pgx.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		return r.advance(ctx, tx, r.todo)
	})
	r.kept = err == nil
	return err
}

// Share lets exclusive operations of the tenant begin before this one ends: from here on
// it waits for its time, and has to look itself whether it is alone. It is called in
// InTx.
func (r *Run) Share(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, "UPDATE control.operations SET exclusive = false WHERE id = $1", r.ID); err != nil {
		return fmt.Errorf("let others at the tenant: %w", err)
	}
	return nil
}

// claim takes the operation when it is unfinished and nobody's, or kept for this
// process, and records that its next step has begun; nil says that there is nothing to
// do.
func (r *Runner) claim(ctx context.Context, id uuid.UUID) (*Run, error) {
	run := &Run{ID: id, db: r.db}
	var tenant *uuid.UUID
	var last, steps []byte
	err := r.db.QueryRow(ctx, `
		WITH claimed AS (
			UPDATE control.operations
			SET status = 'running', epoch = epoch + 1, attempts = attempts + 1,
			    lease_holder = $2, lease_until = now() + $3::interval, wake_at = now(), updated_at = clock_timestamp()
			WHERE id = $1 AND status IN ('queued', 'running') AND kind = ANY ($4)
			  AND (lease_until IS NULL OR lease_until < now() OR status = 'queued' AND lease_holder = $2)
			RETURNING *
		), begun AS (
			UPDATE control.operation_steps s
			SET status = 'running', started_at = COALESCE(s.started_at, clock_timestamp()), finished_at = NULL
			FROM claimed c
			WHERE s.operation_id = c.id AND COALESCE(c.error ->> 'final', '') <> 'true'
			  AND s.position = (SELECT min(n.position) FROM control.operation_steps n WHERE n.operation_id = c.id AND n.status <> 'succeeded')
		)
		SELECT kind, tenant_id, params, created_by, created_at, epoch, error,
		  (SELECT jsonb_agg(jsonb_build_object('name', s.name, 'status', s.status) ORDER BY s.position)
		   FROM control.operation_steps s WHERE s.operation_id = c.id)
		FROM claimed c`,
		id, r.holder, leaseTime, r.kinds()).
		Scan(&run.Kind, &tenant, &run.Params, &run.CreatedBy, &run.CreatedAt, &run.Epoch, &last, &steps)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("claim operation %s: %w", id, err)
	}
	if tenant != nil {
		run.TenantID = *tenant
	}
	if last != nil {
		if err := json.Unmarshal(last, &run.last); err != nil {
			return nil, fmt.Errorf("decode the error of operation %s: %w", id, err)
		}
	}
	var known []Step
	if steps != nil {
		if err := json.Unmarshal(steps, &known); err != nil {
			return nil, fmt.Errorf("decode the steps of operation %s: %w", id, err)
		}
	}
	for _, s := range known {
		if s.Status != string(Succeeded) {
			run.todo = append(run.todo, s.Name)
		}
	}
	return run, nil
}

// renew extends the lease. Errors: ErrFenced.
func (r *Run) renew(ctx context.Context) error {
	tag, err := r.db.Exec(ctx, `
		UPDATE control.operations SET lease_until = now() + $3::interval
		WHERE id = $1 AND epoch = $2 AND status = 'running'`,
		r.ID, r.Epoch, leaseTime)
	if err != nil {
		return fmt.Errorf("renew the lease: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return ErrFenced
	}
	return nil
}

// advance records in one commit that the first of the steps is done and that the next
// has begun; after the last, that the operation has succeeded.
func (r *Run) advance(ctx context.Context, q pg.Querier, steps []string) error {
	finished, started := "", ""
	if len(steps) > 0 {
		finished = steps[0]
	}
	if len(steps) > 1 {
		started = steps[1]
	}
	var held int
	err := q.QueryRow(ctx, `
		WITH fence AS (
			UPDATE control.operations
			SET updated_at   = clock_timestamp(),
			    error        = CASE WHEN $3 = '' THEN error END,
			    status       = CASE WHEN $4 = '' THEN 'succeeded' ELSE status END,
			    finished_at  = CASE WHEN $4 = '' THEN clock_timestamp() END,
			    lease_until  = CASE WHEN $4 = '' THEN NULL ELSE lease_until END,
			    lease_holder = CASE WHEN $4 = '' THEN '' ELSE lease_holder END
			WHERE id = $1 AND epoch = $2 AND status = 'running'
			RETURNING id
		), steps AS (
			UPDATE control.operation_steps s
			SET status      = CASE WHEN s.name = $3 THEN 'succeeded' ELSE 'running' END,
			    started_at  = COALESCE(s.started_at, clock_timestamp()),
			    finished_at = CASE WHEN s.name = $3 THEN clock_timestamp() END
			FROM fence
			WHERE s.operation_id = fence.id AND s.name IN ($3, $4)
		)
		SELECT count(*) FROM fence`,
		r.ID, r.Epoch, finished, started).Scan(&held)
	if err != nil {
		return fmt.Errorf("record step %q: %w", finished, err)
	}
	if held == 0 {
		return ErrFenced
	}
	r.last = record{}
	return nil
}

// decide records that the operation is going to fail, before anything is
// undone.
func (r *Run) decide(ctx context.Context, why record) error {
	return r.InTx(ctx, func(tx pgx.Tx) error {
		if err := setError(ctx, tx, r.ID, why); err != nil {
			return err
		}
		return markStep(ctx, tx, r.ID, "failed")
	})
}

// fail ends the operation as failed, or as cancelled, with what the handler has to say
// about it and the event in the same transaction.
func (r *Run) fail(ctx context.Context, why record, also func(tx pgx.Tx) error) error {
	ended := Failed
	if why.Code == codeCancelled {
		ended = Cancelled
	}
	return r.InTx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			UPDATE control.operations
			SET status = $2, finished_at = clock_timestamp(), lease_until = NULL, lease_holder = ''
			WHERE id = $1`, r.ID, ended)
		if err != nil {
			return fmt.Errorf("end the operation: %w", err)
		}
		if err := setError(ctx, tx, r.ID, why); err != nil {
			return err
		}
		if err := markStep(ctx, tx, r.ID, "failed"); err != nil {
			return err
		}
		if ended == Failed { // nobody has to look after what somebody has cancelled
			err = event.Record(ctx, tx, event.OperationFailed, r.TenantID, map[string]any{
				"operation_id": r.ID, "kind": r.Kind, "code": why.Code,
			})
			if err != nil {
				return err
			}
		}
		return also(tx)
	})
}

// giveBack queues the operation again; why is nil when the run was interrupted
// and its last error stays.
func (r *Run) giveBack(ctx context.Context, waker Waker, why *record, wait time.Duration) error {
	return r.InTx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			UPDATE control.operations
			SET status = 'queued', lease_until = NULL, lease_holder = '', wake_at = now() + $2::interval, updated_at = clock_timestamp()
			WHERE id = $1`, r.ID, wait)
		if err != nil {
			return fmt.Errorf("give the operation back: %w", err)
		}
		if err := markStep(ctx, tx, r.ID, "pending"); err != nil {
			return err
		}
		if why != nil {
			return setError(ctx, tx, r.ID, *why)
		}
		return waker.Wake(ctx, tx, r.ID)
	})
}

func setError(ctx context.Context, tx pgx.Tx, id uuid.UUID, why record) error {
	raw, err := json.Marshal(why)
	if err != nil {
		return fmt.Errorf("encode the error: %w", err)
	}
	_, err = tx.Exec(ctx, "UPDATE control.operations SET error = $2, updated_at = clock_timestamp() WHERE id = $1", id, raw)
	if err != nil {
		return fmt.Errorf("record the error: %w", err)
	}
	return nil
}

// markStep gives the step that was running its new status.
func markStep(ctx context.Context, tx pgx.Tx, id uuid.UUID, status string) error {
	_, err := tx.Exec(ctx, `
		UPDATE control.operation_steps
		SET status = $2, finished_at = CASE WHEN $2 = 'failed' THEN clock_timestamp() END
		WHERE operation_id = $1 AND status = 'running'`, id, status)
	if err != nil {
		return fmt.Errorf("record the step: %w", err)
	}
	return nil
}
