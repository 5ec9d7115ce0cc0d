package backup

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/failpoint"
)

// replaceSteps are those of a restore in place.
func replaceSteps() []string {
	return []string{StepArchive, StepRole, StepDatabase, StepLoad, StepMigrate, StepRenew, StepFence, StepFlip}
}

// replaceParams of a restore in place. Incarnation is that of the database that is
// made; the one that serves has the one before.
type replaceParams struct {
	BackupID    uuid.UUID `json:"backup_id"`
	Incarnation int       `json:"incarnation"`
	Replaces    int       `json:"replaces"`
}

// replacing runs restores in place: the next incarnation is made beside the database
// that serves, and takes its place in one transaction.
type replacing struct{ s *Service }

// Begin implements operation.Handler.
func (h replacing) Begin(run *operation.Run) operation.Attempt {
	return &replaceAttempt{loader: loader{s: h.s}, run: run}
}

// Timeout implements operation.Patient.
func (h replacing) Timeout(step string) time.Duration { return timeout(step) }

// replaceAttempt is one run. What it holds is a cache.
type replaceAttempt struct {
	loader

	run            *operation.Run
	params         replaceParams
	old            tenantdb.Database
	server         uuid.UUID
	maxConnections int
}

// Step implements operation.Attempt.
func (a *replaceAttempt) Step(ctx context.Context, name string) error {
	if err := a.begin(ctx); err != nil {
		return err
	}
	step, known := map[string]func(context.Context) error{
		StepArchive:  a.archived,
		StepRole:     a.newRole,
		StepDatabase: a.create,
		StepLoad:     a.fill,
		StepMigrate:  func(ctx context.Context) error { return a.work.Upgrade(ctx, a.d) },
		StepRenew:    a.own,
		StepFence:    a.fence,
		StepFlip:     a.flip,
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

// begin reads the tenant once per attempt.
func (a *replaceAttempt) begin(ctx context.Context) error {
	if a.work != nil {
		return nil
	}
	if err := json.Unmarshal(a.run.Params, &a.params); err != nil {
		return operation.Fail("bad_parameters", "The operation's parameters cannot be read.", "Start it anew.").Because(err)
	}
	a.d = tenantdb.Database{Tenant: a.run.TenantID, Incarnation: a.params.Incarnation}
	a.old = tenantdb.Database{Tenant: a.run.TenantID, Incarnation: a.params.Replaces}
	err := a.s.db.QueryRow(ctx, `
		SELECT t.server_id, p.max_connections FROM control.tenants t JOIN control.plans p ON p.id = t.plan_id WHERE t.id = $1`, a.run.TenantID).
		Scan(&a.server, &a.maxConnections)
	if err != nil {
		return fmt.Errorf("read the tenant: %w", err)
	}
	a.work = tenantdb.On(a.s.servers, a.server, a.run)
	return nil
}

// archived proves the archive before anything is touched.
func (a *replaceAttempt) archived(ctx context.Context) (err error) {
	if a.archive, err = a.s.found(ctx, a.params.BackupID, uuid.Nil); err != nil {
		return err
	}
	if err := a.room(ctx); err != nil {
		return err
	}
	return a.prove(ctx)
}

// room refuses what would not fit beside the database that serves.
func (a *replaceAttempt) room(ctx context.Context) error {
	bytes, err := a.archive.takes(ctx, a.s.db)
	if err != nil {
		return err
	}
	here, err := a.s.servers.Get(ctx, a.server)
	if err != nil {
		return err
	}
	if lacks := here.Lacks(bytes); lacks != "" {
		return operation.Fail("storage_full", lacks, "Raise its capacity, or move the tenant to a server that has room, then restore anew.")
	}
	return nil
}

func (a *replaceAttempt) create(ctx context.Context) (err error) {
	if a.archive, err = a.s.found(ctx, a.params.BackupID, uuid.Nil); err != nil {
		return err
	}
	return a.loader.create(ctx)
}

// fill loads the archive, and then makes the role anew, in whose name it was loaded.
func (a *replaceAttempt) fill(ctx context.Context) (err error) {
	if a.archive, err = a.s.found(ctx, a.params.BackupID, uuid.Nil); err != nil {
		return err
	}
	if err := a.load(ctx); err != nil {
		return err
	}
	return a.newRole(ctx)
}

// newRole keeps the new password apart from the one that serves, until the flip.
func (a *replaceAttempt) newRole(ctx context.Context) error {
	return a.role(ctx, a.maxConnections, func(sealed []byte) error {
		return a.run.InTx(ctx, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `
				INSERT INTO control.restores (tenant_id, incarnation, operation_id, backup_id, credential) VALUES ($1, $2, $3, $4, $5)
				ON CONFLICT (tenant_id, incarnation) DO UPDATE
				SET operation_id = EXCLUDED.operation_id, backup_id = EXCLUDED.backup_id, credential = EXCLUDED.credential, created_at = now()`,
				a.d.Tenant, a.d.Incarnation, a.run.ID, a.params.BackupID, sealed)
			return err
		})
	})
}

func (a *replaceAttempt) own(ctx context.Context) error {
	now, err := a.renew(ctx, inPlace)
	if err != nil {
		return err
	}
	return a.run.InTx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE control.restores SET signing_keys = $3, schema_version = $4 WHERE tenant_id = $1 AND incarnation = $2",
			a.d.Tenant, a.d.Incarnation, now.keys, now.version)
		return err
	})
}

