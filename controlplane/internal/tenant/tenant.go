// Package tenant is the room of the platform's customers: their names, plans,
// settings and status.
//
// It promises: a slug is given out once and never changes; every change that
// nodes must know of publishes the tenant's route in the same transaction,
// together with its audit entry; an illegal move of state is refused with the
// status and what is allowed.
//
// A tenant's database is made and changed elsewhere (provision, lifecycle): here
// are rows of the control database only. Rows are locked in the order tenant, domain,
// route clock.
package tenant

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/ouvira/ouvira/controlplane/internal/lifecycle"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/controlplane/internal/tenant/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
)

// Status of a tenant.
type Status string

// The states of a tenant.
const (
	StatusProvisioning Status = "provisioning"
	StatusActive       Status = "active"
	StatusSuspended    Status = "suspended"
	StatusDeleted      Status = "deleted"
	StatusPurged       Status = "purged"
	StatusFailed       Status = "failed"
)

// DefaultPlan is the code of the plan of those who choose none.
const DefaultPlan = "standard"

// Tenant as people see it.
type Tenant struct {
	ID            uuid.UUID
	Slug          string
	Name          string
	Status        Status
	StatusReason  string
	Mode          route.Mode
	Server        *string // name; nil until a server was chosen
	SchemaVersion int64
	PrimaryDomain string
	Plan          string // code
	OnTrial       bool
	PaidUntil     *time.Time // a date
	Settings      route.Settings
	PurgeAt       *time.Time
	CreatedAt     time.Time
	UpdatedAt     time.Time
}

// Addresses says how tenants are reached.
type Addresses struct {
	BaseDomain string
	Scheme     string
	Port       string // empty: the scheme's own
}

// Host of a tenant below the platform's domain, without a port.
func (a Addresses) Host(slug string) string { return slug + "." + a.BaseDomain }

// URL of a tenant below the platform's domain.
func (a Addresses) URL(slug string) string {
	u := a.Scheme + "://" + a.Host(slug)
	if a.Port != "" {
		u += ":" + a.Port
	}
	return u
}

// Service of the room.
type Service struct {
	DB        pg.DB
	Addresses Addresses
	Provision *provision.Service
	Lifecycle *lifecycle.Service

	q dbsqlc.Queries
}

// Get finds a tenant by id or slug.
func (s *Service) Get(ctx context.Context, idOrSlug string) (Tenant, error) {
	return s.get(ctx, s.DB, idOrSlug)
}

// GetTx is Get inside the caller's transaction.
func (s *Service) GetTx(ctx context.Context, tx pgx.Tx, id uuid.UUID) (Tenant, error) {
	return s.get(ctx, tx, id.String())
}

func (s *Service) get(ctx context.Context, db pg.Querier, idOrSlug string) (Tenant, error) {
	var key dbsqlc.GetTenantParams
	if id, err := uuid.Parse(idOrSlug); err == nil && len(idOrSlug) == 36 {
		key.ID = uuid.NullUUID{UUID: id, Valid: true}
	} else {
		key.Slug = &idOrSlug
	}
	row, err := s.q.GetTenant(ctx, db, key)
	if errors.Is(err, pgx.ErrNoRows) {
		return Tenant{}, noTenant()
	}
	if err != nil {
		return Tenant{}, fmt.Errorf("read the tenant: %w", err)
	}
	return s.tenantOf(row)
}

func noTenant() error { return fault.NotFound("There is no such tenant.") }

func (s *Service) tenantOf(r dbsqlc.GetTenantRow) (Tenant, error) {
	t := Tenant{
		ID: r.ID, Slug: r.Slug, Name: r.Name, Status: Status(r.Status), StatusReason: r.StatusReason,
		Mode: route.Mode(r.RouteMode), Server: r.Server, SchemaVersion: r.SchemaVersion,
		PrimaryDomain: r.CustomPrimary, Plan: r.Plan, OnTrial: r.OnTrial, PaidUntil: dateOf(r.PaidUntil),
		PurgeAt: r.PurgeAt, CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt,
	}
	if t.PrimaryDomain == "" {
		t.PrimaryDomain = s.Addresses.Host(r.Slug)
	}
	if err := json.Unmarshal(r.Settings, &t.Settings); err != nil {
		return Tenant{}, fmt.Errorf("decode the settings of tenant %s: %w", r.ID, err)
	}
	return t, nil
}

func dateOf(d pgtype.Date) *time.Time {
	if !d.Valid {
		return nil
	}
	return &d.Time
}

// Available tells whether a slug could be had now; why not is said by the
// fault that CheckSlug gives.
func (s *Service) Available(ctx context.Context, slug string) (bool, error) {
	taken, err := s.q.SlugTaken(ctx, s.DB, slug)
	if err != nil {
		return false, fmt.Errorf("look up the slug: %w", err)
	}
	return !taken, nil
}

// SlugTaken is the fault of a slug that another tenant has, or had.
func SlugTaken() *fault.Error {
	return fault.Conflict("This slug is taken. Choose another one.").Code("slug_taken").
		OnField("slug", "taken", "This slug is taken.")
}

// maxName bounds a tenant's name, in bytes.
const maxName = 200

// CheckName refuses names that are empty, too long, or hold control
// characters; field is how the request calls it.
func CheckName(name, field string) (string, error) {
	name = strings.TrimSpace(name)
	switch {
	case name == "":
		return "", fault.Invalid("The name must not be empty.").OnField(field, "required", "This must not be empty.")
	case len(name) > maxName:
		return "", fault.Invalid("The name is longer than 200 bytes. Choose a shorter one.").OnField(field, "too_long", "This is longer than 200 bytes.")
	case strings.ContainsFunc(name, isControl):
		return "", fault.Invalid("The name must be one line of text.").OnField(field, "characters", "This must be one line of text.")
	}
	return name, nil
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f || r == 0x2028 || r == 0x2029 }
