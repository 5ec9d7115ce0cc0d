package company

import (
	"context"
	"errors"
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
	Expired      bool
}

// members records the looks at who belongs to a company; memberships themselves
// are recorded where they are changed (package access).
var members = audit.Of[struct{}]("member")

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
			ExpiresAt: row.ExpiresAt, AssignedAt: row.AssignedAt, Expired: row.Expired,
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

// ChoosePrimary gives a user who has lost their primary company the one that
// they have been in for longest.
func ChoosePrimary(ctx context.Context, tx pgx.Tx, userID int64) error {
	return queries.ChoosePrimary(ctx, tx, []int64{userID})
}
