package provision

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/event"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/failpoint"
)

// Begin implements operation.Handler.
func (s *Service) Begin(run *operation.Run) operation.Attempt { return &attempt{s: s, run: run} }

// attempt is one run through the steps. What it holds is a cache: each step
// finds all it needs in the databases.
type attempt struct {
	s   *Service
	run *operation.Run

	params Params
	tenant *tenant
	work   *tenantdb.Work // nil before the tenant has a place
}

// tenant is what the steps need of the control database's row.
type tenant struct {
	slug, name, status string
	incarnation        int
	server             *uuid.UUID
	maxConnections     int
}

// Step implements operation.Attempt.
func (a *attempt) Step(ctx context.Context, name string) error {
	if err := a.load(ctx); err != nil {
		return err
	}
	if a.work == nil && name != StepPlace {
		return errors.New("the tenant has no place yet")
	}
	step, known := map[string]func(context.Context) error{
		StepPlace:    a.place,
		StepRole:     a.role,
		StepDatabase: func(ctx context.Context) error { return create(ctx, a.work, a.database()) },
		StepLockdown: func(ctx context.Context) error { return a.work.Lockdown(ctx, a.database()) },
		StepMigrate:  func(ctx context.Context) error { return a.work.Upgrade(ctx, a.database()) },
		StepSeed:     a.seed,
		StepActivate: a.activate,
	}[name]
	if !known {
		return unknownStep()
	}
	if err := step(ctx); err != nil {
		return err
	}
	failpoint.Hit(ctx, failpointAfter(name))
	return nil
}

func unknownStep() error {
	return operation.Fail("unknown_step", "This release does not know the step it should do.", "Run the worker of the release that the operation was started by.")
}

// load reads the tenant once per attempt.
func (a *attempt) load(ctx context.Context) error {
	if a.tenant != nil {
		return nil
	}
	if err := json.Unmarshal(a.run.Params, &a.params); err != nil {
		return operation.Fail("bad_parameters", "The operation's parameters cannot be read.", "Start it anew.").Because(err)
	}
	var t tenant
	err := a.s.db.QueryRow(ctx, `
		SELECT t.slug, t.name, t.status, t.incarnation, t.server_id, p.max_connections
		FROM control.tenants t JOIN control.plans p ON p.id = t.plan_id
		WHERE t.id = $1`, a.run.TenantID).
		Scan(&t.slug, &t.name, &t.status, &t.incarnation, &t.server, &t.maxConnections)
	if err != nil {
		return fmt.Errorf("read the tenant: %w", err)
	}
	a.tenant = &t
	a.placed(t.server)
	return nil
}

// placed is called when the tenant's server is known.
func (a *attempt) placed(server *uuid.UUID) {
	a.tenant.server = server
	if server != nil && a.work == nil {
		a.work = tenantdb.On(a.s.servers, *server, a.run)
	}
}

func (a *attempt) database() tenantdb.Database {
	return tenantdb.Database{Tenant: a.run.TenantID, Incarnation: a.tenant.incarnation}
}

// place commits where the tenant goes and under which names, before anything
// exists there.
func (a *attempt) place(ctx context.Context) error {
	id, err := Place(ctx, a.run, a.s.servers, a.database(), a.params.Server, 0)
	if err == nil {
		a.placed(&id)
	}
	return err
}

