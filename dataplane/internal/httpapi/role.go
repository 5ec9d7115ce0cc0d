package httpapi

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/access"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// Role is a role.
type Role struct {
	ID           int64  `json:"id"`
	Role         string `json:"role" example:"accountant"`
	Desc         string `json:"desc" example:"Keeps the books"`
	Company      *int64 `json:"company" doc:"null: system-wide."`
	IsSystemRole bool   `json:"is_system_role" doc:"The platform's own: it keeps its name and is not deleted."`
	Entity
}

func roleOf(r access.Role) Role {
	return Role{r.ID, r.Role, r.Description, r.CompanyID, r.IsSystemRole, entityOf(r.CreatedAt, r.UpdatedAt, nil)}
}

type roleOutput struct {
	ETagged

	Body Role
}

func roleAnswer(r access.Role, err error) (*roleOutput, error) {
	if err != nil {
		return nil, err
	}
	return &roleOutput{etagged(r.UpdatedAt), roleOf(r)}, nil
}

// seeRole tells whether the caller may see a role: one that can be given where
// they hold the declared permission.
func (c *caller) seeRole(ctx context.Context, db pg.Querier, r access.Role) error {
	companies, err := c.companies(ctx, db)
	if err != nil {
		return err
	}
	if r.CompanyID == nil {
		if len(companies) == 0 {
			return forbidden(c.op.permission)
		}
		return nil
	}
	reaches, err := c.server.Access.RoleReaches(ctx, db, r.ID, companies)
	if err != nil || reaches {
		return err
	}
	return unseen(c.require(ctx, db, *r.CompanyID), access.ErrNoRole())
}

// ownRole tells whether the caller may change a role: one of a company there, a
// system-wide one in the home company.
func (c *caller) ownRole(ctx context.Context, db pg.Querier, r access.Role) error {
	if r.CompanyID == nil {
		return c.requireHome(ctx, db)
	}
	return unseen(c.require(ctx, db, *r.CompanyID), access.ErrNoRole())
}

type listRolesInput struct {
	PageInput
	Company int64 `query:"company" minimum:"1" doc:"Those that can be given in this company."`
}

type listRolesOutput struct{ Body Page[Role] }

func (s *server) listRoles(ctx context.Context, db pg.Querier, c *caller, in *listRolesInput) (*listRolesOutput, error) {
	companies, err := c.anywhere(ctx, db)
	if err != nil {
		return nil, err
	}
	if in.Company != 0 {
		if err := c.require(ctx, db, in.Company); err != nil {
			return nil, err
		}
		companies = []int64{in.Company}
	}
	limit, offset := in.window()
	all, count, err := s.Access.Roles(ctx, db, companies, limit, offset)
	if err != nil {
		return nil, err
	}
	return &listRolesOutput{pageOf(s, c.scope, in.PageInput, count, each(all, roleOf))}, nil
}

func (s *server) getRole(ctx context.Context, db pg.Querier, c *caller, in *IDPath) (*roleOutput, error) {
	role, err := s.Access.Role(ctx, db, in.ID)
	if err == nil {
		err = c.seeRole(ctx, db, role)
	}
	return roleAnswer(role, err)
}

// RoleFields is what a role is made of.
type RoleFields struct {
	Role         string `json:"role" minLength:"1" maxLength:"100" example:"accountant"`
	Desc         string `json:"desc,omitempty" maxLength:"1000" example:"Keeps the books"`
	Company      *int64 `json:"company,omitempty" minimum:"1" doc:"null: system-wide, which takes the permission in the workspace's first company. It is not changed later."`
	IsSystemRole bool   `json:"is_system_role,omitempty" doc:"Marks the platform's own roles; true is refused."`
}

func (f RoleFields) role() (access.NewRole, error) {
	return access.NewRole{Role: f.Role, Description: f.Desc, CompanyID: f.Company}, notSystem(f.IsSystemRole)
}

func notSystem(claimed bool) error {
	if !claimed {
		return nil
	}
	const platforms = "Only the platform makes such roles. Leave it out."
	return fault.Invalid(platforms).OnField("is_system_role", "read_only", platforms)
}

type createRoleInput struct{ Body RoleFields }

func (s *server) createRole(ctx context.Context, tx pgx.Tx, c *caller, in *createRoleInput) (*roleOutput, error) {
	if err := c.ownRole(ctx, tx, access.Role{CompanyID: in.Body.Company}); err != nil {
		return nil, unseen(err, errNoCompany())
	}
	role, err := in.Body.role()
	if err != nil {
		return nil, err
	}
	return roleAnswer(s.Access.CreateRole(ctx, tx, c.who(), role))
}

type replaceRoleInput struct {
	IDPath
	IfMatch
	Body RoleFields
}

func (s *server) replaceRole(ctx context.Context, tx pgx.Tx, c *caller, in *replaceRoleInput) (*roleOutput, error) {
	return s.changeRole(ctx, tx, c, in.ID, in.IfMatch, func(r access.Role) (access.NewRole, error) {
		if r.IsSystemRole {
			in.Body.IsSystemRole = false // true is what it is, and no claim
		}
		return in.Body.role()
	})
}

type patchRoleInput struct {
	IDPath
	IfMatch
	Body struct {
		Role         optional[string] `json:"role,omitzero" minLength:"1" maxLength:"100" example:"accountant"`
		Desc         optional[string] `json:"desc,omitzero" maxLength:"1000" example:"Keeps the books"`
		Company      optional[int64]  `json:"company,omitzero" minimum:"1" doc:"It is not changed; another one is refused."`
		IsSystemRole optional[bool]   `json:"is_system_role,omitzero" doc:"It is not changed; another value is refused."`
	}
}

func (s *server) patchRole(ctx context.Context, tx pgx.Tx, c *caller, in *patchRoleInput) (*roleOutput, error) {
	return s.changeRole(ctx, tx, c, in.ID, in.IfMatch, func(r access.Role) (access.NewRole, error) {
		return access.NewRole{
			Role: in.Body.Role.or(r.Role), Description: in.Body.Desc.or(r.Description), CompanyID: in.Body.Company.pointer(r.CompanyID),
		}, notSystem(in.Body.IsSystemRole.or(r.IsSystemRole) && !r.IsSystemRole)
	})
}

func (s *server) changeRole(ctx context.Context, tx pgx.Tx, c *caller, id int64, match IfMatch, change func(access.Role) (access.NewRole, error)) (*roleOutput, error) {
	role, err := s.Access.Role(ctx, tx, id)
	if err != nil {
		return nil, err
	}
	if err := c.ownRole(ctx, tx, role); err != nil {
		return nil, err
	}
	return roleAnswer(s.Access.ChangeRole(ctx, tx, c.who(), id, func(locked access.Role) (access.NewRole, error) {
		if err := match.check(locked.UpdatedAt); err != nil {
			return access.NewRole{}, err
		}
		return change(locked)
	}))
}

func (s *server) deleteRole(ctx context.Context, tx pgx.Tx, c *caller, in *IDPath) (*struct{}, error) {
	role, err := s.Access.Role(ctx, tx, in.ID)
	if err != nil {
		return nil, err
	}
	if err := c.ownRole(ctx, tx, role); err != nil {
		return nil, err
	}
	return nil, s.Access.DeleteRole(ctx, tx, c.who(), in.ID)
}
