package provision

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/failpoint"
)

// Kinds of the operations that keep the warm pool.
const (
	KindWarm    = "warm.make"
	KindWarmOff = "warm.drop"
)

const (
	stepReady = "ready"
	stepDrop  = "drop"
)

// WarmSteps of an operation that makes an entry of the pool.
func WarmSteps() []string {
	return []string{StepRole, StepDatabase, StepLockdown, StepMigrate, stepReady}
}

// entryParams name an entry.
type entryParams struct {
	Entry  uuid.UUID `json:"entry"`
	Server uuid.UUID `json:"server"` // for people, and to leave alone a server where it fails
}

// Claimed is a database out of the warm pool. Its row is gone from the pool.
type Claimed struct {
	ID            uuid.UUID // of the new tenant
	Server        uuid.UUID
	Database      string
	Credential    []byte // sealed to the data plane
	SchemaVersion int64
}

// Claim takes a database out of the warm pool in the caller's transaction, which
// makes a tenant of it. false: there is none of this release's schema, for the plan
// as it is now, on a server that takes tenants (the one wanted, if one is).
func (s *Service) Claim(ctx context.Context, tx pgx.Tx, plan uuid.UUID, wanted string) (c Claimed, ok bool, err error) {
	fingerprint, err := migrations.Tenant.Fingerprint()
	if err != nil {
		return Claimed{}, false, err
	}
	err = tx.QueryRow(ctx, `
		DELETE FROM control.warm_databases
		WHERE id = (
			SELECT w.id
			FROM control.warm_databases w
			JOIN control.servers s ON s.id = w.server_id
			JOIN control.plans p ON p.id = w.plan_id
			WHERE w.status = 'ready' AND w.plan_id = $1 AND w.fingerprint = $2 AND s.status = 'active'
			  AND w.max_connections = p.max_connections AND ($3 IN ('', s.name, s.id::text))
			ORDER BY w.ready_at LIMIT 1
			FOR UPDATE OF w SKIP LOCKED)
		RETURNING id, server_id, database_name, credential, schema_version`, plan, fingerprint, wanted).
		Scan(&c.ID, &c.Server, &c.Database, &c.Credential, &c.SchemaVersion)
	if errors.Is(err, pgx.ErrNoRows) {
		return Claimed{}, false, nil
	}
	if err != nil {
		return Claimed{}, false, fmt.Errorf("take a database out of the warm pool: %w", err)
	}
	return c, true, nil
}

// Warm runs the operations of the kind KindWarm.
func (s *Service) Warm() operation.Handler { return warming{s, false} }

// WarmOff runs those of the kind KindWarmOff.
func (s *Service) WarmOff() operation.Handler { return warming{s, true} }

type warming struct {
	s   *Service
	off bool
}

// Begin implements operation.Handler.
func (w warming) Begin(run *operation.Run) operation.Attempt {
	return &warmAttempt{s: w.s, run: run, off: w.off}
}

// warmAttempt is one run through the steps that make an entry, or the one that
// removes it.
type warmAttempt struct {
	s   *Service
	run *operation.Run
	off bool

	database       tenantdb.Database
	maxConnections int
	gone           bool // there is no such entry any more
	work           *tenantdb.Work
}

// Step implements operation.Attempt.
func (a *warmAttempt) Step(ctx context.Context, name string) error {
	if err := a.load(ctx); err != nil {
		return err
	}
	if a.gone {
		if a.off {
			return nil
		}
		return operation.Fail("entry_gone", "The entry of the warm pool is not wanted any more.", "Nothing: the pool makes another one when it needs one.")
	}
	var err error
	switch name {
	case StepRole:
		err = a.role(ctx)
	case StepDatabase:
		err = create(ctx, a.work, a.database)
	case StepLockdown:
		err = a.work.Lockdown(ctx, a.database)
	case StepMigrate:
		err = a.work.Upgrade(ctx, a.database)
	case stepReady:
		err = a.ready(ctx)
	case stepDrop:
		err = errors.Join(a.Undo(ctx), a.forget(ctx))
	default:
		err = unknownStep()
	}
	if err == nil {
		failpoint.Hit(ctx, "warm/"+name)
	}
	return err
}

// load reads the entry once per attempt.
func (a *warmAttempt) load(ctx context.Context) error {
	if a.work != nil || a.gone {
		return nil
	}
	var p entryParams
	if err := json.Unmarshal(a.run.Params, &p); err != nil {
		return operation.Fail("bad_parameters", "The operation's parameters cannot be read.", "Start it anew.").Because(err)
	}
	var server uuid.UUID
	err := a.s.db.QueryRow(ctx, "SELECT server_id, max_connections FROM control.warm_databases WHERE id = $1", p.Entry).Scan(&server, &a.maxConnections)
	if errors.Is(err, pgx.ErrNoRows) {
		a.gone = true
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the entry of the warm pool: %w", err)
	}
	a.database = tenantdb.Database{Tenant: p.Entry, Incarnation: 1}
	a.work = tenantdb.On(a.s.servers, server, a.run)
	return nil
}

func (a *warmAttempt) role(ctx context.Context) error {
	if _, err := a.work.Admin(ctx); err != nil {
		return err
	}
	credential, err := tenantdb.NewCredential(a.s.data, a.database)
	if err != nil {
		return err
	}
	err = a.update(ctx, "UPDATE control.warm_databases SET credential = $2 WHERE id = $1 AND status = 'making'", credential.Sealed)
	if err != nil {
		return err
	}
	failpoint.Hit(ctx, "warm/role-stored")
	return a.work.Role(ctx, a.database, credential.Verifier, a.maxConnections)
}

// ready says in the database whose it will be and puts it into the pool. The role
// may connect, but nobody knows its password before a tenant is routed by it.
func (a *warmAttempt) ready(ctx context.Context) error {
	if err := a.work.Stamp(ctx, a.database); err != nil {
		return err
	}
	if err := a.work.Admit(ctx, a.database); err != nil {
		return err
	}
	return a.update(ctx, "UPDATE control.warm_databases SET status = 'ready', ready_at = now() WHERE id = $1 AND status = 'making'")
}

// update changes the entry, fenced by the run.
func (a *warmAttempt) update(ctx context.Context, sql string, args ...any) error {
	return a.run.InTx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, sql, append([]any{a.database.Tenant}, args...)...); err != nil {
			return fmt.Errorf("write the entry of the warm pool: %w", err)
		}
		return nil
	})
}

// Undo implements operation.Attempt.
func (a *warmAttempt) Undo(ctx context.Context) error {
	if err := a.load(ctx); err != nil || a.gone {
		return err
	}
	return a.work.Drop(ctx, a.database)
}

// Failed implements operation.Attempt.
func (a *warmAttempt) Failed(ctx context.Context, tx pgx.Tx, _ operation.Problem) error {
	if a.gone {
		return nil
	}
	return forgetEntry(ctx, tx, a.database.Tenant)
}

func (a *warmAttempt) forget(ctx context.Context) error {
	return a.run.InTx(ctx, func(tx pgx.Tx) error { return forgetEntry(ctx, tx, a.database.Tenant) })
}

func forgetEntry(ctx context.Context, tx pgx.Tx, id uuid.UUID) error {
	if _, err := tx.Exec(ctx, "DELETE FROM control.warm_databases WHERE id = $1", id); err != nil {
		return fmt.Errorf("remove the entry of the warm pool: %w", err)
	}
	return nil
}

// Close implements operation.Attempt.
func (a *warmAttempt) Close() {
	if a.work != nil {
		a.work.Close()
	}
}
