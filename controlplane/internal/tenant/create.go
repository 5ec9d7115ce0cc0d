package tenant

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/event"
	"github.com/ouvira/ouvira/controlplane/internal/operator"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/controlplane/internal/tenant/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// Owner of a new tenant: its first user.
type Owner struct {
	Email    string
	FullName string
}

// New is an operator's request for a tenant.
type New struct {
	Slug   string
	Name   string
	Owner  Owner
	Plan   string // code; "" means DefaultPlan
	Server string // name; "" lets the placement choose
}

// Create writes a tenant and asks for its database.
func (s *Service) Create(ctx context.Context, actor *audit.Actor, n New) (Tenant, uuid.UUID, error) {
	if err := CheckSlug(n.Slug); err != nil {
		return Tenant{}, uuid.Nil, err
	}
	name, err := CheckName(n.Name, "name")
	if err != nil {
		return Tenant{}, uuid.Nil, err
	}
	if n.Owner.FullName, err = CheckName(n.Owner.FullName, "owner.full_name"); err != nil {
		return Tenant{}, uuid.Nil, err
	}
	if n.Owner.Email, err = operator.NormalizeEmail(n.Owner.Email); err != nil {
		return Tenant{}, uuid.Nil, fault.Invalid("The owner's email address is not valid.").OnField("owner.email", "email", "This is not an email address.")
	}
	var created Tenant
	var operation uuid.UUID
	err = pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		if err := s.checkServer(ctx, tx, n.Server); err != nil {
			return err
		}
		id, err := s.Insert(ctx, tx, Row{Slug: n.Slug, Name: name, Plan: n.Plan, Server: n.Server})
		if err != nil {
			return err
		}
		operation, err = s.Provision.Start(ctx, tx, id, provision.Params{
			Owner: &provision.Owner{Email: n.Owner.Email, FullName: n.Owner.FullName}, Server: n.Server,
		}, actor.String())
		if err != nil {
			return fmt.Errorf("ask for the tenant's database: %w", err)
		}
		if err := s.Announce(ctx, tx, actor, id, n.Slug); err != nil {
			return err
		}
		created, err = s.GetTx(ctx, tx, id)
		return err
	})
	return created, operation, err
}

// Row is a tenant to be written.
type Row struct {
	ID   uuid.UUID // uuid.Nil: a new one
	Slug string
	Name string
	Plan string // code; "" means DefaultPlan

	Server string // id or name; "" lets the placement choose
	Bare   bool   // its database is made of something else: none out of the warm pool
}

// checkServer refuses a wish that the placement could never grant.
func (s *Service) checkServer(ctx context.Context, tx pgx.Tx, name string) error {
	if name == "" {
		return nil
	}
	known, err := s.q.ServerExists(ctx, tx, name)
	if err != nil {
		return fmt.Errorf("look up the server: %w", err)
	}
	if !known {
		return fault.Invalid("There is no server of this name. See GET /v1/servers.").OnField("server", "unknown", "There is no such server.")
	}
	return nil
}

// Insert writes the row of a new tenant. With a database out of the warm pool, if
// there is one, it needs no more than its owner. Errors: the slug is taken, there
// is no such plan.
func (s *Service) Insert(ctx context.Context, tx pgx.Tx, r Row) (uuid.UUID, error) {
	if r.Plan == "" {
		r.Plan = DefaultPlan
	}
	plan, err := s.q.PlanByCode(ctx, tx, r.Plan)
	if errors.Is(err, pgx.ErrNoRows) {
		return uuid.Nil, noPlan()
	}
	if err != nil {
		return uuid.Nil, fmt.Errorf("look up the plan: %w", err)
	}
	row := dbsqlc.InsertTenantParams{Slug: r.Slug, Name: r.Name, PlanID: plan.ID}
	var warm provision.Claimed
	ok := false
	if !r.Bare {
		if warm, ok, err = s.Provision.Claim(ctx, tx, plan.ID, r.Server); err != nil {
			return uuid.Nil, err
		}
	}
	if ok {
		row.ID, row.ServerID, row.DatabaseName = warm.ID, uuid.NullUUID{UUID: warm.Server, Valid: true}, &warm.Database
		row.Credential, row.SchemaVersion = warm.Credential, warm.SchemaVersion
	} else if row.ID = r.ID; row.ID == uuid.Nil {
		if row.ID, err = uuid.NewV7(); err != nil {
			return uuid.Nil, fmt.Errorf("make an id: %w", err)
		}
	}
	err = s.q.InsertTenant(ctx, tx, row)
	if pg.Constraint(err) == "tenants_slug_key" {
		return uuid.Nil, SlugTaken().Because(err)
	}
	if err != nil {
		return uuid.Nil, fmt.Errorf("store the tenant: %w", err)
	}
	return row.ID, nil
}

func noPlan() error {
	return fault.Invalid("There is no plan of this code. See GET /v1/plans.").OnField("plan", "unknown", "There is no such plan.")
}

// Announce records that a tenant was created, for webhooks and for the audit.
func (s *Service) Announce(ctx context.Context, tx pgx.Tx, actor *audit.Actor, id uuid.UUID, slug string) error {
	if err := event.Record(ctx, tx, event.TenantCreated, id, map[string]any{"slug": slug}); err != nil {
		return err
	}
	return audit.Record(ctx, tx, audit.Entry{
		Actor: actor, Action: "tenant.create", EntityType: "tenant", EntityID: id.String(),
		TenantID: id, Detail: map[string]any{"slug": slug},
	})
}

// Retry provisions a tenant again whose provisioning has failed.
func (s *Service) Retry(ctx context.Context, actor *audit.Actor, id uuid.UUID) (uuid.UUID, error) {
	return pg.InTxValue(ctx, s.DB, func(tx pgx.Tx) (uuid.UUID, error) {
		operation, err := s.Provision.Retry(ctx, tx, id, actor.String())
		if err != nil {
			return uuid.Nil, err
		}
		return operation, audit.Record(ctx, tx, audit.Entry{
			Actor: actor, Action: "tenant.retry", EntityType: "tenant", EntityID: id.String(),
			TenantID: id, Detail: map[string]any{"operation_id": operation},
		})
	})
}
