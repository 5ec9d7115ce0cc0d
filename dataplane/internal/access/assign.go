package access

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/access/dbsqlc"
	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/dataplane/internal/notification"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// Assigned is a role that a membership holds.
type Assigned struct {
	ID         int64
	Membership Membership
	Role       Role
	Scope      Scope
	ExpiresAt  *time.Time // nil: never
	AssignedAt time.Time
	CreatedAt  time.Time
	UpdatedAt  time.Time
}

type assignedSnapshot struct {
	MembershipID int64      `json:"user_company" audit:"show"`
	UserID       int64      `json:"user" audit:"show"`
	RoleID       int64      `json:"role" audit:"show"`
	RoleName     string     `json:"role_name" audit:"show"`
	Scope        Scope      `json:"scope" audit:"show"`
	ExpiresAt    *time.Time `json:"expires_at" audit:"show"`
}

var assignments = audit.Of[assignedSnapshot]("user_company_role")

func (a Assigned) snapshot() assignedSnapshot {
	return assignedSnapshot{a.Membership.ID, a.Membership.UserID, a.Role.ID, a.Role.Role, a.Scope, a.ExpiresAt}
}

func assignedOf(row dbsqlc.GetAssignmentRow) Assigned {
	return Assigned{
		ID: row.ID, Membership: membershipOf(row.UserCompany), Role: roleOf(row.Role), Scope: Scope(row.Scope),
		ExpiresAt: row.ExpiresAt, AssignedAt: row.AssignedAt, CreatedAt: row.CreatedAt, UpdatedAt: row.UpdatedAt,
	}
}

// ErrNoAssignment is the answer for an assignment that is not there, or cannot
// be seen.
func ErrNoAssignment() error {
	return fault.NotFound("There is no such assignment, or you may not see it.")
}

// Assignments is a page of the roles held in the companies, and how many there
// are in all.
func (s *Service) Assignments(ctx context.Context, db pg.Querier, companyIDs []int64, f MemberFilter, limit, offset int32) ([]Assigned, int64, error) {
	count, err := s.queries.CountAssignments(ctx, db, dbsqlc.CountAssignmentsParams{
		CompanyIds: companyIDs, UserID: f.UserID, CompanyID: f.CompanyID, MembershipID: f.MembershipID, RoleID: f.RoleID,
	})
	if err != nil {
		return nil, 0, err
	}
	rows, err := s.queries.ListAssignments(ctx, db, dbsqlc.ListAssignmentsParams{
		CompanyIds: companyIDs, UserID: f.UserID, CompanyID: f.CompanyID, MembershipID: f.MembershipID, RoleID: f.RoleID,
		MaxRows: limit, SkipRows: offset,
	})
	if err != nil {
		return nil, 0, err
	}
	all := make([]Assigned, len(rows))
	for i, row := range rows {
		all[i] = assignedOf(dbsqlc.GetAssignmentRow(row))
	}
	return all, count, nil
}

// Assignment is one of them.
func (s *Service) Assignment(ctx context.Context, db pg.Querier, id int64) (Assigned, error) {
	row, err := s.queries.GetAssignment(ctx, db, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return Assigned{}, ErrNoAssignment()
	}
	return assignedOf(row), err
}

// NewAssignment is what an assignment is made of.
type NewAssignment struct {
	MembershipID int64
	RoleID       int64
	Scope        Scope
	ExpiresAt    *time.Time
}

// Assign gives a membership a role, as far as MayAssign allows it.
func (s *Service) Assign(ctx context.Context, tx pgx.Tx, by Giver, who audit.Who, in NewAssignment) (Assigned, error) {
	m, err := s.lockMembership(ctx, tx, in.MembershipID)
	if err != nil {
		return Assigned{}, err
	}
	if err := s.mayGiveTo(ctx, tx, by, m, in.RoleID, in.Scope, in.ExpiresAt); err != nil {
		return Assigned{}, err
	}
	id, err := s.queries.CreateAssignment(ctx, tx, dbsqlc.CreateAssignmentParams{
		MembershipID: m.ID, RoleID: in.RoleID, Scope: string(in.Scope), ExpiresAt: in.ExpiresAt,
	})
	if err != nil {
		return Assigned{}, err
	}
	made, err := s.Assignment(ctx, tx, id)
	if err != nil {
		return Assigned{}, err
	}
	if err := recordOwner(ctx, tx, who, m, false, m.IsActive && made.Role.Owner()); err != nil {
		return Assigned{}, err
	}
	if err := notification.RoleGiven(ctx, tx, who, m.UserID, m.CompanyID, made.Role.Role); err != nil {
		return Assigned{}, err
	}
	return made, assignments.Created(ctx, tx, who, &m.CompanyID, id, made.snapshot())
}

