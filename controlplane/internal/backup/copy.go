package backup

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/event"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/failpoint"
)

// copySteps are those of what makes a new tenant.
func copySteps() []string {
	return []string{StepArchive, StepPlace, StepRole, StepDatabase, StepLoad, StepMigrate, StepRenew, StepActivate}
}

// copyParams of an operation that makes a new tenant of an archive.
type copyParams struct {
	BackupID uuid.UUID `json:"backup_id,omitzero"` // of a restore or an import
	Origin   uuid.UUID `json:"origin,omitzero"`    // of a clone: the tenant that is dumped
}

// copying runs the operations that make a new tenant of an archive.
type copying struct{ s *Service }

// Begin implements operation.Handler.
func (h copying) Begin(run *operation.Run) operation.Attempt {
	return &copyAttempt{loader: loader{s: h.s}, run: run}
}

// Timeout implements operation.Patient.
func (h copying) Timeout(step string) time.Duration { return timeout(step) }

// copyAttempt is one run. What it holds is a cache.
type copyAttempt struct {
	loader

	run    *operation.Run
	params copyParams
	tenant copiedTenant
	loaded bool
}

// copiedTenant is what the steps need of the new tenant's row.
type copiedTenant struct {
	slug, status   string
	server         *uuid.UUID
	maxConnections int
}

// Failpoints are the names at which a failpoint build can be stopped in operations of
// the kind: after the work of each step. Those inside of Take come first.
func Failpoints(kind string) []string {
	var points []string
	steps := copySteps()
	switch kind {
	case KindTake, KindExport:
		points, steps = []string{failpointStored, failpointVerified}, []string{StepDump}
	case KindRestore:
		steps = replaceSteps()
	}
	for _, step := range steps {
		points = append(points, failpointAfter(kind, step))
	}
	return points
}

// failpointAfter is "restore/load" for the step "load" of "tenant.restore".
func failpointAfter(kind, step string) string {
	return strings.TrimPrefix(kind, "tenant.") + "/" + step
}

// Step implements operation.Attempt.
func (a *copyAttempt) Step(ctx context.Context, name string) error {
	if err := a.begin(ctx); err != nil {
		return err
	}
	if a.work == nil && name != StepArchive && name != StepPlace {
		return errors.New("the tenant has no place yet")
	}
	step, known := map[string]func(context.Context) error{
		StepArchive:  a.archived,
		StepPlace:    a.place,
		StepRole:     a.newRole,
		StepDatabase: a.create,
		StepLoad:     a.fill,
		StepMigrate:  func(ctx context.Context) error { return a.work.Upgrade(ctx, a.d) },
		StepRenew:    a.own,
		StepActivate: a.activate,
	}[name]
	if !known {
		return unknownStep()
	}
	if err := step(ctx); err != nil {
		return err
	}
	failpoint.Hit(ctx, failpointAfter(a.run.Kind, name))
	return nil
}

func unknownStep() error {
	return operation.Fail("unknown_step", "This release does not know the step it should do.", "Run the worker of the release that the operation was started by.")
}

// begin reads the tenant once per attempt.
func (a *copyAttempt) begin(ctx context.Context) error {
	if a.loaded {
		return nil
	}
	if err := json.Unmarshal(a.run.Params, &a.params); err != nil {
		return operation.Fail("bad_parameters", "The operation's parameters cannot be read.", "Start it anew.").Because(err)
	}
	a.d = tenantdb.Database{Tenant: a.run.TenantID}
	err := a.s.db.QueryRow(ctx, `
		SELECT t.slug, t.status, t.incarnation, t.server_id, p.max_connections
		FROM control.tenants t JOIN control.plans p ON p.id = t.plan_id WHERE t.id = $1`, a.run.TenantID).
		Scan(&a.tenant.slug, &a.tenant.status, &a.d.Incarnation, &a.tenant.server, &a.tenant.maxConnections)
	if err != nil {
		return fmt.Errorf("read the tenant: %w", err)
	}
	if a.tenant.server != nil {
		a.work = tenantdb.On(a.s.servers, *a.tenant.server, a.run)
	}
	a.loaded = true
	return nil
}

// source finds the archive, which is there once StepArchive is done.
func (a *copyAttempt) source(ctx context.Context) (err error) {
	if a.archive.object != "" {
		return nil
	}
	takenBy := uuid.Nil
	if a.params.Origin != uuid.Nil {
		takenBy = a.run.ID
	}
	a.archive, err = a.s.found(ctx, a.params.BackupID, takenBy)
	return err
}

// archived proves the archive before anything is made for it; a clone takes it first.
func (a *copyAttempt) archived(ctx context.Context) error {
	if a.params.Origin != uuid.Nil {
		if err := a.takeOrigin(ctx); err != nil {
			return err
		}
	}
	if err := a.source(ctx); err != nil {
		return err
	}
	return a.prove(ctx)
}

// takeOrigin dumps the tenant that is cloned, where it is now.
func (a *copyAttempt) takeOrigin(ctx context.Context) error {
	origin := tenantdb.Database{Tenant: a.params.Origin}
	var status string
	var at *uuid.UUID
	err := a.s.db.QueryRow(ctx, "SELECT status, incarnation, server_id FROM control.tenants WHERE id = $1", origin.Tenant).Scan(&status, &origin.Incarnation, &at)
	if err != nil {
		return fmt.Errorf("read the tenant to clone: %w", err)
	}
	if status != "active" && status != "suspended" || at == nil {
		return operation.Fail("origin_gone", "The tenant to clone is "+status+".", "Clone one that is active or suspended.")
	}
	work := tenantdb.On(a.s.servers, *at, a.run)
	defer work.Close()
	_, err = a.s.Take(ctx, a.run, work, origin, ReasonClone)
	return err
}

