package access

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/access/dbsqlc"
	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// Membership is a user in a company. What they may do there is said by the
// roles that it holds.
type Membership struct {
	ID               int64
	UserID           int64
	CompanyID        int64
	IsActive         bool // if not, its roles count for nothing
	IsPrimaryCompany bool
	JoinedAt         time.Time
	CreatedAt        time.Time
	UpdatedAt        time.Time
}

// NewMembership is what a membership is made of.
type NewMembership struct {
	UserID    int64
	CompanyID int64
	IsActive  bool
	// IsPrimary makes the company the user's primary one; nil, if they have
	// none yet.
	IsPrimary *bool
	JoinedAt  *time.Time // nil: now
}

type membershipSnapshot struct {
	UserID    int64     `json:"user" audit:"show"`
	CompanyID int64     `json:"company" audit:"show"`
	IsActive  bool      `json:"is_active" audit:"show"`
	IsPrimary bool      `json:"is_primary_company" audit:"show"`
	JoinedAt  time.Time `json:"joined_at" audit:"show"`
}

var memberships = audit.Of[membershipSnapshot]("user_company")

func (m Membership) snapshot() membershipSnapshot {
	return membershipSnapshot{m.UserID, m.CompanyID, m.IsActive, m.IsPrimaryCompany, m.JoinedAt.UTC()}
}

func membershipOf(row dbsqlc.UserCompany) Membership { return Membership(row) }

// MemberFilter says which memberships, or assignments, a list shows; nil takes
// all.
type MemberFilter struct{ UserID, CompanyID, MembershipID, RoleID *int64 }

// Memberships is a page of the memberships in the companies, and how many there
// are in all. Of the filter, user and company count.
func (s *Service) Memberships(ctx context.Context, db pg.Querier, companyIDs []int64, f MemberFilter, limit, offset int32) ([]Membership, int64, error) {
	count, err := s.queries.CountMemberships(ctx, db, dbsqlc.CountMembershipsParams{CompanyIds: companyIDs, UserID: f.UserID, CompanyID: f.CompanyID})
	if err != nil {
		return nil, 0, err
	}
	rows, err := s.queries.ListMemberships(ctx, db, dbsqlc.ListMembershipsParams{
		CompanyIds: companyIDs, UserID: f.UserID, CompanyID: f.CompanyID, MaxRows: limit, SkipRows: offset,
	})
	if err != nil {
		return nil, 0, err
	}
	all := make([]Membership, len(rows))
	for i, row := range rows {
		all[i] = membershipOf(row)
	}
	return all, count, nil
}

// ErrNoMembership is the answer for a membership that is not there, or cannot
// be seen.
func ErrNoMembership() error {
	return fault.NotFound("There is no such membership, or you may not see it.")
}

// Membership is one of them.
func (s *Service) Membership(ctx context.Context, db pg.Querier, id int64) (Membership, error) {
	row, err := s.queries.GetMembership(ctx, db, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return Membership{}, ErrNoMembership()
	}
	return membershipOf(row), err
}

// KnowsUser refuses a user who is not there, or whom the giver has no reason to
// know: no member of a company in which the giver sees the members, and the
// giver does not see the users of the workspace. Others are invited.
func (s *Service) KnowsUser(ctx context.Context, db pg.Querier, by Giver, userID int64) error {
	home, err := s.atHomeOf(ctx, db, by)
	if err != nil {
		return err
	}
	companies, err := s.Companies(ctx, db, by.Subject, MemberRead)
	if err != nil {
		return err
	}
	known, err := s.queries.UserIsKnownIn(ctx, db, dbsqlc.UserIsKnownInParams{
		UserID: userID, Anywhere: userID == by.UserID || by.Allows(home, UserRead), CompanyIds: companies,
	})
	if err == nil && !known {
		const unknown = "There is no such user, or you do not know them. Invite them instead."
		return fault.Invalid(unknown).OnField("user", "unknown", unknown)
	}
	return err
}

// CreateMembership makes a user a member who holds no role yet.
func (s *Service) CreateMembership(ctx context.Context, tx pgx.Tx, by Giver, who audit.Who, in NewMembership) (Membership, error) {
	if err := s.KnowsUser(ctx, tx, by, in.UserID); err != nil {
		return Membership{}, err
	}
	primary, err := s.primary(ctx, tx, by, in.UserID, 0, in.IsPrimary)
	if err != nil {
		return Membership{}, err
	}
	row, err := s.queries.CreateMembership(ctx, tx, dbsqlc.CreateMembershipParams{
		UserID: in.UserID, CompanyID: in.CompanyID, IsActive: in.IsActive, IsPrimaryCompany: primary, JoinedAt: in.JoinedAt,
	})
	if err != nil {
		return Membership{}, err
	}
	made := membershipOf(row)
	return made, memberships.Created(ctx, tx, who, &made.CompanyID, made.ID, made.snapshot())
}

