package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/tenant"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
)

// Backup of a tenant's database, as operators see it.
type Backup struct {
	ID              uuid.UUID
	TenantID        uuid.UUID
	OperationID     *uuid.UUID
	Reason          string
	Status          string // running, complete, failed, removed
	Incarnation     int
	SchemaVersion   int64
	PostgresVersion int // server_version_num
	Size            int64
	SHA256          string // hex, over the sealed file
	CreatedAt       time.Time
	FinishedAt      *time.Time
}

const selectBackups = `
	SELECT id, tenant_id, operation_id, reason, status, incarnation, schema_version, postgres_version, size,
	       COALESCE(encode(sha256, 'hex'), '') AS sha256, created_at, finished_at
	FROM control.backups`

// List returns a tenant's backups, the newest first, after the given id (uuid.Nil:
// from the newest).
func (s *Service) List(ctx context.Context, tenant, after uuid.UUID, limit int) ([]Backup, error) {
	rows, err := s.db.Query(ctx, selectBackups+` WHERE tenant_id = $1 AND ($2::uuid = $4 OR id < $2) ORDER BY id DESC LIMIT $3`,
		tenant, after, limit, uuid.Nil)
	if err != nil {
		return nil, fmt.Errorf("list the backups: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Backup])
}

// tenantRow is what a request for a backup, or for a restore, needs.
type tenantRow struct {
	slug, status, name, plan string
	incarnation              int
	settings                 []byte
}

func lockTenant(ctx context.Context, tx pgx.Tx, id uuid.UUID) (tenantRow, error) {
	var t tenantRow
	err := tx.QueryRow(ctx, `
		SELECT t.slug, t.status, t.name, p.code, t.incarnation, t.settings
		FROM control.tenants t JOIN control.plans p ON p.id = t.plan_id WHERE t.id = $1 FOR UPDATE OF t`, id).
		Scan(&t.slug, &t.status, &t.name, &t.plan, &t.incarnation, &t.settings)
	if errors.Is(err, pgx.ErrNoRows) {
		return t, fault.NotFound("There is no such tenant.")
	}
	if err != nil {
		return t, fmt.Errorf("lock the tenant: %w", err)
	}
	return t, nil
}

// mustServe refuses what wants a database that is complete.
func (t tenantRow) mustServe(verb string) error {
	if t.status == "active" || t.status == "suspended" {
		return nil
	}
	return fault.Conflict("The tenant is " + t.status + " and cannot be " + verb + ": only one that is active or suspended can.").Code("tenant_" + t.status)
}

// Start asks for a backup now. kind is KindTake or KindExport.
func (s *Service) Start(ctx context.Context, actor *audit.Actor, id uuid.UUID, kind string) (uuid.UUID, error) {
	if err := s.on(); err != nil {
		return uuid.Nil, err
	}
	return pg.InTxValue(ctx, s.db, func(tx pgx.Tx) (uuid.UUID, error) {
		t, err := lockTenant(ctx, tx, id)
		if err != nil {
			return uuid.Nil, err
		}
		if err := t.mustServe("backed up"); err != nil {
			return uuid.Nil, err
		}
		operationID, err := s.enqueueTake(ctx, tx, id, kind, actor.String())
		if err != nil {
			return uuid.Nil, err
		}
		return operationID, asked(ctx, tx, actor, kind, id, map[string]any{"operation_id": operationID})
	})
}

func (s *Service) enqueueTake(ctx context.Context, tx pgx.Tx, id uuid.UUID, kind, by string) (uuid.UUID, error) {
	return s.operations.Enqueue(ctx, tx, operation.Spec{
		Kind: kind, TenantID: id, Steps: []string{StepDump}, CreatedBy: by, Exclusive: true, Long: true,
	})
}

func asked(ctx context.Context, tx pgx.Tx, actor *audit.Actor, action string, id uuid.UUID, detail map[string]any) error {
	return audit.Record(ctx, tx, audit.Entry{
		Actor: actor, Action: action, EntityType: "tenant", EntityID: id.String(), TenantID: id, Detail: detail,
	})
}

// Restore asks for an earlier state of the tenant in place of the present one.
func (s *Service) Restore(ctx context.Context, actor *audit.Actor, id, backupID uuid.UUID) (uuid.UUID, error) {
	if err := s.on(); err != nil {
		return uuid.Nil, err
	}
	return pg.InTxValue(ctx, s.db, func(tx pgx.Tx) (uuid.UUID, error) {
		t, err := lockTenant(ctx, tx, id)
		if err != nil {
			return uuid.Nil, err
		}
		if err := t.mustServe("restored in place"); err != nil {
			return uuid.Nil, err
		}
		if err := mustBeComplete(ctx, tx, id, backupID); err != nil {
			return uuid.Nil, err
		}
		operationID, err := s.operations.Enqueue(ctx, tx, operation.Spec{
			Kind: KindRestore, TenantID: id, Steps: replaceSteps(), CreatedBy: actor.String(), Exclusive: true, Long: true,
			Params: replaceParams{BackupID: backupID, Incarnation: t.incarnation + 1, Replaces: t.incarnation},
		})
		if err != nil {
			return uuid.Nil, err
		}
		return operationID, asked(ctx, tx, actor, KindRestore, id, map[string]any{"operation_id": operationID, "backup_id": backupID})
	})
}

// mustBeComplete refuses a backup that is not the tenant's, or cannot be restored.
func mustBeComplete(ctx context.Context, tx pgx.Tx, id, backupID uuid.UUID) error {
	var status string
	err := tx.QueryRow(ctx, "SELECT status FROM control.backups WHERE id = $1 AND tenant_id = $2 FOR SHARE", backupID, id).Scan(&status)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return fault.NotFound("The tenant has no such backup. See GET /v1/tenants/{tenant}/backups.").Code("backup_missing")
	case err != nil:
		return fmt.Errorf("read the backup: %w", err)
	case status != "complete":
		return fault.Conflict("The backup is " + status + "; only one that is complete can be restored.").Code("backup_" + status)
	}
	return nil
}

// RestoreAs asks for a new tenant with what the backup holds.
func (s *Service) RestoreAs(ctx context.Context, actor *audit.Actor, id, backupID uuid.UUID, slug string) (tenant.Tenant, uuid.UUID, error) {
	return s.copyOf(ctx, actor, id, newTenant{kind: KindCopy, slug: slug}, func(tx pgx.Tx, t tenantRow) (copyParams, error) {
		return copyParams{BackupID: backupID}, mustBeComplete(ctx, tx, id, backupID)
	})
}

// Clone asks for a new tenant with what the tenant holds now. A sandbox sends no mail
// and no SMS.
func (s *Service) Clone(ctx context.Context, actor *audit.Actor, id uuid.UUID, slug string, sandbox bool) (tenant.Tenant, uuid.UUID, error) {
	return s.copyOf(ctx, actor, id, newTenant{kind: KindClone, slug: slug, sandbox: sandbox}, func(_ pgx.Tx, t tenantRow) (copyParams, error) {
		return copyParams{Origin: id}, t.mustServe("cloned")
	})
}

// newTenant is one that is made of an archive.
type newTenant struct {
	kind, slug, name, plan string
	settings               []byte
	sandbox                bool
}

// copyOf makes the row of a new tenant after the origin's, and asks for its database.
func (s *Service) copyOf(ctx context.Context, actor *audit.Actor, origin uuid.UUID, n newTenant, params func(pgx.Tx, tenantRow) (copyParams, error)) (made tenant.Tenant, operationID uuid.UUID, err error) {
	if err := s.on(); err != nil {
		return made, uuid.Nil, err
	}
	err = pg.InTx(ctx, s.db, func(tx pgx.Tx) error {
		t, err := lockTenant(ctx, tx, origin)
		if err != nil {
			return err
		}
		p, err := params(tx, t)
		if err != nil {
			return err
		}
		n.name, n.plan, n.settings = t.name, t.plan, t.settings
		made, operationID, err = s.enqueueCopy(ctx, tx, actor, n, p, map[string]any{"origin": origin})
		return err
	})
	return made, operationID, err
}

func (s *Service) enqueueCopy(ctx context.Context, tx pgx.Tx, actor *audit.Actor, n newTenant, p copyParams, detail map[string]any) (tenant.Tenant, uuid.UUID, error) {
	id, err := s.insert(ctx, tx, actor, n)
	if err != nil {
		return tenant.Tenant{}, uuid.Nil, err
	}
	operationID, err := s.operations.Enqueue(ctx, tx, operation.Spec{
		Kind: n.kind, TenantID: id, Steps: copySteps(), CreatedBy: actor.String(), Exclusive: true, Long: true, Params: p,
	})
	if err != nil {
		return tenant.Tenant{}, uuid.Nil, err
	}
	detail["operation_id"], detail["slug"] = operationID, n.slug
	if p.BackupID != uuid.Nil {
		detail["backup_id"] = p.BackupID
	}
	if err := asked(ctx, tx, actor, n.kind, id, detail); err != nil {
		return tenant.Tenant{}, uuid.Nil, err
	}
	made, err := s.tenants.GetTx(ctx, tx, id)
	return made, operationID, err
}

// insert writes the row of a tenant that is being made of an archive.
func (s *Service) insert(ctx context.Context, tx pgx.Tx, actor *audit.Actor, n newTenant) (uuid.UUID, error) {
	if err := tenant.CheckSlug(n.slug); err != nil {
		return uuid.Nil, err
	}
	id, err := s.tenants.Insert(ctx, tx, tenant.Row{Slug: n.slug, Name: n.name, Plan: n.plan, Bare: true})
	if err != nil {
		return uuid.Nil, err
	}
	var settings route.Settings
	if len(n.settings) > 0 {
		if err := json.Unmarshal(n.settings, &settings); err != nil {
			return uuid.Nil, fmt.Errorf("decode the settings: %w", err)
		}
	}
	settings.Sandbox = settings.Sandbox || n.sandbox // a copy of a sandbox is one
	text, err := json.Marshal(settings)
	if err != nil {
		return uuid.Nil, fmt.Errorf("encode the settings: %w", err)
	}
	if _, err := tx.Exec(ctx, "UPDATE control.tenants SET settings = $2 WHERE id = $1", id, text); err != nil {
		return uuid.Nil, fmt.Errorf("store the settings: %w", err)
	}
	return id, s.tenants.Announce(ctx, tx, actor, id, n.slug)
}
