package operator

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/operator/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// Patch of an account; nil leaves a field as it is.
type Patch struct {
	FullName *string
	Role     *Role
	IsActive *bool
}

// Update changes an account. With another role, or when it is deactivated, its
// sessions end; deactivating revokes its API keys too. One active owner always
// remains.
func (s *Service) Update(ctx context.Context, actor *audit.Actor, id uuid.UUID, p Patch) (Operator, error) {
	if p.Role != nil && !p.Role.Valid() {
		return Operator{}, noSuchRole()
	}
	return pg.InTxValue(ctx, s.DB, func(tx pgx.Tx) (Operator, error) {
		owners, err := s.q.LockActiveOwners(ctx, tx)
		if err != nil {
			return Operator{}, fmt.Errorf("look up the owners: %w", err)
		}
		before, err := s.lock(ctx, tx, id)
		if err != nil {
			return Operator{}, err
		}
		after := p.apply(before)
		wasOwner, isOwner := before.IsActive && before.Role == RoleOwner, after.IsActive && after.Role == RoleOwner
		if wasOwner && !isOwner && len(owners) == 1 {
			return Operator{}, fault.Conflict("This is the last active owner. Make another operator an owner first.").Code("last_owner")
		}
		return after, s.change(ctx, tx, actor, before, after)
	})
}

func (p Patch) apply(o Operator) Operator {
	if p.FullName != nil {
		o.FullName = strings.TrimSpace(*p.FullName)
	}
	if p.Role != nil {
		o.Role = *p.Role
	}
	if p.IsActive != nil {
		o.IsActive = *p.IsActive
	}
	return o
}

func (s *Service) change(ctx context.Context, tx pgx.Tx, actor *audit.Actor, before, after Operator) error {
	if before == after {
		return nil
	}
	err := s.q.ChangeOperator(ctx, tx, dbsqlc.ChangeOperatorParams{
		ID: after.ID, Role: string(after.Role), FullName: after.FullName, IsActive: after.IsActive,
	})
	if err != nil {
		return fmt.Errorf("change the operator: %w", err)
	}
	if before.Role != after.Role || !after.IsActive {
		if err := s.endSessions(ctx, tx, after.ID, uuid.Nil); err != nil {
			return err
		}
	}
	if !after.IsActive {
		if _, err := s.q.RevokeAPIKeysOf(ctx, tx, after.ID); err != nil {
			return fmt.Errorf("revoke the API keys: %w", err)
		}
		if err := s.q.VoidPasswordResets(ctx, tx, after.ID); err != nil {
			return fmt.Errorf("void the password resets: %w", err)
		}
	}
	action := "operator.update"
	switch {
	case before.IsActive && !after.IsActive:
		action = "operator.deactivate"
	case !before.IsActive && after.IsActive:
		action = "operator.activate"
	}
	return record(ctx, tx, actor, action, after.ID, map[string]any{
		"email": after.Email, "role": after.Role, "role_before": before.Role, "full_name": after.FullName,
	})
}

func (s *Service) lock(ctx context.Context, tx pgx.Tx, id uuid.UUID) (Operator, error) {
	row, err := s.q.LockOperator(ctx, tx, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return Operator{}, fault.NotFound("There is no such operator.")
	}
	if err != nil {
		return Operator{}, fmt.Errorf("look up the operator: %w", err)
	}
	return Operator{
		ID: row.ID, Email: row.Email, FullName: row.FullName, Role: Role(row.Role),
		IsActive: row.IsActive, LastLoginAt: row.LastLoginAt, CreatedAt: row.CreatedAt,
	}, nil
}
