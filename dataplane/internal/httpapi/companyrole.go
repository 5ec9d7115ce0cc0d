package httpapi

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/access"
	"github.com/ouvira/ouvira/shared/pg"
)

type listCompanyRolesInput struct {
	IDPath
	PageInput
}

// listCompanyRoles shows what can be given in the company: its own roles, those
// of the companies above, and the system-wide ones.
func (s *server) listCompanyRoles(ctx context.Context, db pg.Querier, c *caller, in *listCompanyRolesInput) (*listRolesOutput, error) {
	if err := c.require(ctx, db, in.ID); err != nil {
		return nil, err
	}
	limit, offset := in.window()
	all, count, err := s.Access.Roles(ctx, db, []int64{in.ID}, limit, offset)
	if err != nil {
		return nil, err
	}
	return &listRolesOutput{pageOf(s, c.scope, in.PageInput, count, each(all, roleOf))}, nil
}

type createCompanyRoleInput struct {
	IDPath
	Body struct {
		Role string `json:"role" minLength:"1" maxLength:"100" example:"accountant"`
		Desc string `json:"desc,omitempty" maxLength:"1000" example:"Keeps the books"`
	}
}

func (s *server) createCompanyRole(ctx context.Context, tx pgx.Tx, c *caller, in *createCompanyRoleInput) (*roleOutput, error) {
	if err := c.require(ctx, tx, in.ID); err != nil {
		return nil, err
	}
	return roleAnswer(s.Access.CreateRole(ctx, tx, c.who(), access.NewRole{Role: in.Body.Role, Description: in.Body.Desc, CompanyID: &in.ID}))
}
