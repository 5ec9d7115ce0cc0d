package backup

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/failpoint"
)

// StepDump is the only step of taking a backup.
const StepDump = "dump"

// taking runs the operations that take a backup, also those for an export.
type taking struct{ s *Service }

// Begin implements operation.Handler.
func (h taking) Begin(run *operation.Run) operation.Attempt { return &takeAttempt{s: h.s, run: run} }

// Timeout implements operation.Patient.
func (h taking) Timeout(step string) time.Duration { return timeout(step) }

type takeAttempt struct {
	s    *Service
	run  *operation.Run
	work *tenantdb.Work
}

// reasons of the operations' kinds; a schedule's operation says who asked.
func (a *takeAttempt) reason() string {
	switch {
	case a.run.Kind == KindExport:
		return ReasonExport
	case a.run.CreatedBy == askedBySchedule:
		return ReasonSchedule
	}
	return ReasonManual
}

// Step implements operation.Attempt.
func (a *takeAttempt) Step(ctx context.Context, name string) error {
	if name != StepDump {
		return unknownStep()
	}
	d := tenantdb.Database{Tenant: a.run.TenantID}
	var status string
	var at *uuid.UUID
	err := a.s.db.QueryRow(ctx, "SELECT status, incarnation, server_id FROM control.tenants WHERE id = $1", d.Tenant).Scan(&status, &d.Incarnation, &at)
	if err != nil {
		return fmt.Errorf("read the tenant: %w", err)
	}
	if at == nil {
		return operation.Fail("no_database", "The tenant is "+status+" and has no database.", "Nothing: there is nothing to back up.")
	}
	a.work = tenantdb.On(a.s.servers, *at, a.run)
	if _, err := a.s.Take(ctx, a.run, a.work, d, a.reason()); err != nil {
		return err
	}
	failpoint.Hit(ctx, failpointAfter(a.run.Kind, name))
	return nil
}

// Undo implements operation.Attempt: an archive that does not count is a stray, and
// the sweep finds it.
func (a *takeAttempt) Undo(context.Context) error { return nil }

// Failed implements operation.Attempt.
func (a *takeAttempt) Failed(ctx context.Context, tx pgx.Tx, why operation.Problem) error {
	if err := failTaken(ctx, tx, a.run); err != nil {
		return err
	}
	return recordRun(ctx, tx, a.run, a.run.Kind+"_failed", map[string]any{"code": why.Code})
}

// failTaken writes down that the run's operation takes no backup any more.
func failTaken(ctx context.Context, tx pgx.Tx, run *operation.Run) error {
	_, err := tx.Exec(ctx, "UPDATE control.backups SET status = 'failed', finished_at = now() WHERE operation_id = $1 AND status = 'running'", run.ID)
	if err != nil {
		return fmt.Errorf("write down that a backup has failed: %w", err)
	}
	return nil
}

// Close implements operation.Attempt.
func (a *takeAttempt) Close() {
	if a.work != nil {
		a.work.Close()
	}
}
