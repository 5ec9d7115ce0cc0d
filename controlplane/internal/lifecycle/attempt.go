package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/event"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/failpoint"
	"github.com/ouvira/ouvira/shared/fault"
)

// Begin implements operation.Handler.
func (s *Service) Begin(run *operation.Run) operation.Attempt { return &attempt{s: s, run: run} }

// attempt is one run through the steps. It holds nothing between two of them:
// each reads the tenant's row anew.
type attempt struct {
	s   *Service
	run *operation.Run
}

// Step implements operation.Attempt.
func (a *attempt) Step(ctx context.Context, name string) error {
	step, known := map[string]func(context.Context) error{
		StepFence:  a.fence,
		StepBackup: a.backup,
		StepGrace:  a.grace,
		StepSchema: a.schema,
		StepServe:  a.serve,
		StepDetach: a.detach,
		StepDrop:   a.drop,
		StepErase:  a.erase,
	}[name]
	if !known {
		return operation.Fail("unknown_step", "This release does not know the step it should do.", "Run the worker of the release that the operation was started by.")
	}
	if err := step(ctx); err != nil {
		return err
	}
	failpoint.Hit(ctx, failpointAfter(a.run.Kind, name))
	return nil
}

// fence puts the fence on. One that was asked for on its own also waits for the end
// of whatever works on the tenant's database as a whole, and then puts it on again:
// others take their own fences away when they give up, and may have looked at the
// tenant's status before it changed.
func (a *attempt) fence(ctx context.Context) error {
	if a.run.Kind != KindFence {
		return a.s.fence(ctx, a.run)
	}
	busy := a.s.operations.Idle(ctx, a.s.db, a.run.TenantID)
	if busy != nil && !fault.Is(busy, fault.KindConflict) {
		return busy
	}
	t, err := read(ctx, a.s.db, a.run.TenantID, "")
	if err != nil {
		return err
	}
	if busy == nil || t.fence != t.place() {
		if err := a.s.fence(ctx, a.run); err != nil {
			return err
		}
	}
	if busy != nil && t.fenced() {
		return operation.Later("operation_at_work", "Another operation works on the tenant's database, and may have a fence of its own.",
			"The fence is looked after once more when that has ended.").In(fenceAgain)
	}
	return nil
}

// fenceAgain is how long a fence waits before it looks again whether the others are
// done.
const fenceAgain = 2 * time.Second

// deleted calls fn with the tenant and what works on its server; a tenant that
// has no database, because it could never be made, needs nothing.
func (a *attempt) deleted(ctx context.Context, fn func(t *tenant, w *tenantdb.Work) error) error {
	t, err := read(ctx, a.s.db, a.run.TenantID, "")
	if err != nil {
		return err
	}
	if t.status != statusDeleted {
		return notDeleted(t)
	}
	if t.server == nil {
		return nil
	}
	w := tenantdb.On(a.s.servers, *t.server, a.run)
	defer w.Close()
	return fn(t, w)
}

func notDeleted(t *tenant) error {
	return operation.Fail("not_deleted", "The tenant is "+t.status+", not deleted.", "Nothing: somebody else has decided about this tenant.")
}

// backup makes the last backup of the fenced database.
func (a *attempt) backup(ctx context.Context) error {
	return a.deleted(ctx, func(t *tenant, w *tenantdb.Work) error {
		if a.s.options.Backups == nil {
			return operation.Fail("no_backups", "This control plane takes no backups, and without one nothing is deleted.",
				"Set up backups, then delete the tenant again.")
		}
		_, err := a.s.options.Backups.Take(ctx, a.run, w, t.database(), "delete")
		return err
	})
}

// grace begins the time within which the tenant can be undeleted. Only now is it
// deleted, as far as others are told.
func (a *attempt) grace(ctx context.Context) error {
	return a.run.InTx(ctx, func(tx pgx.Tx) error {
		t, err := read(ctx, tx, a.run.TenantID, lockRow)
		if err != nil {
			return err
		}
		if t.status != statusDeleted {
			return notDeleted(t)
		}
		tag, err := tx.Exec(ctx, `
			UPDATE control.tenants t SET purge_at = now() + make_interval(days => p.retention_days), updated_at = now()
			FROM control.plans p WHERE p.id = t.plan_id AND t.id = $1 AND t.purge_at IS NULL`, t.id)
		if err != nil {
			return fmt.Errorf("begin the grace: %w", err)
		}
		if tag.RowsAffected() == 0 {
			return nil // by a run that did not live to record it
		}
		return a.tell(ctx, tx, t, event.TenantDeleted, "tenant.deleted")
	})
}

