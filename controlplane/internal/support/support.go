// Package support lets operators into tenants, to help: it hands out codes, which
// a node of the tenant redeems once.
//
// It promises: a code is kept as a hash, counts for one tenant and five minutes, and
// is recorded with its reason, together with the request for it. Whether the
// tenant lets support in is decided in the tenant's own database, when the code is
// redeemed and at each request after it. Without the tenant's consent
// (break-glass) only an owner of the platform enters, who has shown a second
// factor of late, and only to read; the node tells all owners of the tenant when
// the code is redeemed, as it does of every entry.
package support

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/operator"
	"github.com/ouvira/ouvira/controlplane/internal/tenant"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
)

const (
	maxReason  = 500 // bytes
	maxMinutes = 60
	// redeemPath is where a node redeems a code.
	redeemPath = "/auth/support-session"
)

// Service of the room.
type Service struct {
	DB        pg.DB
	Operators *operator.Service
	Addresses tenant.Addresses
}

// Request for a session in a tenant.
type Request struct {
	Reason     string
	Minutes    int
	Write      bool
	BreakGlass bool
}

// Code is shown once.
type Code struct {
	ID        uuid.UUID
	Code      string
	RedeemURL string
	ExpiresAt time.Time
}

// Enter hands out a code.
func (s *Service) Enter(ctx context.Context, actor *audit.Actor, p operator.Principal, t tenant.Tenant, r Request) (Code, error) {
	r.Reason = strings.TrimSpace(r.Reason)
	if err := s.check(p, t, r); err != nil {
		return Code{}, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return Code{}, fmt.Errorf("make an id: %w", err)
	}
	text, hash := route.NewSupportCode(t.ID)
	out := Code{ID: id, Code: text, RedeemURL: s.Addresses.URL(t.Slug) + redeemPath}
	err = pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, "SELECT control.create_support_code($1, $2, $3, $4, $5, $6, $7, $8)",
			id, t.ID, p.OperatorID, hash, r.Reason, r.Minutes, r.Write, r.BreakGlass).Scan(&out.ExpiresAt)
		switch pg.Code(err) {
		case pg.CodeInsufficientRights: // the role has changed meanwhile
			return fault.Forbidden("Your role does not let you enter tenants any more.").Code("permission_denied").Because(err)
		case pg.CodeNotInState:
			return notActive("not active any more").Because(err)
		}
		if err != nil {
			return fmt.Errorf("store a support code: %w", err)
		}
		return audit.Record(ctx, tx, audit.Entry{
			Actor: actor, Action: "support.request", EntityType: "tenant", EntityID: t.ID.String(), TenantID: t.ID,
			Detail: map[string]any{"support_code": id, "reason": r.Reason, "minutes": r.Minutes, "write": r.Write, "break_glass": r.BreakGlass},
		})
	})
	return out, err
}

func (s *Service) check(p operator.Principal, t tenant.Tenant, r Request) error {
	switch {
	case r.Reason == "" || len(r.Reason) > maxReason || strings.ContainsFunc(r.Reason, unicode.IsControl):
		return fault.Invalid("Say why, in one line of 1 to 500 characters: the tenant's owners are told.").OnField("reason", "length", "This must be one line of 1 to 500 characters.")
	case r.Minutes < 1 || r.Minutes > maxMinutes:
		return fault.Invalid("A session lasts 1 to 60 minutes.").OnField("minutes", "range", "This must be between 1 and 60.")
	case r.BreakGlass && r.Write:
		return fault.Invalid("Break-glass only reads: nobody of the tenant has consented. Leave write out.").OnField("write", "conflict", "This does not go with break_glass.")
	case t.Status != tenant.StatusActive:
		return notActive(string(t.Status))
	case !r.BreakGlass:
		return nil
	case p.Key != nil:
		return fault.Forbidden("Break-glass is for people: sign in, an API key does not do.").Code("not_for_api_keys")
	case !p.May(operator.SupportBreakGlass):
		return fault.Forbidden("Break-glass takes an owner of the platform. Ask an owner of the tenant to let support in.").Code("permission_denied")
	}
	return s.Operators.CheckFreshFactor(p)
}

func notActive(status string) *fault.Error {
	return fault.Conflict("The tenant is " + status + ". Support enters active tenants only.").Code("tenant_not_active")
}