func (a *copyAttempt) place(ctx context.Context) error {
	if err := a.source(ctx); err != nil {
		return err
	}
	bytes, err := a.archive.takes(ctx, a.s.db)
	if err != nil {
		return err
	}
	id, err := provision.Place(ctx, a.run, a.s.servers, a.d, "", bytes)
	if err == nil && a.work == nil {
		a.work = tenantdb.On(a.s.servers, id, a.run)
	}
	return err
}

func (a *copyAttempt) newRole(ctx context.Context) error {
	return a.role(ctx, a.tenant.maxConnections, func(sealed []byte) error {
		return a.run.InTx(ctx, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "UPDATE control.tenants SET credential = $2, updated_at = now() WHERE id = $1 AND status = 'provisioning'", a.run.TenantID, sealed)
			return err
		})
	})
}

func (a *copyAttempt) create(ctx context.Context) error {
	if err := a.source(ctx); err != nil {
		return err
	}
	return a.loader.create(ctx)
}

// fill loads the archive, and then makes the role anew, in whose name it was loaded.
func (a *copyAttempt) fill(ctx context.Context) error {
	if err := a.source(ctx); err != nil {
		return err
	}
	if err := a.load(ctx); err != nil {
		return err
	}
	return a.newRole(ctx)
}

// own makes the copy the new tenant's.
func (a *copyAttempt) own(ctx context.Context) error {
	now, err := a.renew(ctx, ofCopies)
	if err != nil {
		return err
	}
	return a.run.InTx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			UPDATE control.tenants SET signing_keys = $2, schema_version = $3, updated_at = now()
			WHERE id = $1 AND status = 'provisioning'`, a.run.TenantID, now.keys, now.version)
		return err
	})
}

// activate is one transaction: the tenant with its route, the first head of its audit
// chain, the event and the audit row.
func (a *copyAttempt) activate(ctx context.Context) error {
	if err := a.source(ctx); err != nil {
		return err
	}
	return a.run.InTx(ctx, func(tx pgx.Tx) error {
		var status string
		if err := tx.QueryRow(ctx, "SELECT status FROM control.tenants WHERE id = $1 FOR UPDATE", a.run.TenantID).Scan(&status); err != nil {
			return fmt.Errorf("lock the tenant: %w", err)
		}
		if status != "provisioning" {
			return nil // by a run that did not live to record it
		}
		_, err := tx.Exec(ctx, "UPDATE control.tenants SET status = 'active', status_reason = '', updated_at = now() WHERE id = $1", a.run.TenantID)
		if err != nil {
			return fmt.Errorf("activate the tenant: %w", err)
		}
		if head := a.archive.manifest.Audit; head != nil {
			hash, err := hex.DecodeString(head.Head)
			if err != nil {
				return fmt.Errorf("read the head of the audit: %w", err)
			}
			_, err = tx.Exec(ctx, "SELECT control.adopt_audit_head($1, $2, $3, $4, $5)", a.run.TenantID, head.Batch, hash, head.Kid, head.Signature)
			if err != nil {
				return fmt.Errorf("keep the head of the audit: %w", err)
			}
		}
		err = event.Record(ctx, tx, event.TenantActivated, a.run.TenantID, map[string]any{"slug": a.tenant.slug, "operation_id": a.run.ID})
		if err != nil {
			return err
		}
		if err := recordRun(ctx, tx, a.run, "tenant.activate", map[string]any{"slug": a.tenant.slug, "backup_id": a.archive.id}); err != nil {
			return err
		}
		return publish(ctx, tx, a.run.TenantID)
	})
}

// publish comes last in a transaction: it holds the route clock until the commit.
func publish(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) error {
	if _, err := tx.Exec(ctx, "SELECT control.publish_route($1)", tenant); err != nil {
		return fmt.Errorf("publish the route: %w", err)
	}
	return nil
}

func recordRun(ctx context.Context, tx pgx.Tx, run *operation.Run, action string, detail map[string]any) error {
	detail["operation_id"] = run.ID
	detail["asked_by"] = run.CreatedBy
	return audit.Record(ctx, tx, audit.Entry{
		Actor: audit.Worker(run.ID.String()), Action: action,
		EntityType: "tenant", EntityID: run.TenantID.String(), TenantID: run.TenantID, Detail: detail,
	})
}

// Undo implements operation.Attempt: no database and no role stay behind.
func (a *copyAttempt) Undo(ctx context.Context) error {
	if err := a.begin(ctx); err != nil {
		return err
	}
	if a.work == nil || a.tenant.status != "provisioning" {
		return nil
	}
	return a.work.Drop(ctx, a.d)
}

// Failed implements operation.Attempt.
func (a *copyAttempt) Failed(ctx context.Context, tx pgx.Tx, why operation.Problem) error {
	if err := failTaken(ctx, tx, a.run); err != nil {
		return err
	}
	return provision.RecordFailure(ctx, tx, a.run, why)
}

// Close implements operation.Attempt.
func (a *copyAttempt) Close() {
	if a.work != nil {
		a.work.Close()
	}
}