// mayGiveTo is MayAssign, and what depends on who gets the role and until when.
func (s *Service) mayGiveTo(ctx context.Context, tx pgx.Tx, by Giver, m Membership, roleID int64, scope Scope, expires *time.Time) error {
	if err := s.MayAssign(ctx, tx, by, m.CompanyID, roleID, scope); err != nil {
		return err
	}
	standing, role, err := s.toGive(ctx, tx, by, m.CompanyID, roleID)
	if err != nil {
		return err
	}
	if expires != nil {
		if role.Owner {
			const never = "The owner role does not expire: a company keeps its owners until somebody takes the role away."
			return fault.Invalid(never).OnField("expires_at", "not_for_owners", never)
		}
		future, err := s.queries.IsFuture(ctx, tx, *expires)
		if err != nil {
			return err
		}
		if !future {
			return fault.Invalid("The assignment would be over already.").OnField("expires_at", "past", "This must lie in the future.")
		}
	}
	if len(role.Denied) > 0 && !standing.Owner() {
		owner, err := s.queries.IsOwnerAround(ctx, tx, dbsqlc.IsOwnerAroundParams{UserID: m.UserID, CompanyID: m.CompanyID})
		if err != nil {
			return err
		}
		if owner {
			return errOwnersDeny()
		}
	}
	return nil
}

// ChangeAssignment changes how far a role reaches and until when. The giver
// must be allowed to take it as it is, and to give it as it becomes.
func (s *Service) ChangeAssignment(ctx context.Context, tx pgx.Tx, by Giver, who audit.Who, id int64, scope Scope, expires *time.Time) (Assigned, error) {
	before, err := s.lockAssignment(ctx, tx, id)
	if err != nil {
		return Assigned{}, err
	}
	if err := s.MayTake(ctx, tx, by, before.Membership.CompanyID, before.Role.ID, before.Scope); err != nil {
		return Assigned{}, err
	}
	if err := s.mayGiveTo(ctx, tx, by, before.Membership, before.Role.ID, scope, expires); err != nil {
		return Assigned{}, err
	}
	if err := s.queries.UpdateAssignment(ctx, tx, dbsqlc.UpdateAssignmentParams{ID: id, Scope: string(scope), ExpiresAt: expires}); err != nil {
		return Assigned{}, err
	}
	after, err := s.Assignment(ctx, tx, id)
	if err != nil {
		return Assigned{}, err
	}
	return after, assignments.Updated(ctx, tx, who, &after.Membership.CompanyID, id, before.snapshot(), after.snapshot())
}

// Unassign takes a role away, as far as MayTake allows it.
func (s *Service) Unassign(ctx context.Context, tx pgx.Tx, by Giver, who audit.Who, id int64) error {
	a, err := s.lockAssignment(ctx, tx, id)
	if err != nil {
		return err
	}
	if err := s.MayTake(ctx, tx, by, a.Membership.CompanyID, a.Role.ID, a.Scope); err != nil {
		return err
	}
	return s.unassign(ctx, tx, who, a)
}

func (s *Service) unassign(ctx context.Context, tx pgx.Tx, who audit.Who, a Assigned) error {
	if err := s.queries.DeleteAssignment(ctx, tx, a.ID); err != nil {
		return err
	}
	if err := recordOwner(ctx, tx, who, a.Membership, a.Membership.IsActive && a.Role.Owner(), false); err != nil {
		return err
	}
	if err := notification.RoleTaken(ctx, tx, who, a.Membership.UserID, a.Membership.CompanyID, a.Role.Role); err != nil {
		return err
	}
	return assignments.Deleted(ctx, tx, who, &a.Membership.CompanyID, a.ID, a.snapshot())
}

func (s *Service) lockAssignment(ctx context.Context, tx pgx.Tx, id int64) (Assigned, error) {
	if err := s.queries.LockAssignment(ctx, tx, id); err != nil {
		return Assigned{}, err
	}
	return s.Assignment(ctx, tx, id)
}
