package access

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/access/dbsqlc"
	"github.com/ouvira/ouvira/dataplane/internal/audit"
)

// Join makes a user a member of a company with a role that the giver gives, as
// far as they may: the giver need not know the user, who has come by
// themselves. A membership that was switched off comes back with that role
// alone: what it held before is nobody's gift any more.
func (s *Service) Join(ctx context.Context, tx pgx.Tx, by Giver, who audit.Who, userID, companyID, roleID int64, scope Scope) error {
	if err := s.mayGiveTo(ctx, tx, by, Membership{UserID: userID, CompanyID: companyID}, roleID, scope, nil); err != nil {
		return err
	}
	m, err := s.enter(ctx, tx, who, userID, companyID)
	if err != nil {
		return err
	}
	held, err := s.queries.RolesOfMembership(ctx, tx, m.ID)
	if err != nil {
		return err
	}
	for _, a := range held {
		if a.RoleID == roleID {
			return s.widen(ctx, tx, who, a.ID, scope)
		}
	}
	_, err = s.Assign(ctx, tx, by, who, NewAssignment{MembershipID: m.ID, RoleID: roleID, Scope: scope})
	return err
}

// enter finds the membership, makes it, or switches it on without its roles.
func (s *Service) enter(ctx context.Context, tx pgx.Tx, who audit.Who, userID, companyID int64) (Membership, error) {
	if err := s.queries.LockUser(ctx, tx, userID); err != nil {
		return Membership{}, err
	}
	row, err := s.queries.LockMembershipOf(ctx, tx, dbsqlc.LockMembershipOfParams{UserID: userID, CompanyID: companyID})
	if errors.Is(err, pgx.ErrNoRows) {
		other, err := s.queries.HasOtherPrimary(ctx, tx, dbsqlc.HasOtherPrimaryParams{UserID: userID})
		if err != nil {
			return Membership{}, err
		}
		row, err := s.queries.CreateMembership(ctx, tx, dbsqlc.CreateMembershipParams{
			UserID: userID, CompanyID: companyID, IsActive: true, IsPrimaryCompany: !other,
		})
		if err != nil {
			return Membership{}, err
		}
		made := membershipOf(row)
		return made, memberships.Created(ctx, tx, who, &companyID, made.ID, made.snapshot())
	}
	if err != nil {
		return Membership{}, err
	}
	before := membershipOf(row)
	if before.IsActive {
		return before, nil
	}
	held, err := s.queries.RolesOfMembership(ctx, tx, before.ID)
	if err != nil {
		return Membership{}, err
	}
	for _, role := range held {
		a, err := s.Assignment(ctx, tx, role.ID)
		if err != nil {
			return Membership{}, err
		}
		if err := s.unassign(ctx, tx, who, a); err != nil {
			return Membership{}, err
		}
	}
	row, err = s.queries.UpdateMembership(ctx, tx, dbsqlc.UpdateMembershipParams{
		ID: before.ID, IsActive: true, IsPrimaryCompany: before.IsPrimaryCompany, JoinedAt: before.JoinedAt,
	})
	if err != nil {
		return Membership{}, err
	}
	after := membershipOf(row)
	return after, memberships.Updated(ctx, tx, who, &companyID, after.ID, before.snapshot(), after.snapshot())
}

// widen gives a role for good that was held already, and to the subtree where
// either says so.
func (s *Service) widen(ctx context.Context, tx pgx.Tx, who audit.Who, id int64, scope Scope) error {
	before, err := s.lockAssignment(ctx, tx, id)
	if err != nil {
		return err
	}
	if before.Scope == ScopeSubtree {
		scope = ScopeSubtree
	}
	if err := s.queries.UpdateAssignment(ctx, tx, dbsqlc.UpdateAssignmentParams{ID: id, Scope: string(scope)}); err != nil {
		return err
	}
	after, err := s.Assignment(ctx, tx, id)
	if err != nil {
		return err
	}
	return assignments.Updated(ctx, tx, who, &after.Membership.CompanyID, id, before.snapshot(), after.snapshot())
}
