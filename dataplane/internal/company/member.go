package company

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/dataplane/internal/company/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// Member is a user's membership in a company.
type Member struct {
	MembershipID     int64
	CompanyID        int64
	UserID           int64
	Username         string
	FullName         string
	Email            *string
	UserActive       bool // the account is not disabled
	IsActive         bool // the membership is not
	IsPrimaryCompany bool // of the user
	JoinedAt         time.Time
	CreatedAt        time.Time
	UpdatedAt        time.Time
	Roles            []MemberRole
}

// MemberRole is a role that a member holds.
type MemberRole struct {
	AssignmentID int64
	RoleID       int64
	Role         string
	Scope        string     // self or subtree
	ExpiresAt    *time.Time // nil: never
	AssignedAt   time.Time
	Owner        bool // it is the owner role
}

// owns tells whether the member is one of those who own the company.
func (m Member) owns() bool {
	return m.IsActive && slices.ContainsFunc(m.Roles, func(r MemberRole) bool { return r.Owner })
}

func (m Member) roleIDs() []int64 {
	ids := make([]int64, len(m.Roles))
	for i, r := range m.Roles {
		ids[i] = r.RoleID
	}
	return ids
}

// memberRecord is what the audit keeps of a membership.
type memberRecord struct {
	User     int64   `audit:"show" json:"user"`
	IsActive bool    `audit:"show" json:"is_active"`
	Roles    []int64 `audit:"show" json:"roles"`
}

var members = audit.Of[memberRecord]("member")

func (m Member) record() memberRecord { return memberRecord{m.UserID, m.IsActive, m.roleIDs()} }

// Owners come and go in the security log.
const (
	actionOwnerAdded   = "owner_added"
	actionOwnerRemoved = "owner_removed"
)

// MemberFilter narrows a list of members. The zero value is all.
type MemberFilter struct {
	IsActive *bool
	Q        string // part of the name, the address or the user name
}

// Members is a page of those who belong to a company, and how many there are.
// The look is recorded.
func Members(ctx context.Context, db pg.Querier, who audit.Who, companyID int64, f MemberFilter, limit, offset int32) ([]Member, int64, error) {
	count, err := queries.CountMembers(ctx, db, dbsqlc.CountMembersParams{CompanyID: companyID, IsActive: f.IsActive, Q: f.Q})
	if err != nil {
		return nil, 0, err
	}
	rows, err := queries.ListMembers(ctx, db, dbsqlc.ListMembersParams{CompanyID: companyID, IsActive: f.IsActive, Q: f.Q, MaxRows: limit, SkipRows: offset})
	if err != nil {
		return nil, 0, err
	}
	page := make([]Member, len(rows))
	for i, row := range rows {
		page[i] = memberOf(row)
	}
	if err := addRoles(ctx, db, page); err != nil {
		return nil, 0, err
	}
	return page, count, members.Looked(ctx, db, who, &companyID, nil)
}

func memberOf(row dbsqlc.ListMembersRow) Member {
	return Member{
		MembershipID: row.MembershipID, CompanyID: row.CompanyID, UserID: row.UserID, Username: row.Username, FullName: row.FullName,
		Email: row.Email, UserActive: row.UserActive, IsActive: row.IsActive, IsPrimaryCompany: row.IsPrimaryCompany,
		JoinedAt: row.JoinedAt, CreatedAt: row.CreatedAt, UpdatedAt: row.UpdatedAt, Roles: []MemberRole{},
	}
}

func addRoles(ctx context.Context, db pg.Querier, of []Member) error {
	place := make(map[int64]*Member, len(of))
	ids := make([]int64, len(of))
	for i := range of {
		ids[i] = of[i].MembershipID
		place[ids[i]] = &of[i]
	}
	rows, err := queries.MemberRoles(ctx, db, ids)
	if err != nil {
		return err
	}
	for _, row := range rows {
		m := place[row.UserCompanyID]
		m.Roles = append(m.Roles, MemberRole{
			AssignmentID: row.AssignmentID, RoleID: row.RoleID, Role: row.Role, Scope: row.Scope,
			ExpiresAt: row.ExpiresAt, AssignedAt: row.AssignedAt, Owner: row.Owner,
		})
	}
	return nil
}