// Place gives a tenant that is being provisioned its server, wanted (id or name) or
// the emptiest, and its database's name. bytes is what it brings. One that has a place
// keeps it.
func Place(ctx context.Context, run *operation.Run, servers *server.Service, d tenantdb.Database, wanted string, bytes int64) (id uuid.UUID, err error) {
	err = run.Finish(ctx, func(tx pgx.Tx) error {
		var status string
		var chosen *uuid.UUID
		err := tx.QueryRow(ctx, "SELECT status, server_id FROM control.tenants WHERE id = $1 FOR UPDATE", d.Tenant).Scan(&status, &chosen)
		if err != nil {
			return fmt.Errorf("lock the tenant: %w", err)
		}
		if status != "provisioning" {
			return notProvisioning(status)
		}
		if chosen != nil {
			id = *chosen
			return nil
		}
		id, err = servers.Place(ctx, tx, wanted, bytes)
		switch {
		case errors.Is(err, server.ErrNoCapacity):
			return operation.Later("no_capacity", noRoom(bytes),
				"Add a server (ouvira server add): the tenant is made as soon as there is room.").In(capacityPause).Because(err)
		case errors.Is(err, server.ErrUnknown):
			return operation.Fail("server_unknown", "The server that was asked for does not exist.", "Try again with a server that exists, or with none.").Because(err)
		case err != nil:
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE control.tenants SET server_id = $2, database_name = $3, updated_at = now() WHERE id = $1", d.Tenant, id, d.Name())
		if err != nil {
			return fmt.Errorf("write the tenant's place: %w", err)
		}
		return nil
	})
	return id, err
}

func noRoom(bytes int64) string {
	if bytes == 0 {
		return "No tenant server has room for another database."
	}
	return fmt.Sprintf("No tenant server has room for another database of %d MB.", (bytes+1<<20-1)>>20)
}

func notProvisioning(status string) error {
	return operation.Fail("not_provisioning", "The tenant is "+status+", not provisioning.", "Nothing: somebody else has decided about this tenant.")
}

// activate is one transaction: the tenant with its route, the sign-up without
// its password hash, the event, the audit row, the mail.
func (a *attempt) activate(ctx context.Context) error {
	return a.run.Finish(ctx, func(tx pgx.Tx) error {
		var status string
		var complete bool
		err := tx.QueryRow(ctx, `
			SELECT status, server_id IS NOT NULL AND database_name IS NOT NULL AND credential IS NOT NULL
			       AND schema_version > 0 AND signing_keys <> '[]'
			FROM control.tenants WHERE id = $1 FOR UPDATE`, a.run.TenantID).Scan(&status, &complete)
		switch {
		case err != nil:
			return fmt.Errorf("lock the tenant: %w", err)
		case status == "active" || status == "suspended":
			return nil // by a run that did not live to record it
		case status != "provisioning":
			return notProvisioning(status)
		case !complete:
			return errors.New("the tenant's row lacks what the earlier steps write")
		}
		owner, err := a.finishSignup(ctx, tx)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			UPDATE control.tenants SET status = 'active', status_reason = '', updated_at = now() WHERE id = $1`, a.run.TenantID)
		if err != nil {
			return fmt.Errorf("activate the tenant: %w", err)
		}
		if err := a.announce(ctx, tx, owner); err != nil {
			return err
		}
		// Last: it holds the route clock until the commit.
		if _, err := tx.Exec(ctx, "SELECT control.publish_route($1)", a.run.TenantID); err != nil {
			return fmt.Errorf("publish the route: %w", err)
		}
		return nil
	})
}

// finishSignup says who the owner is; a sign-up's password hash has done its
// work and is erased.
func (a *attempt) finishSignup(ctx context.Context, tx pgx.Tx) (Owner, error) {
	if a.params.SignupID == uuid.Nil {
		if a.params.Owner == nil {
			return Owner{}, nil
		}
		return *a.params.Owner, nil
	}
	var o Owner
	err := tx.QueryRow(ctx, `
		UPDATE control.signups SET status = 'active', password_hash = NULL, updated_at = now()
		WHERE id = $1 RETURNING email, full_name`, a.params.SignupID).Scan(&o.Email, &o.FullName)
	if err != nil {
		return Owner{}, fmt.Errorf("finish the sign-up: %w", err)
	}
	return o, nil
}

func (a *attempt) announce(ctx context.Context, tx pgx.Tx, owner Owner) error {
	err := event.Record(ctx, tx, event.TenantActivated, a.run.TenantID, map[string]any{
		"slug": a.tenant.slug, "operation_id": a.run.ID,
	})
	if err != nil {
		return err
	}
	if err := a.audit(ctx, tx, "tenant.activate", map[string]any{"slug": a.tenant.slug}); err != nil {
		return err
	}
	if a.s.options.Activated == nil {
		return nil
	}
	return a.s.options.Activated(ctx, tx, Activated{
		TenantID: a.run.TenantID, Slug: a.tenant.slug, Name: a.tenant.name,
		OperationID: a.run.ID, SignupID: a.params.SignupID, Owner: owner,
	})
}

func (a *attempt) audit(ctx context.Context, tx pgx.Tx, action string, detail map[string]any) error {
	return record(ctx, tx, a.run, action, detail)
}

func record(ctx context.Context, tx pgx.Tx, run *operation.Run, action string, detail map[string]any) error {
	detail["operation_id"] = run.ID
	detail["asked_by"] = run.CreatedBy
	return audit.Record(ctx, tx, audit.Entry{
		Actor: audit.Worker(run.ID.String()), Action: action,
		EntityType: "tenant", EntityID: run.TenantID.String(), TenantID: run.TenantID, Detail: detail,
	})
}

// Undo implements operation.Attempt: no database and no role stay behind.
func (a *attempt) Undo(ctx context.Context) error {
	if err := a.load(ctx); err != nil {
		return err
	}
	if a.tenant.server == nil || a.tenant.status != "provisioning" {
		return nil
	}
	return a.work.Drop(ctx, a.database())
}

// Failed implements operation.Attempt.
func (a *attempt) Failed(ctx context.Context, tx pgx.Tx, why operation.Problem) error {
	return RecordFailure(ctx, tx, a.run, why)
}

// RecordFailure writes that the run's tenant could not be made, and takes its place
// and its secrets from it.
func RecordFailure(ctx context.Context, tx pgx.Tx, run *operation.Run, why operation.Problem) error {
	_, err := tx.Exec(ctx, `
		UPDATE control.tenants
		SET status = 'failed', status_reason = $2, server_id = NULL, database_name = NULL, credential = NULL,
		    signing_keys = '[]', schema_version = 0, updated_at = now()
		WHERE id = $1 AND status = 'provisioning'`, run.TenantID, why.Message+" "+why.NextAction)
	if err != nil {
		return fmt.Errorf("write the tenant's failure: %w", err)
	}
	// The password hash stays: the tenant can be tried again.
	_, err = tx.Exec(ctx, `
		UPDATE control.signups SET status = 'failed', updated_at = now()
		WHERE tenant_id = $1 AND status = 'provisioning'`, run.TenantID)
	if err != nil {
		return fmt.Errorf("write the sign-up's failure: %w", err)
	}
	return record(ctx, tx, run, "tenant.provisioning_failed", map[string]any{"code": why.Code})
}

// Close implements operation.Attempt.
func (a *attempt) Close() {
	if a.work != nil {
		a.work.Close()
	}
}
