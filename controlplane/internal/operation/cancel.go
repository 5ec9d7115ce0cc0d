package operation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// Cancellable is implemented by a Handler whose operations can be cancelled until a
// point of no return.
type Cancellable interface {
	// MayCancel says why it is too late: a fault.Conflict. It reads in the transaction
	// that holds the operation's row, as Run.InTx does: what is passed in one of the
	// two is seen by the other.
	MayCancel(ctx context.Context, tx pgx.Tx, asked Asked) error
}

// Asked is what an operation was asked for.
type Asked struct {
	ID       uuid.UUID
	Kind     string
	TenantID uuid.UUID // uuid.Nil: of no tenant
	Params   json.RawMessage
}

// PassedPoint is the refusal of a handler whose operation can only go on.
func PassedPoint(detail string) error {
	return fault.Conflict("It is too late to cancel this operation: " + detail).Code("point_of_no_return")
}

// codeCancelled is the reason of an operation that was cancelled.
const codeCancelled = "cancelled"

// Cancel decides that the operation is given up, as its own failure would: what it has
// built is removed by the next run, whoever claims it. It is taken from the run that is
// at work, which writes nothing from here on ([ErrFenced]).
// Errors: fault.NotFound; fault.Conflict for one that has ended, is being undone, was
// cancelled by somebody else, cannot be cancelled, or cannot be cancelled any more.
func (r *Runner) Cancel(ctx context.Context, actor *audit.Actor, id uuid.UUID) error {
	return pg.InTx(ctx, r.db, func(tx pgx.Tx) error {
		asked := Asked{ID: id}
		var tenant *uuid.UUID
		var status Status
		var last []byte
		err := tx.QueryRow(ctx, "SELECT kind, tenant_id, params, status, error FROM control.operations WHERE id = $1 FOR UPDATE", id).
			Scan(&asked.Kind, &tenant, &asked.Params, &status, &last)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return fault.NotFound("There is no such operation.")
		case err != nil:
			return fmt.Errorf("lock the operation: %w", err)
		}
		if tenant != nil {
			asked.TenantID = *tenant
		}
		if err := unfinished(status, last); err != nil {
			return err
		}
		handler, ok := r.handlers[asked.Kind].(Cancellable)
		if !ok {
			return fault.Conflict("An operation of the kind " + asked.Kind + " cannot be cancelled; moves, drains, clones, restores, imports, exports and backups can.").Code("not_cancellable")
		}
		if err := handler.MayCancel(ctx, tx, asked); err != nil {
			return err
		}
		if err := giveUp(ctx, tx, actor, id); err != nil {
			return err
		}
		err = audit.Record(ctx, tx, audit.Entry{
			Actor: actor, Action: "operation.cancel", EntityType: "operation", EntityID: id.String(), TenantID: asked.TenantID,
			Detail: map[string]any{"kind": asked.Kind},
		})
		if err != nil {
			return err
		}
		return r.waker.Wake(ctx, tx, id)
	})
}

// unfinished refuses what has ended, or ends already.
func unfinished(status Status, last []byte) error {
	if status.Finished() {
		has := map[Status]string{Succeeded: "has succeeded", Failed: "has failed and was undone", Cancelled: "was cancelled"}[status]
		return fault.Conflict("The operation " + has + ": only one that is queued or running can be cancelled.").Code("operation_" + string(status))
	}
	var why record
	if last != nil {
		if err := json.Unmarshal(last, &why); err != nil {
			return fmt.Errorf("decode the operation's error: %w", err)
		}
	}
	switch {
	case why.Final && why.Code == codeCancelled:
		return fault.Conflict("The operation is being undone already. " + why.Message).Code("operation_cancelled")
	case why.Final:
		return fault.Conflict("The operation has failed and is being undone: there is nothing left to cancel.").Code("operation_failed")
	}
	return nil
}

// giveUp takes the operation from the run that is at work: only a running one is written
// to. Whoever is woken first undoes.
func giveUp(ctx context.Context, tx pgx.Tx, actor *audit.Actor, id uuid.UUID) error {
	_, err := tx.Exec(ctx, `
		UPDATE control.operations
		SET status = 'queued', lease_until = NULL, lease_holder = '', wake_at = now() + $2::interval
		WHERE id = $1`, id, wakeGrace)
	if err != nil {
		return fmt.Errorf("cancel the operation: %w", err)
	}
	if err := markStep(ctx, tx, id, "pending"); err != nil {
		return err
	}
	return setError(ctx, tx, id, record{Final: true, Problem: Problem{
		Code: codeCancelled, Message: "Cancelled by " + actor.Name + ".", NextAction: "Ask for it again if it is wanted after all.",
	}})
}
