package access

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/access/dbsqlc"
	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// Role is a bundle of grants and denials. One of a company can be given there
// and below; one of no company, everywhere.
type Role struct {
	ID           int64
	Role         string
	Description  string
	CompanyID    *int64 // nil: system-wide
	IsSystemRole bool   // seeded: it keeps its name and is not deleted
	CreatedAt    time.Time
	UpdatedAt    time.Time
}

// NewRole is what a role is made of.
type NewRole struct {
	Role        string
	Description string
	CompanyID   *int64
}

type roleSnapshot struct {
	Role        string `json:"role" audit:"show"`
	Description string `json:"desc" audit:"show"`
	CompanyID   *int64 `json:"company" audit:"show"`
}

var roles = audit.Of[roleSnapshot]("role")

func (r Role) snapshot() roleSnapshot { return roleSnapshot{r.Role, r.Description, r.CompanyID} }

// Owner tells whether it is the owner role.
func (r Role) Owner() bool { return r.IsSystemRole && r.CompanyID == nil && r.Role == "owner" }

func roleOf(row dbsqlc.Role) Role {
	return Role{row.ID, row.Role, row.Description, row.CompanyID, row.IsSystemRole, row.CreatedAt, row.UpdatedAt}
}

// ErrNoRole is the answer for a role that is not there, or cannot be seen.
func ErrNoRole() error { return fault.NotFound("There is no such role, or you may not see it.") }

func noRole(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return ErrNoRole()
	}
	return err
}

// Roles is a page of the roles that can be given in the companies (system-wide
// ones, theirs, and those of companies above), and how many there are in all.
func (s *Service) Roles(ctx context.Context, db pg.Querier, companyIDs []int64, limit, offset int32) ([]Role, int64, error) {
	count, err := s.queries.CountRoles(ctx, db, companyIDs)
	if err != nil {
		return nil, 0, err
	}
	rows, err := s.queries.ListRoles(ctx, db, dbsqlc.ListRolesParams{CompanyIds: companyIDs, MaxRows: limit, SkipRows: offset})
	if err != nil {
		return nil, 0, err
	}
	all := make([]Role, len(rows))
	for i, row := range rows {
		all[i] = roleOf(row)
	}
	return all, count, nil
}

// Role is one role.
func (s *Service) Role(ctx context.Context, db pg.Querier, id int64) (Role, error) {
	row, err := s.queries.GetRole(ctx, db, id)
	return roleOf(row), noRole(err)
}

// RoleReaches tells whether a company's role can be given in one of the
// companies.
func (s *Service) RoleReaches(ctx context.Context, db pg.Querier, id int64, companyIDs []int64) (bool, error) {
	return s.queries.RoleReaches(ctx, db, dbsqlc.RoleReachesParams{RoleID: id, CompanyIds: companyIDs})
}

// CreateRole makes a role that says nothing yet.
func (s *Service) CreateRole(ctx context.Context, tx pgx.Tx, by audit.Who, in NewRole) (Role, error) {
	name, err := roleName(in.Role)
	if err != nil {
		return Role{}, err
	}
	row, err := s.queries.CreateRole(ctx, tx, dbsqlc.CreateRoleParams{Role: name, Description: in.Description, CompanyID: in.CompanyID})
	if err != nil {
		return Role{}, err
	}
	made := roleOf(row)
	return made, roles.Created(ctx, tx, by, made.CompanyID, made.ID, made.snapshot())
}

func roleName(name string) (string, error) {
	if name = strings.TrimSpace(name); name == "" {
		const empty = "This must not be empty."
		return "", fault.Invalid("The role needs a name.").OnField("role", "required", empty)
	}
	return name, nil
}

// ChangeRole changes the name and the description of a role; change gets the
// role, which is locked, and says what it becomes. A role stays in its company;
// seeded ones stay as they are.
func (s *Service) ChangeRole(ctx context.Context, tx pgx.Tx, by audit.Who, id int64, change func(Role) (NewRole, error)) (Role, error) {
	before, err := s.lockRole(ctx, tx, id)
	if err != nil {
		return Role{}, err
	}
	in, err := change(before)
	if err != nil {
		return Role{}, err
	}
	name, err := roleName(in.Role)
	if err != nil {
		return Role{}, err
	}
	if (in.CompanyID == nil) != (before.CompanyID == nil) || in.CompanyID != nil && *in.CompanyID != *before.CompanyID {
		const stays = "A role stays in its company. Make another one there."
		return Role{}, fault.Invalid(stays).OnField("company", "immutable", stays)
	}
	if name == before.Role && in.Description == before.Description {
		return before, nil
	}
	if before.IsSystemRole {
		return Role{}, errSystemRole()
	}
	row, err := s.queries.UpdateRole(ctx, tx, dbsqlc.UpdateRoleParams{ID: id, Role: name, Description: in.Description})
	if err != nil {
		return Role{}, err
	}
	after := roleOf(row)
	return after, roles.Updated(ctx, tx, by, after.CompanyID, id, before.snapshot(), after.snapshot())
}

// DeleteRole removes a role that nobody holds or is invited to.
func (s *Service) DeleteRole(ctx context.Context, tx pgx.Tx, by audit.Who, id int64) error {
	role, err := s.lockRole(ctx, tx, id)
	if err != nil {
		return err
	}
	if role.IsSystemRole {
		return errSystemRole()
	}
	inUse, err := s.queries.RoleInUse(ctx, tx, id)
	if err != nil {
		return err
	}
	if inUse {
		return fault.Conflict("Somebody holds this role, or is invited to it. Take it away from its members and revoke the invitations first.").Code("role_in_use")
	}
	if err := s.queries.DeleteRole(ctx, tx, id); err != nil {
		return err
	}
	return roles.Deleted(ctx, tx, by, role.CompanyID, id, role.snapshot())
}

func (s *Service) lockRole(ctx context.Context, tx pgx.Tx, id int64) (Role, error) {
	row, err := s.queries.LockRole(ctx, tx, id)
	return roleOf(row), noRole(err)
}

func errSystemRole() error {
	return fault.Conflict("This role is the platform's: it keeps its name and its description and is not deleted.").Code("system_role")
}
