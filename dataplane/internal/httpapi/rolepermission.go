package httpapi

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/access"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// RolePermission is what a role says of a permission.
type RolePermission struct {
	ID         int64  `json:"id"`
	Role       int64  `json:"role"`
	Permission int64  `json:"permission"`
	Code       string `json:"code" secret:"false" example:"company.read"`
	Module     string `json:"module" example:"company"`
	Granted    bool   `json:"granted" doc:"false denies it, and wins over every grant at any distance."`
	Entity
}

func rolePermissionOf(g access.Grant) RolePermission {
	return RolePermission{g.ID, g.RoleID, g.PermissionID, string(g.Code), g.Module, g.Granted, entityOf(g.CreatedAt, g.UpdatedAt, nil)}
}

type rolePermissionOutput struct{ Body RolePermission }

func rolePermissionAnswer(g access.Grant, err error) (*rolePermissionOutput, error) {
	if err != nil {
		return nil, err
	}
	return &rolePermissionOutput{rolePermissionOf(g)}, nil
}

type rolePermissionsOutput struct{ Body Page[RolePermission] }

func (s *server) rolePermissions(ctx context.Context, db pg.Querier, c *caller, companies []int64, f access.GrantFilter, page PageInput) (*rolePermissionsOutput, error) {
	limit, offset := page.window()
	all, count, err := s.Access.Grants(ctx, db, companies, f, limit, offset)
	if err != nil {
		return nil, err
	}
	return &rolePermissionsOutput{pageOf(s, c.scope, page, count, each(all, rolePermissionOf))}, nil
}

type listRolePermissionsInput struct {
	PageInput
	Role       int64 `query:"role" minimum:"1"`
	Permission int64 `query:"permission" minimum:"1"`
}

func (s *server) listRolePermissions(ctx context.Context, db pg.Querier, c *caller, in *listRolePermissionsInput) (*rolePermissionsOutput, error) {
	companies, err := c.anywhere(ctx, db)
	if err != nil {
		return nil, err
	}
	return s.rolePermissions(ctx, db, c, companies, access.GrantFilter{RoleID: given(in.Role), PermissionID: given(in.Permission)}, in.PageInput)
}

type permissionsOfRoleInput struct {
	IDPath
	PageInput
}

func (s *server) permissionsOfRole(ctx context.Context, db pg.Querier, c *caller, in *permissionsOfRoleInput) (*rolePermissionsOutput, error) {
	role, err := s.Access.Role(ctx, db, in.ID)
	if err != nil {
		return nil, err
	}
	if err := c.seeRole(ctx, db, role); err != nil {
		return nil, err
	}
	var where []int64
	if role.CompanyID != nil {
		where = []int64{*role.CompanyID}
	}
	return s.rolePermissions(ctx, db, c, where, access.GrantFilter{RoleID: &in.ID}, in.PageInput)
}

func (s *server) getRolePermission(ctx context.Context, db pg.Querier, c *caller, in *IDPath) (*rolePermissionOutput, error) {
	grant, err := s.Access.Grant(ctx, db, in.ID)
	if err != nil {
		return nil, err
	}
	return rolePermissionAnswer(grant, unseen(c.seeRole(ctx, db, access.Role{ID: grant.RoleID, CompanyID: grant.CompanyID}), access.ErrNoGrant()))
}

// orTrue is what was sent, or true.
func orTrue(sent *bool) bool { return sent == nil || *sent }

type createRolePermissionInput struct {
	Body struct {
		Role       int64 `json:"role" minimum:"1"`
		Permission int64 `json:"permission" minimum:"1"`
		Granted    *bool `json:"granted,omitempty" doc:"false denies it. Absent: true." example:"true"`
	}
}

func (s *server) createRolePermission(ctx context.Context, tx pgx.Tx, c *caller, in *createRolePermissionInput) (*rolePermissionOutput, error) {
	return rolePermissionAnswer(s.say(ctx, tx, c, access.Saying{RoleID: in.Body.Role, PermissionID: in.Body.Permission, Granted: orTrue(in.Body.Granted), New: true}))
}

type sayOfRoleInput struct {
	IDPath
	Body struct {
		Permission int64  `json:"permission,omitempty" minimum:"1" doc:"The permission's id; or send its code."`
		Code       string `json:"code,omitempty" maxLength:"100" doc:"The permission's code; or send its id." example:"user.read"`
		Granted    *bool  `json:"granted,omitempty" doc:"false denies it. Absent: true." example:"true"`
	}
}

