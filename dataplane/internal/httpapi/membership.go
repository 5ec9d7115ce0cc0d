package httpapi

import (
	"context"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/access"
	"github.com/ouvira/ouvira/shared/pg"
)

// permissionNamed reads a permission's id or, where it is no number, its code.
func permissionNamed(s string) (int64, access.Permission) {
	if id, err := strconv.ParseInt(s, 10, 64); err == nil && id > 0 {
		return id, ""
	}
	return 0, access.Permission(s)
}

// UserCompany is a user in a company.
type UserCompany struct {
	ID               int64     `json:"id"`
	User             int64     `json:"user"`
	Company          int64     `json:"company"`
	IsActive         bool      `json:"is_active" doc:"If not, its roles count for nothing."`
	IsPrimaryCompany bool      `json:"is_primary_company"`
	JoinedAt         time.Time `json:"joined_at"`
	Entity
}

func userCompanyOf(m access.Membership) UserCompany {
	return UserCompany{m.ID, m.UserID, m.CompanyID, m.IsActive, m.IsPrimaryCompany, m.JoinedAt.UTC(), entityOf(m.CreatedAt, m.UpdatedAt, nil)}
}

type userCompanyOutput struct{ Body UserCompany }

func userCompanyAnswer(m access.Membership, err error) (*userCompanyOutput, error) {
	if err != nil {
		return nil, err
	}
	return &userCompanyOutput{userCompanyOf(m)}, nil
}

type listUserCompaniesInput struct {
	PageInput
	User    int64 `query:"user" minimum:"1"`
	Company int64 `query:"company" minimum:"1"`
}

type listUserCompaniesOutput struct{ Body Page[UserCompany] }

func (s *server) listUserCompanies(ctx context.Context, db pg.Querier, c *caller, in *listUserCompaniesInput) (*listUserCompaniesOutput, error) {
	companies, err := c.in(ctx, db, in.Company)
	if err != nil {
		return nil, err
	}
	limit, offset := in.window()
	all, count, err := s.Access.Memberships(ctx, db, companies, access.MemberFilter{UserID: given(in.User)}, limit, offset)
	if err != nil {
		return nil, err
	}
	return &listUserCompaniesOutput{pageOf(s, c.scope, in.PageInput, count, each(all, userCompanyOf))}, nil
}

// membership is one in a company where the caller holds the declared
// permission.
func (s *server) membership(ctx context.Context, db pg.Querier, c *caller, id int64) (access.Membership, error) {
	m, err := s.Access.Membership(ctx, db, id)
	if err != nil {
		return access.Membership{}, err
	}
	return m, unseen(c.require(ctx, db, m.CompanyID), access.ErrNoMembership())
}

func (s *server) getUserCompany(ctx context.Context, db pg.Querier, c *caller, in *IDPath) (*userCompanyOutput, error) {
	return userCompanyAnswer(s.membership(ctx, db, c, in.ID))
}

type createUserCompanyInput struct {
	Body struct {
		User             int64      `json:"user" minimum:"1"`
		Company          int64      `json:"company" minimum:"1"`
		IsActive         *bool      `json:"is_active,omitempty" doc:"Absent: true." example:"true"`
		IsPrimaryCompany *bool      `json:"is_primary_company,omitempty" doc:"Absent: if the user has no primary company yet."`
		JoinedAt         *time.Time `json:"joined_at,omitempty" doc:"Absent: now."`
	}
}

func (s *server) createUserCompany(ctx context.Context, tx pgx.Tx, c *caller, in *createUserCompanyInput) (*userCompanyOutput, error) {
	if err := c.require(ctx, tx, in.Body.Company); err != nil {
		return nil, err
	}
	return userCompanyAnswer(s.Access.CreateMembership(ctx, tx, c.giver(), c.who(), access.NewMembership{
		UserID: in.Body.User, CompanyID: in.Body.Company, IsActive: orTrue(in.Body.IsActive), IsPrimary: in.Body.IsPrimaryCompany, JoinedAt: in.Body.JoinedAt,
	}))
}

type replaceUserCompanyInput struct {
	IDPath
	Body struct {
		User             int64      `json:"user,omitempty" minimum:"1" doc:"It is not changed; another one is refused."`
		Company          int64      `json:"company,omitempty" minimum:"1" doc:"It is not changed; another one is refused."`
		IsActive         *bool      `json:"is_active,omitempty"`
		IsPrimaryCompany *bool      `json:"is_primary_company,omitempty"`
		JoinedAt         *time.Time `json:"joined_at,omitempty"`
	}
}

func (s *server) replaceUserCompany(ctx context.Context, tx pgx.Tx, c *caller, in *replaceUserCompanyInput) (*userCompanyOutput, error) {
	m, err := s.membership(ctx, tx, c, in.ID)
	if err != nil {
		return nil, err
	}
	if err := fixed("user", in.Body.User, m.UserID); err != nil {
		return nil, err
	}
	if err := fixed("company", in.Body.Company, m.CompanyID); err != nil {
		return nil, err
	}
	return userCompanyAnswer(s.Access.ChangeMembership(ctx, tx, c.giver(), c.who(), m.ID, access.MembershipChange{
		IsActive: in.Body.IsActive, IsPrimary: in.Body.IsPrimaryCompany, JoinedAt: in.Body.JoinedAt,
	}))
}

func (s *server) deleteUserCompany(ctx context.Context, tx pgx.Tx, c *caller, in *IDPath) (*struct{}, error) {
	m, err := s.membership(ctx, tx, c, in.ID)
	if err != nil {
		return nil, err
	}
	return nil, c.endMembership(ctx, tx, m.ID, m.UserID)
}
