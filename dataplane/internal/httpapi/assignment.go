package httpapi

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/access"
	"github.com/ouvira/ouvira/shared/pg"
)

// UserCompanyRole is a role that a membership holds.
type UserCompanyRole struct {
	ID          int64       `json:"id"`
	UserCompany UserCompany `json:"user_company"`
	Role        Role        `json:"role"`
	Scope       string      `json:"scope" enum:"self,subtree" doc:"The company alone, or all below it too."`
	ExpiresAt   *time.Time  `json:"expires_at" doc:"null: never."`
	AssignedAt  time.Time   `json:"assigned_at"`
	Entity
}

func userCompanyRoleOf(a access.Assigned) UserCompanyRole {
	return UserCompanyRole{
		a.ID, userCompanyOf(a.Membership), roleOf(a.Role), string(a.Scope), utc(a.ExpiresAt), a.AssignedAt.UTC(),
		entityOf(a.CreatedAt, a.UpdatedAt, nil),
	}
}

type userCompanyRoleOutput struct{ Body UserCompanyRole }

func userCompanyRoleAnswer(a access.Assigned, err error) (*userCompanyRoleOutput, error) {
	if err != nil {
		return nil, err
	}
	return &userCompanyRoleOutput{userCompanyRoleOf(a)}, nil
}

type listUserCompanyRolesInput struct {
	PageInput
	User        int64 `query:"user" minimum:"1"`
	Company     int64 `query:"company" minimum:"1"`
	UserCompany int64 `query:"user_company" minimum:"1"`
	Role        int64 `query:"role" minimum:"1"`
}

type listUserCompanyRolesOutput struct{ Body Page[UserCompanyRole] }

func (s *server) listUserCompanyRoles(ctx context.Context, db pg.Querier, c *caller, in *listUserCompanyRolesInput) (*listUserCompanyRolesOutput, error) {
	companies, err := c.in(ctx, db, in.Company)
	if err != nil {
		return nil, err
	}
	limit, offset := in.window()
	all, count, err := s.Access.Assignments(ctx, db, companies, access.MemberFilter{
		UserID: given(in.User), MembershipID: given(in.UserCompany), RoleID: given(in.Role),
	}, limit, offset)
	if err != nil {
		return nil, err
	}
	return &listUserCompanyRolesOutput{pageOf(s, c.scope, in.PageInput, count, each(all, userCompanyRoleOf))}, nil
}

// assignment is one in a company where the caller holds the declared
// permission.
func (s *server) assignment(ctx context.Context, db pg.Querier, c *caller, id int64) (access.Assigned, error) {
	a, err := s.Access.Assignment(ctx, db, id)
	if err != nil {
		return access.Assigned{}, err
	}
	return a, unseen(c.require(ctx, db, a.Membership.CompanyID), access.ErrNoAssignment())
}

func (s *server) getUserCompanyRole(ctx context.Context, db pg.Querier, c *caller, in *IDPath) (*userCompanyRoleOutput, error) {
	return userCompanyRoleAnswer(s.assignment(ctx, db, c, in.ID))
}

type createUserCompanyRoleInput struct {
	Body struct {
		UserCompany int64      `json:"user_company" minimum:"1"`
		Role        int64      `json:"role" minimum:"1"`
		Scope       string     `json:"scope,omitempty" enum:"self,subtree" default:"subtree" doc:"The company alone, or all below it too."`
		ExpiresAt   *time.Time `json:"expires_at,omitempty" doc:"null: never. The owner role does not expire."`
	}
}

func (s *server) createUserCompanyRole(ctx context.Context, tx pgx.Tx, c *caller, in *createUserCompanyRoleInput) (*userCompanyRoleOutput, error) {
	m, err := s.membership(ctx, tx, c, in.Body.UserCompany)
	if err != nil {
		return nil, err
	}
	return userCompanyRoleAnswer(s.Access.Assign(ctx, tx, c.giver(), c.who(), access.NewAssignment{
		MembershipID: m.ID, RoleID: in.Body.Role, Scope: access.Scope(in.Body.Scope), ExpiresAt: in.Body.ExpiresAt,
	}))
}

type replaceUserCompanyRoleInput struct {
	IDPath
	Body struct {
		UserCompany int64               `json:"user_company,omitempty" minimum:"1" doc:"It is not changed; another one is refused."`
		Role        int64               `json:"role,omitempty" minimum:"1" doc:"It is not changed; another one is refused."`
		Scope       string              `json:"scope,omitempty" enum:"self,subtree" doc:"Absent: it stays."`
		ExpiresAt   optional[time.Time] `json:"expires_at,omitzero" doc:"Absent: it stays; null: never."`
	}
}

func (s *server) replaceUserCompanyRole(ctx context.Context, tx pgx.Tx, c *caller, in *replaceUserCompanyRoleInput) (*userCompanyRoleOutput, error) {
	a, err := s.assignment(ctx, tx, c, in.ID)
	if err != nil {
		return nil, err
	}
	if err := fixed("user_company", in.Body.UserCompany, a.Membership.ID); err != nil {
		return nil, err
	}
	if err := fixed("role", in.Body.Role, a.Role.ID); err != nil {
		return nil, err
	}
	scope := a.Scope
	if in.Body.Scope != "" {
		scope = access.Scope(in.Body.Scope)
	}
	return userCompanyRoleAnswer(s.Access.ChangeAssignment(ctx, tx, c.giver(), c.who(), a.ID, scope, in.Body.ExpiresAt.pointer(a.ExpiresAt)))
}

func (s *server) deleteUserCompanyRole(ctx context.Context, tx pgx.Tx, c *caller, in *IDPath) (*struct{}, error) {
	a, err := s.assignment(ctx, tx, c, in.ID)
	if err != nil {
		return nil, err
	}
	return nil, s.Access.Unassign(ctx, tx, c.giver(), c.who(), a.ID)
}