// tell records the event and the audit row of what has come to its end.
func (a *attempt) tell(ctx context.Context, tx pgx.Tx, t *tenant, kind event.Type, action string) error {
	err := event.Record(ctx, tx, kind, t.id, map[string]any{"slug": t.slug, "operation_id": a.run.ID})
	if err != nil {
		return err
	}
	return a.audit(ctx, tx, action, map[string]any{"slug": t.slug})
}

func (a *attempt) audit(ctx context.Context, tx pgx.Tx, action string, detail map[string]any) error {
	detail["operation_id"] = a.run.ID
	detail["asked_by"] = a.run.CreatedBy
	return audit.Record(ctx, tx, audit.Entry{
		Actor: audit.Worker(a.run.ID.String()), Action: action,
		EntityType: "tenant", EntityID: a.run.TenantID.String(), TenantID: a.run.TenantID, Detail: detail,
	})
}

// schema brings the database of a tenant that comes back to this release's
// version: rollouts have passed it by.
func (a *attempt) schema(ctx context.Context) error {
	return a.deleted(ctx, func(t *tenant, w *tenantdb.Work) error {
		there, err := w.Exists(ctx, t.database())
		if err != nil {
			return err
		}
		if !there {
			return operation.Fail("database_missing", "The tenant's database does not exist any more.", "Restore the tenant from its last backup.")
		}
		version, err := w.CatchUp(ctx, t.database())
		if err != nil {
			return err
		}
		return a.run.InTx(ctx, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "UPDATE control.tenants SET schema_version = $2, updated_at = now() WHERE id = $1 AND status = 'deleted'", t.id, version)
			if err != nil {
				return fmt.Errorf("write the tenant's schema version: %w", err)
			}
			return nil
		})
	})
}

// serve makes the tenant what it was before it was deleted.
func (a *attempt) serve(ctx context.Context) error {
	return a.back(ctx, func(tx pgx.Tx, t *tenant) error { return a.tell(ctx, tx, t, event.TenantUndeleted, "tenant.undeleted") })
}

// back brings back the status from before the deletion, with its route, and
// without the fence if that status has none.
func (a *attempt) back(ctx context.Context, also func(tx pgx.Tx, t *tenant) error) error {
	t, err := read(ctx, a.s.db, a.run.TenantID, "")
	if err != nil || t.status != statusDeleted { // by a run that did not live to record it
		return err
	}
	check := func(_ pgx.Tx, t *tenant) error {
		if t.status != statusDeleted {
			return errBack
		}
		return a.run.Check(ctx)
	}
	serve := func(tx pgx.Tx, t *tenant) error {
		_, err := tx.Exec(ctx, `
			UPDATE control.tenants SET status = status_before, status_before = '', purge_at = NULL, updated_at = now() WHERE id = $1`, t.id)
		if err != nil {
			return fmt.Errorf("bring the tenant's status back: %w", err)
		}
		if err := also(tx, t); err != nil {
			return err
		}
		return publish(ctx, tx, t.id, false)
	}
	if t.before == statusActive {
		err = a.s.lift(ctx, a.run, t.id, check, serve)
	} else {
		err = a.s.holding(ctx, t.id, lockAll, func(tx pgx.Tx, t *tenant) error {
			if err := check(tx, t); err != nil {
				return err
			}
			return serve(tx, t)
		})
	}
	if errors.Is(err, errBack) {
		return nil
	}
	return err
}

// errBack says that another run was faster.
var errBack = errors.New("the tenant is not deleted any more")

// Undo implements operation.Attempt.
func (a *attempt) Undo(ctx context.Context) error {
	switch a.run.Kind {
	case KindDelete: // all or nothing: the tenant is what it was
		return a.back(ctx, func(pgx.Tx, *tenant) error { return nil })
	case KindUndelete: // still deleted
		return a.s.fence(ctx, a.run)
	}
	return nil
}

// Failed implements operation.Attempt.
func (a *attempt) Failed(ctx context.Context, tx pgx.Tx, why operation.Problem) error {
	return a.audit(ctx, tx, a.run.Kind+"_failed", map[string]any{"code": why.Code})
}

// Close implements operation.Attempt: each step has closed what it opened.
func (a *attempt) Close() {}