// sayOfRole sets what the role says; where it speaks of the permission already,
// it is changed.
func (s *server) sayOfRole(ctx context.Context, tx pgx.Tx, c *caller, in *sayOfRoleInput) (*rolePermissionOutput, error) {
	return rolePermissionAnswer(s.say(ctx, tx, c, access.Saying{
		RoleID: in.ID, PermissionID: in.Body.Permission, Code: access.Permission(in.Body.Code), Granted: orTrue(in.Body.Granted),
	}))
}

func (s *server) say(ctx context.Context, tx pgx.Tx, c *caller, saying access.Saying) (access.Grant, error) {
	role, err := s.Access.Role(ctx, tx, saying.RoleID)
	if err != nil {
		return access.Grant{}, err
	}
	if err := c.ownRole(ctx, tx, role); err != nil {
		return access.Grant{}, err
	}
	if saying.PermissionID == 0 && saying.Code == "" {
		const which = "Send the permission's id or its code."
		return access.Grant{}, fault.Invalid(which).OnField("permission", "required", which)
	}
	return s.Access.Say(ctx, tx, c.giver(), c.who(), saying)
}

type replaceRolePermissionInput struct {
	IDPath
	Body struct {
		Role       int64 `json:"role,omitempty" minimum:"1" doc:"It is not changed; another one is refused."`
		Permission int64 `json:"permission,omitempty" minimum:"1" doc:"It is not changed; another one is refused."`
		Granted    bool  `json:"granted"`
	}
}

func (s *server) replaceRolePermission(ctx context.Context, tx pgx.Tx, c *caller, in *replaceRolePermissionInput) (*rolePermissionOutput, error) {
	grant, err := s.ownGrant(ctx, tx, c, in.ID)
	if err != nil {
		return nil, err
	}
	if err := fixed("role", in.Body.Role, grant.RoleID); err != nil {
		return nil, err
	}
	if err := fixed("permission", in.Body.Permission, grant.PermissionID); err != nil {
		return nil, err
	}
	return rolePermissionAnswer(s.Access.Say(ctx, tx, c.giver(), c.who(), access.Saying{
		RoleID: grant.RoleID, PermissionID: grant.PermissionID, Granted: in.Body.Granted,
	}))
}

// fixed refuses another value for what is not changed; 0 is none.
func fixed(field string, sent, is int64) error {
	if sent == 0 || sent == is {
		return nil
	}
	const immutable = "This is not changed. Delete it and make another one."
	return fault.Invalid(immutable).OnField(field, "immutable", immutable)
}

func (s *server) deleteRolePermission(ctx context.Context, tx pgx.Tx, c *caller, in *IDPath) (*struct{}, error) {
	if _, err := s.ownGrant(ctx, tx, c, in.ID); err != nil {
		return nil, err
	}
	return nil, s.Access.Unsay(ctx, tx, c.giver(), c.who(), in.ID)
}

// ownGrant is a grant of a role that the caller may change.
func (s *server) ownGrant(ctx context.Context, tx pgx.Tx, c *caller, id int64) (access.Grant, error) {
	grant, err := s.Access.Grant(ctx, tx, id)
	if err != nil {
		return access.Grant{}, err
	}
	return grant, unseen(c.ownRole(ctx, tx, access.Role{ID: grant.RoleID, CompanyID: grant.CompanyID}), access.ErrNoGrant())
}

type unsayOfRoleInput struct {
	IDPath
	Permission string `query:"permission" required:"true" minLength:"1" maxLength:"100" doc:"The permission's id or its code." example:"company.read"`
}

func (s *server) unsayOfRole(ctx context.Context, tx pgx.Tx, c *caller, in *unsayOfRoleInput) (*struct{}, error) {
	role, err := s.Access.Role(ctx, tx, in.ID)
	if err != nil {
		return nil, err
	}
	if err := c.ownRole(ctx, tx, role); err != nil {
		return nil, err
	}
	id, code := permissionNamed(in.Permission)
	grant, err := s.Access.GrantOf(ctx, tx, role.ID, id, code)
	if err != nil {
		return nil, err
	}
	return nil, s.Access.Unsay(ctx, tx, c.giver(), c.who(), grant.ID)
}