// primary decides whether a company becomes a user's primary one, and takes
// that from the one before. A choice that the user has made is theirs: only they
// change it, and those who may change users.
func (s *Service) primary(ctx context.Context, tx pgx.Tx, by Giver, userID, membershipID int64, wanted *bool) (bool, error) {
	if err := s.queries.LockUser(ctx, tx, userID); err != nil {
		return false, err
	}
	other, err := s.queries.HasOtherPrimary(ctx, tx, dbsqlc.HasOtherPrimaryParams{UserID: userID, ExceptID: membershipID})
	switch {
	case err != nil:
		return false, err
	case wanted == nil:
		return !other, nil
	case !*wanted || !other:
		return *wanted, nil
	}
	home, err := s.atHomeOf(ctx, tx, by)
	if err != nil {
		return false, err
	}
	if userID != by.UserID && !by.Allows(home, UserEdit) {
		return false, fault.Conflict("The user has another primary company, which only they change.").Code("primary_taken")
	}
	return true, s.queries.LeavePrimary(ctx, tx, dbsqlc.LeavePrimaryParams{UserID: userID, ExceptID: membershipID})
}

// MembershipChange says what becomes of a membership; nil leaves it.
type MembershipChange struct {
	IsActive  *bool
	IsPrimary *bool
	JoinedAt  *time.Time
}

// ChangeMembership changes a membership. One that is made active again gives
// back its roles, and one that is made inactive takes them away: the giver must
// be allowed to do that with each.
func (s *Service) ChangeMembership(ctx context.Context, tx pgx.Tx, by Giver, who audit.Who, id int64, in MembershipChange) (Membership, error) {
	before, err := s.lockMembership(ctx, tx, id)
	if err != nil {
		return Membership{}, err
	}
	after := before
	if in.IsActive != nil && *in.IsActive != before.IsActive {
		after.IsActive = *in.IsActive
		move := s.MayTake
		if after.IsActive {
			move = s.MayAssign
		}
		owner, err := s.eachRole(ctx, tx, by, before, move)
		if err != nil {
			return Membership{}, err
		}
		if err := recordOwner(ctx, tx, who, before, before.IsActive && owner, after.IsActive && owner); err != nil {
			return Membership{}, err
		}
	}
	if in.IsPrimary != nil && *in.IsPrimary != before.IsPrimaryCompany {
		if after.IsPrimaryCompany, err = s.primary(ctx, tx, by, before.UserID, id, in.IsPrimary); err != nil {
			return Membership{}, err
		}
	}
	if in.JoinedAt != nil {
		after.JoinedAt = *in.JoinedAt
	}
	row, err := s.queries.UpdateMembership(ctx, tx, dbsqlc.UpdateMembershipParams{
		ID: id, IsActive: after.IsActive, IsPrimaryCompany: after.IsPrimaryCompany, JoinedAt: after.JoinedAt,
	})
	if err != nil {
		return Membership{}, err
	}
	after = membershipOf(row)
	return after, memberships.Updated(ctx, tx, who, &after.CompanyID, id, before.snapshot(), after.snapshot())
}

// DeleteMembership ends a membership with all its roles.
func (s *Service) DeleteMembership(ctx context.Context, tx pgx.Tx, by Giver, who audit.Who, id int64) error {
	m, err := s.lockMembership(ctx, tx, id)
	if err != nil {
		return err
	}
	owner, err := s.eachRole(ctx, tx, by, m, s.MayTake)
	if err != nil {
		return err
	}
	if err := s.queries.DeleteMembership(ctx, tx, id); err != nil {
		return err
	}
	if err := recordOwner(ctx, tx, who, m, m.IsActive && owner, false); err != nil {
		return err
	}
	return memberships.Deleted(ctx, tx, who, &m.CompanyID, id, m.snapshot())
}

// eachRole asks for every role of a membership, and tells whether the owner role
// is among them.
func (s *Service) eachRole(ctx context.Context, tx pgx.Tx, by Giver, m Membership, may func(context.Context, pgx.Tx, Giver, int64, int64, Scope) error) (owner bool, err error) {
	held, err := s.queries.RolesOfMembership(ctx, tx, m.ID)
	if err != nil {
		return false, err
	}
	for _, a := range held {
		owner = owner || a.Owner
		if err := may(ctx, tx, by, m.CompanyID, a.RoleID, Scope(a.Scope)); err != nil {
			return false, err
		}
	}
	return owner, nil
}

// Owners come and go in the security log.
const (
	actionOwnerAdded   = "owner_added"
	actionOwnerRemoved = "owner_removed"
)

func recordOwner(ctx context.Context, tx pgx.Tx, who audit.Who, m Membership, was, is bool) error {
	if was == is {
		return nil
	}
	action := actionOwnerAdded
	if was {
		action = actionOwnerRemoved
	}
	return audit.Security(ctx, tx, who, action, map[string]any{"company": m.CompanyID, "member": m.UserID})
}

func (s *Service) lockMembership(ctx context.Context, tx pgx.Tx, id int64) (Membership, error) {
	row, err := s.queries.LockMembership(ctx, tx, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return Membership{}, ErrNoMembership()
	}
	return membershipOf(row), err
}
