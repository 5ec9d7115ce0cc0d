package reconcile

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	tenants "github.com/ouvira/ouvira/controlplane/internal/tenant"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/seal"
)

// KindAdopt is that of the operations that take in a database which a server holds and
// the control database does not know: it was lost, or restored from a time before.
const KindAdopt = "tenant.adopt"

const stepAdopt = "adopt"

// Adopter takes in what is provably ours: a database whose name, comment and marker say
// the same tenant and incarnation.
type Adopter struct {
	look       *Service
	operations *operation.Store
	tenants    *tenants.Service
	data       *seal.PublicKey
}

// NewAdopter makes one. New passwords of roles are sealed to the data plane's key.
func NewAdopter(look *Service, operations *operation.Store, rows *tenants.Service, data *seal.PublicKey) *Adopter {
	return &Adopter{look: look, operations: operations, tenants: rows, data: data}
}

// Adoption says what to take in, and what only a person knows of a tenant that the
// control database does not have.
type Adoption struct {
	Tenant uuid.UUID
	Slug   string // of a tenant that is not known
	Name   string // likewise; "": the slug
	Plan   string // likewise, a code; "": the standard one
}

// adoptParams of an operation.
type adoptParams struct {
	Tenant   uuid.UUID `json:"tenant"`
	ServerID uuid.UUID `json:"server_id"`
	Slug     string    `json:"slug,omitempty"`
	Name     string    `json:"name,omitempty"`
	Plan     string    `json:"plan,omitempty"`
}

// Adopt asks for the tenant's database on the server to be taken in. Errors:
// fault.NotFound, fault.Invalid, fault.Conflict.
func (s *Adopter) Adopt(ctx context.Context, actor *audit.Actor, idOrName string, a Adoption) (uuid.UUID, error) {
	srv, err := s.look.servers.Find(ctx, idOrName)
	if err != nil {
		return uuid.Nil, err
	}
	return pg.InTxValue(ctx, s.look.db, func(tx pgx.Tx) (uuid.UUID, error) {
		spec := operation.Spec{Kind: KindAdopt, Steps: []string{stepAdopt}, CreatedBy: actor.String()}
		params := adoptParams{Tenant: a.Tenant, ServerID: srv.ID}
		var status string
		err := tx.QueryRow(ctx, "SELECT status FROM control.tenants WHERE id = $1 FOR UPDATE", a.Tenant).Scan(&status)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			if params.Slug, params.Name, params.Plan, err = s.wanted(ctx, a); err != nil {
				return uuid.Nil, err
			}
		case err != nil:
			return uuid.Nil, fmt.Errorf("read the tenant: %w", err)
		case a.Slug != "" || a.Name != "" || a.Plan != "":
			return uuid.Nil, fault.Conflict("The tenant is known: adopt its database without a slug, a name and a plan.").Code("tenant_known")
		case status != "active" && status != "suspended":
			return uuid.Nil, fault.Conflict("The tenant is " + status + "; the database of one that is active or suspended can be adopted.").Code("tenant_" + status)
		default:
			spec.TenantID, spec.Exclusive = a.Tenant, true
		}
		var running uuid.UUID
		err = tx.QueryRow(ctx, "SELECT id FROM control.operations WHERE kind = $1 AND params ->> 'tenant' = $2 AND status IN ('queued', 'running')",
			KindAdopt, a.Tenant.String()).Scan(&running)
		if err == nil {
			return uuid.Nil, fault.Conflict("The tenant is being adopted already: follow it with ouvira operation watch " + running.String() + ".").Code("operation_in_progress")
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return uuid.Nil, fmt.Errorf("look for an adoption of the tenant: %w", err)
		}
		spec.Params = params
		id, err := s.operations.Enqueue(ctx, tx, spec)
		if err != nil {
			return uuid.Nil, err
		}
		return id, audit.Record(ctx, tx, audit.Entry{
			Actor: actor, Action: KindAdopt, EntityType: "tenant", EntityID: a.Tenant.String(),
			Detail: map[string]any{"server": srv.Name, "slug": a.Slug, "operation_id": id},
		})
	})
}

// wanted checks what a person says of a tenant that is not known.
func (s *Adopter) wanted(ctx context.Context, a Adoption) (slug, name, plan string, err error) {
	if a.Slug == "" {
		return "", "", "", fault.Invalid("The control database does not know this tenant: say by which slug it shall be reached.").OnField("slug", "required", "Needed for a tenant that is not known.")
	}
	if err := tenants.CheckSlug(a.Slug); err != nil {
		return "", "", "", err
	}
	available, err := s.tenants.Available(ctx, a.Slug)
	if err == nil && !available {
		err = tenants.SlugTaken()
	}
	if err != nil {
		return "", "", "", err
	}
	if a.Name == "" {
		a.Name = a.Slug
	}
	name, err = tenants.CheckName(a.Name, "name")
	return a.Slug, name, a.Plan, err
}

// unknown says of a database that is marked as a tenant's which the control database
// does not know, or knows in an earlier one.
func (c *comparison) unknown(srv server.Server, d database) bool {
	is, ours := marked(d.Name, d.Comment)
	if !ours || d.Owner != migrations.OwnerRole {
		return false
	}
	incarnation, known := c.incarnations[is.Tenant]
	switch {
	case !known:
		c.find("tenant_unknown", SeverityError, nil, d.Name,
			fmt.Sprintf("The database is marked as tenant %s's (incarnation %d), and the control database does not know that tenant.", is.Tenant, is.Incarnation),
			fmt.Sprintf("If it shall be served: ouvira tenant adopt %s --server %s --slug SLUG --wait.", is.Tenant, srv.Name))
	case incarnation < is.Incarnation:
		c.find("tenant_elsewhere", SeverityError, nil, d.Name,
			fmt.Sprintf("The database is marked as a later one (incarnation %d) of tenant %s than the control database knows (%d).", is.Incarnation, is.Tenant, incarnation),
			fmt.Sprintf("If the control database was restored from a time before: ouvira tenant adopt %s --server %s --wait.", is.Tenant, srv.Name))
	default:
		return false
	}
	return true
}

// marked reads a database's comment. It is ours when the name derives from it.
func marked(name, comment string) (tenantdb.Database, bool) {
	id, n, _ := strings.Cut(comment, "/")
	var d tenantdb.Database
	var err error
	if d.Tenant, err = uuid.Parse(id); err != nil {
		return d, false
	}
	if _, err := fmt.Sscan(n, &d.Incarnation); err != nil {
		return d, false
	}
	return d, d.Name() == name && d.Mark() == comment
}