// LockMember reads a membership that is about to change. Somebody who is no
// member is a fault of kind NotFound.
func LockMember(ctx context.Context, tx pgx.Tx, companyID, userID int64) (Member, error) {
	row, err := queries.LockMember(ctx, tx, dbsqlc.LockMemberParams{CompanyID: companyID, UserID: userID})
	if errors.Is(err, pgx.ErrNoRows) {
		return Member{}, fault.NotFound("There is no such member of this company.")
	}
	if err != nil {
		return Member{}, err
	}
	one := []Member{memberOf(dbsqlc.ListMembersRow(row))}
	err = addRoles(ctx, tx, one)
	return one[0], err
}

// Change is what becomes of a membership.
type Change struct {
	IsActive bool
	Give     []int64 // roles, without an end
	Scope    string  // of those that are given
	Take     []int64 // roles
}

// ChangeMember stores a change of a membership since LockMember.
func ChangeMember(ctx context.Context, tx pgx.Tx, who audit.Who, before Member, change Change) (Member, error) {
	for _, role := range change.Give { // before others are taken: an owner may be on both sides
		if err := queries.GiveRole(ctx, tx, dbsqlc.GiveRoleParams{MembershipID: before.MembershipID, RoleID: role, Scope: change.Scope}); err != nil {
			return Member{}, err
		}
	}
	if len(change.Take) > 0 {
		if err := queries.TakeRoles(ctx, tx, dbsqlc.TakeRolesParams{MembershipID: before.MembershipID, RoleIds: change.Take}); err != nil {
			return Member{}, err
		}
	}
	if change.IsActive != before.IsActive {
		if err := queries.SetMemberActive(ctx, tx, dbsqlc.SetMemberActiveParams{ID: before.MembershipID, IsActive: change.IsActive}); err != nil {
			return Member{}, err
		}
	}
	after, err := LockMember(ctx, tx, before.CompanyID, before.UserID)
	if err != nil {
		return Member{}, err
	}
	if err := recordOwner(ctx, tx, who, after, before.owns(), after.owns()); err != nil {
		return Member{}, err
	}
	return after, members.Updated(ctx, tx, who, &after.CompanyID, after.MembershipID, before.record(), after.record())
}

// RemoveMember ends a membership, with all roles in it. If it was the user's
// primary company, the one that they have been in for longest takes its place.
func RemoveMember(ctx context.Context, tx pgx.Tx, who audit.Who, gone Member) error {
	if err := queries.RemoveMember(ctx, tx, gone.MembershipID); err != nil {
		return err
	}
	if gone.IsPrimaryCompany {
		if err := queries.ChoosePrimary(ctx, tx, []int64{gone.UserID}); err != nil {
			return err
		}
	}
	if err := recordOwner(ctx, tx, who, gone, gone.owns(), false); err != nil {
		return err
	}
	return members.Deleted(ctx, tx, who, &gone.CompanyID, gone.MembershipID, gone.record())
}

// Join makes a user a member of a company with a role, which somebody was
// entitled to give. A membership that had been switched off comes back with
// that role alone: what it held before is no longer anybody's gift.
func Join(ctx context.Context, tx pgx.Tx, who audit.Who, userID, companyID, roleID int64, scope string) (Member, error) {
	if err := queries.LockUser(ctx, tx, userID); err != nil {
		return Member{}, err
	}
	before, err := LockMember(ctx, tx, companyID, userID)
	if fault.Is(err, fault.KindNotFound) {
		id, err := queries.AddMember(ctx, tx, dbsqlc.AddMemberParams{UserID: userID, CompanyID: companyID})
		if err != nil {
			return Member{}, err
		}
		if err := queries.GiveRole(ctx, tx, dbsqlc.GiveRoleParams{MembershipID: id, RoleID: roleID, Scope: scope}); err != nil {
			return Member{}, err
		}
		made, err := LockMember(ctx, tx, companyID, userID)
		if err != nil {
			return Member{}, err
		}
		if err := recordOwner(ctx, tx, who, made, false, made.owns()); err != nil {
			return Member{}, err
		}
		return made, members.Created(ctx, tx, who, &companyID, id, made.record())
	}
	if err != nil {
		return Member{}, err
	}
	if !before.IsActive {
		if err := queries.TakeAllRoles(ctx, tx, before.MembershipID); err != nil {
			return Member{}, err
		}
	}
	return ChangeMember(ctx, tx, who, before, Change{IsActive: true, Give: []int64{roleID}, Scope: scope})
}

func recordOwner(ctx context.Context, tx pgx.Tx, who audit.Who, m Member, was, is bool) error {
	if was == is {
		return nil
	}
	action := actionOwnerAdded
	if was {
		action = actionOwnerRemoved
	}
	return audit.Security(ctx, tx, who, action, map[string]any{"company": m.CompanyID, "member": m.UserID})
}