// locked reads which incarnation serves, with the tenant's row locked.
func (a *replaceAttempt) locked(ctx context.Context, tx pgx.Tx) (incarnation int, err error) {
	var status string
	err = tx.QueryRow(ctx, "SELECT incarnation, status FROM control.tenants WHERE id = $1 FOR UPDATE", a.d.Tenant).Scan(&incarnation, &status)
	if err != nil {
		return 0, fmt.Errorf("lock the tenant: %w", err)
	}
	if incarnation != a.old.Incarnation && incarnation != a.d.Incarnation || status != "active" && status != "suspended" {
		return 0, operation.Fail("tenant_changed", "The tenant is "+status+", or its database is not the one that was to be replaced.", "Look at its operations, then restore anew.")
	}
	return incarnation, nil
}

// fence lets requests wait, and shuts everybody out of the old database.
func (a *replaceAttempt) fence(ctx context.Context) error {
	err := a.run.InTx(ctx, func(tx pgx.Tx) error {
		incarnation, err := a.locked(ctx, tx)
		if err != nil || incarnation == a.d.Incarnation {
			return err
		}
		if _, err := tx.Exec(ctx, "UPDATE control.tenants SET route_mode = 'hold', updated_at = now() WHERE id = $1", a.d.Tenant); err != nil {
			return fmt.Errorf("hold the tenant: %w", err)
		}
		return publish(ctx, tx, a.d.Tenant)
	})
	if err != nil {
		return err
	}
	return a.work.Fence(ctx, a.old)
}

// flip is one transaction: the route leads to the new database, tokens of before do
// not count, and the old database is to be dropped some day. The fence of a suspended
// tenant is put where the tenant is then, by whoever looks after fences.
func (a *replaceAttempt) flip(ctx context.Context) error {
	return a.run.InTx(ctx, func(tx pgx.Tx) error {
		incarnation, err := a.locked(ctx, tx)
		if err != nil || incarnation == a.d.Incarnation {
			return err
		}
		tag, err := tx.Exec(ctx, `
			UPDATE control.tenants t
			SET incarnation = r.incarnation, database_name = $3, credential = r.credential, signing_keys = r.signing_keys,
			    schema_version = r.schema_version, token_epoch = t.token_epoch + 1, route_mode = 'serve', updated_at = now()
			FROM control.restores r
			WHERE t.id = $1 AND r.tenant_id = t.id AND r.incarnation = $2 AND r.operation_id = $4 AND r.signing_keys IS NOT NULL`,
			a.d.Tenant, a.d.Incarnation, a.d.Name(), a.run.ID)
		if err != nil {
			return fmt.Errorf("put the database in place: %w", err)
		}
		if tag.RowsAffected() != 1 {
			return fmt.Errorf("put the database in place: %w", operation.ErrFenced)
		}
		_, err = tx.Exec(ctx, `
			INSERT INTO control.retired_databases (tenant_id, incarnation, server_id, database_name, drop_at)
			VALUES ($1, $2, $3, $4, now() + $5::interval)`,
			a.old.Tenant, a.old.Incarnation, a.server, a.old.Name(), keepReplaced)
		if err != nil {
			return fmt.Errorf("retire the old database: %w", err)
		}
		detail := map[string]any{"backup_id": a.params.BackupID, "incarnation": a.d.Incarnation, "replaces": a.old.Incarnation}
		if err := recordRun(ctx, tx, a.run, "tenant.restored", detail); err != nil {
			return err
		}
		return publish(ctx, tx, a.d.Tenant)
	})
}

// Undo implements operation.Attempt: the old database serves as before, and of the new
// one nothing stays.
func (a *replaceAttempt) Undo(ctx context.Context) error {
	if err := a.begin(ctx); err != nil {
		return err
	}
	var incarnation int
	var status, mode string
	err := a.s.db.QueryRow(ctx, "SELECT incarnation, status, route_mode FROM control.tenants WHERE id = $1", a.d.Tenant).Scan(&incarnation, &status, &mode)
	if err != nil {
		return fmt.Errorf("read the tenant: %w", err)
	}
	if incarnation == a.d.Incarnation {
		return nil // it was done after all
	}
	// The hold is this operation's: no other that would hold works meanwhile.
	if incarnation == a.old.Incarnation && mode == "hold" {
		if err := a.reopen(ctx, status); err != nil {
			return err
		}
	}
	return a.work.Drop(ctx, a.d)
}

// reopen takes the fence and then the hold away again.
func (a *replaceAttempt) reopen(ctx context.Context, status string) error {
	if status == "active" {
		if err := a.work.Unfence(ctx, a.old, a.maxConnections); err != nil {
			return err
		}
	}
	return a.run.InTx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE control.tenants SET route_mode = 'serve', updated_at = now() WHERE id = $1", a.d.Tenant)
		if err != nil {
			return fmt.Errorf("serve the tenant again: %w", err)
		}
		return publish(ctx, tx, a.d.Tenant)
	})
}

// Failed implements operation.Attempt.
func (a *replaceAttempt) Failed(ctx context.Context, tx pgx.Tx, why operation.Problem) error {
	return recordRun(ctx, tx, a.run, "tenant.restore_failed", map[string]any{"code": why.Code, "backup_id": a.params.BackupID})
}

// Close implements operation.Attempt.
func (a *replaceAttempt) Close() {
	if a.work != nil {
		a.work.Close()
	}
}
