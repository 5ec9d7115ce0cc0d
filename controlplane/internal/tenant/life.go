package tenant

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/event"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/controlplane/internal/tenant/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
)

// Delete stops serving the tenant and asks for the rest, after which it can be
// undeleted for a while: see package lifecycle. confirm is what the caller takes for
// the tenant's slug; "" is not compared. It returns the operation's id.
func (s *Service) Delete(ctx context.Context, actor *audit.Actor, id uuid.UUID, confirm string) (uuid.UUID, error) {
	return s.ask(ctx, actor, id, request{
		verb: "deleted", action: "tenant.delete", confirm: confirm,
		from: []Status{StatusActive, StatusSuspended, StatusFailed},
		start: func(ctx context.Context, tx pgx.Tx, locked dbsqlc.LockTenantRow) (uuid.UUID, error) {
			operation, err := s.Lifecycle.Delete(ctx, tx, id, actor.String())
			if err != nil {
				return uuid.Nil, err
			}
			if err := s.q.MarkDeleted(ctx, tx, id); err != nil {
				return uuid.Nil, fmt.Errorf("mark the tenant as deleted: %w", err)
			}
			if err := s.q.PublishTombstone(ctx, tx, id); err != nil {
				return uuid.Nil, fmt.Errorf("take the tenant off the routes: %w", err)
			}
			return operation, nil
		},
	})
}

// Undelete asks for a deleted tenant to become what it was before, as long as its
// grace lasts. It returns the operation's id.
func (s *Service) Undelete(ctx context.Context, actor *audit.Actor, id uuid.UUID) (uuid.UUID, error) {
	return s.ask(ctx, actor, id, request{
		verb: "undeleted", action: "tenant.undelete", from: []Status{StatusDeleted},
		start: func(ctx context.Context, tx pgx.Tx, locked dbsqlc.LockTenantRow) (uuid.UUID, error) {
			if over, err := s.q.GraceIsOver(ctx, tx, id); err != nil {
				return uuid.Nil, fmt.Errorf("look up the end of the grace: %w", err)
			} else if over {
				return uuid.Nil, fault.Conflict("The tenant is deleted and cannot be undeleted any more: its grace is over. Allowed now: purge it, or restore its last backup as a new tenant.").
					Code("grace_over")
			}
			return s.Lifecycle.Undelete(ctx, tx, id, actor.String())
		},
	})
}

// Purge asks for the end of a deleted tenant, also within its grace. confirm is as
// for Delete. It returns the operation's id.
func (s *Service) Purge(ctx context.Context, actor *audit.Actor, id uuid.UUID, confirm string) (uuid.UUID, error) {
	return s.ask(ctx, actor, id, request{
		verb: "purged", action: "tenant.purge", confirm: confirm, from: []Status{StatusDeleted},
		start: func(ctx context.Context, tx pgx.Tx, _ dbsqlc.LockTenantRow) (uuid.UUID, error) {
			return s.Lifecycle.Purge(ctx, tx, id, actor.String())
		},
	})
}

// request for an operation on the tenant as a whole.
type request struct {
	verb, action string
	confirm      string
	from         []Status
	start        func(ctx context.Context, tx pgx.Tx, locked dbsqlc.LockTenantRow) (operation uuid.UUID, err error)
}

func (s *Service) ask(ctx context.Context, actor *audit.Actor, id uuid.UUID, r request) (operation uuid.UUID, err error) {
	_, err = s.change(ctx, id, func(tx pgx.Tx, locked dbsqlc.LockTenantRow) (bool, error) {
		if r.confirm != "" && r.confirm != locked.Slug {
			return false, fault.Invalid("The slug that was given to confirm this is not the tenant's. Nothing was done.").
				OnField("confirm_slug", "mismatch", "This is not the tenant's slug.")
		}
		if err := s.may(ctx, tx, locked, r.verb, r.from...); err != nil {
			return false, err
		}
		// Before the route: its clock is locked last of all.
		err := record(ctx, tx, actor, r.action, id, map[string]any{"from": locked.Status})
		if err != nil {
			return false, err
		}
		operation, err = r.start(ctx, tx, locked)
		return false, err
	})
	return operation, err
}

// Rotate asks for another password of the tenant's role. It returns the operation's id.
func (s *Service) Rotate(ctx context.Context, actor *audit.Actor, id uuid.UUID) (uuid.UUID, error) {
	return s.ask(ctx, actor, id, request{
		verb: "given another password", action: "tenant.rotate", from: []Status{StatusActive, StatusSuspended},
		start: func(ctx context.Context, tx pgx.Tx, _ dbsqlc.LockTenantRow) (uuid.UUID, error) {
			return s.Provision.Rotate(ctx, tx, id, actor.String())
		},
	})
}

// RotateKey asks for another signing key of the tenant. It returns the operation's id.
func (s *Service) RotateKey(ctx context.Context, actor *audit.Actor, id uuid.UUID, r provision.KeyRotation) (uuid.UUID, error) {
	return s.ask(ctx, actor, id, request{
		verb: "given another signing key", action: "tenant.rotate_key", from: []Status{StatusActive, StatusSuspended},
		start: func(ctx context.Context, tx pgx.Tx, _ dbsqlc.LockTenantRow) (uuid.UUID, error) {
			return s.Provision.RotateKey(ctx, tx, id, r, actor.String())
		},
	})
}

// SignOutEveryone ends all that anybody holds who is signed in at the tenant: access
// tokens, refresh tokens, API keys and sessions of support.
func (s *Service) SignOutEveryone(ctx context.Context, actor *audit.Actor, id uuid.UUID) (Tenant, error) {
	return s.change(ctx, id, func(tx pgx.Tx, locked dbsqlc.LockTenantRow) (bool, error) {
		if err := s.may(ctx, tx, locked, "signed out", StatusActive, StatusSuspended); err != nil {
			return false, err
		}
		epoch, err := s.q.RaiseTokenEpoch(ctx, tx, id)
		if err != nil {
			return false, fmt.Errorf("raise the token epoch: %w", err)
		}
		if err := event.Record(ctx, tx, event.TenantSignedOut, id, map[string]any{"slug": locked.Slug}); err != nil {
			return false, err
		}
		return true, record(ctx, tx, actor, "tenant.sign_out_everyone", id, map[string]any{"token_epoch": epoch})
	})
}
