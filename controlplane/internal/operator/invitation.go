package operator

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/operator/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/password"
	"github.com/ouvira/ouvira/shared/pg"
)

// invitationDays is how long an invitation can be accepted.
const invitationDays = 7

// Invitation of somebody who has no account yet.
type Invitation struct {
	ID        uuid.UUID
	Email     string
	FullName  string
	Role      Role
	InvitedBy string
	CreatedAt time.Time
	ExpiresAt time.Time
}

// Invite mails somebody a link by which they make their account. One who was
// invited before gets a new link, and the old one is dead.
func (s *Service) Invite(ctx context.Context, actor *audit.Actor, p Principal, email, name string, role Role) (Invitation, error) {
	email, err := NormalizeEmail(email)
	if err != nil {
		return Invitation{}, err
	}
	if !role.Valid() {
		return Invitation{}, noSuchRole()
	}
	id, token, err := s.newLink(purposeInvitation)
	if err != nil {
		return Invitation{}, err
	}
	inv := Invitation{ID: id, Email: email, FullName: strings.TrimSpace(name), Role: role, InvitedBy: p.Email}
	err = pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		if err := s.q.ReplaceInvitation(ctx, tx, email); err != nil {
			return fmt.Errorf("replace an invitation: %w", err)
		}
		row, err := s.q.InsertInvitation(ctx, tx, dbsqlc.InsertInvitationParams{
			ID: id, Email: email, FullName: inv.FullName, Role: string(role), TokenHash: hashToken(token), InvitedBy: p.OperatorID, Days: invitationDays,
		})
		if errors.Is(err, pgx.ErrNoRows) {
			return emailTaken()
		}
		if pg.Constraint(err) == "operator_invitations_open_key" {
			return fault.Conflict("Somebody else is inviting the same person just now. Look at the list of invitations.").Code("invitation_pending").Because(err)
		}
		if err != nil {
			return fmt.Errorf("store the invitation: %w", err)
		}
		inv.CreatedAt, inv.ExpiresAt = row.CreatedAt, row.ExpiresAt
		if err := s.send(ctx, tx, LinkMail{Purpose: purposeInvitation, ID: id}); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Entry{
			Actor: actor, Action: "operator.invite", EntityType: "operator_invitation", EntityID: id.String(),
			Detail: map[string]any{"email": email, "role": role},
		})
	})
	return inv, err
}

// Invitations that can be accepted, the newest first.
func (s *Service) Invitations(ctx context.Context) ([]Invitation, error) {
	rows, err := s.q.ListInvitations(ctx, s.DB)
	if err != nil {
		return nil, fmt.Errorf("list the invitations: %w", err)
	}
	list := make([]Invitation, 0, len(rows))
	for _, r := range rows {
		list = append(list, Invitation{
			ID: r.ID, Email: r.Email, FullName: r.FullName, Role: Role(r.Role), InvitedBy: r.InvitedBy, CreatedAt: r.CreatedAt, ExpiresAt: r.ExpiresAt,
		})
	}
	return list, nil
}

// RevokeInvitation makes the link dead.
func (s *Service) RevokeInvitation(ctx context.Context, actor *audit.Actor, id uuid.UUID) error {
	return pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		email, err := s.q.RevokeInvitation(ctx, tx, id)
		if errors.Is(err, pgx.ErrNoRows) {
			return fault.NotFound("There is no such invitation, or it was accepted or revoked already.")
		}
		if err != nil {
			return fmt.Errorf("revoke an invitation: %w", err)
		}
		return audit.Record(ctx, tx, audit.Entry{
			Actor: actor, Action: "operator.invitation_revoked", EntityType: "operator_invitation", EntityID: id.String(),
			Detail: map[string]any{"email": email},
		})
	})
}

// AcceptInvitation makes the account, once, with the role that the invitation
// says.
func (s *Service) AcceptInvitation(ctx context.Context, token, name, chosen string, ip netip.Addr, requestID string) (Operator, error) {
	if !plausible(token, prefixInvitation) {
		return Operator{}, badLink()
	}
	found, err := s.q.FindInvitation(ctx, s.DB, hashToken(token))
	if errors.Is(err, pgx.ErrNoRows) {
		return Operator{}, badLink()
	}
	if err != nil {
		return Operator{}, fmt.Errorf("look up an invitation: %w", err)
	}
	if err := password.CheckPolicy(chosen); err != nil {
		return Operator{}, err
	}
	hash, err := password.Hash(ctx, chosen)
	if err != nil {
		return Operator{}, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return Operator{}, fmt.Errorf("make an id: %w", err)
	}
	o := Operator{ID: id, Email: found.Email, FullName: found.FullName, Role: Role(found.Role), IsActive: true, CreatedAt: s.now()}
	if name = strings.TrimSpace(name); name != "" {
		o.FullName = name
	}
	actor := &audit.Actor{Kind: audit.KindOperator, ID: id.String(), Name: o.Email, IP: ip, RequestID: requestID}
	return o, pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		n, err := s.q.AcceptInvitation(ctx, tx, found.ID)
		if err != nil {
			return fmt.Errorf("accept an invitation: %w", err)
		}
		if n == 0 {
			return badLink()
		}
		return s.insert(ctx, tx, actor, o, hash)
	})
}
