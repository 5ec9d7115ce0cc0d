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

// Grant is what a role says of one permission: granted, or denied.
type Grant struct {
	ID           int64
	RoleID       int64
	PermissionID int64
	Granted      bool
	CreatedAt    time.Time
	UpdatedAt    time.Time
	Code         Permission
	Module       string
	CompanyID    *int64 // of the role
}

type grantSnapshot struct {
	RoleID     int64      `json:"role" audit:"show"`
	Permission Permission `json:"permission" audit:"show"`
	Granted    bool       `json:"granted" audit:"show"`
}

var grants = audit.Of[grantSnapshot]("role_permission")

func (g Grant) snapshot() grantSnapshot { return grantSnapshot{g.RoleID, g.Code, g.Granted} }

func grantOf(row dbsqlc.GetGrantRow) Grant {
	return Grant{row.ID, row.RoleID, row.PermissionID, row.Granted, row.CreatedAt, row.UpdatedAt, Permission(row.Code), row.Module, row.CompanyID}
}

// GrantFilter says which grants a list shows; nil takes all.
type GrantFilter struct{ RoleID, PermissionID *int64 }

// Grants is a page of what the roles say that can be given in the companies.
func (s *Service) Grants(ctx context.Context, db pg.Querier, companyIDs []int64, f GrantFilter, limit, offset int32) ([]Grant, int64, error) {
	count, err := s.queries.CountGrants(ctx, db, dbsqlc.CountGrantsParams{RoleID: f.RoleID, PermissionID: f.PermissionID, CompanyIds: companyIDs})
	if err != nil {
		return nil, 0, err
	}
	rows, err := s.queries.ListGrants(ctx, db, dbsqlc.ListGrantsParams{
		RoleID: f.RoleID, PermissionID: f.PermissionID, CompanyIds: companyIDs, MaxRows: limit, SkipRows: offset,
	})
	if err != nil {
		return nil, 0, err
	}
	all := make([]Grant, len(rows))
	for i, row := range rows {
		all[i] = grantOf(dbsqlc.GetGrantRow(row))
	}
	return all, count, nil
}

// Grant is one of them.
func (s *Service) Grant(ctx context.Context, db pg.Querier, id int64) (Grant, error) {
	row, err := s.queries.GetGrant(ctx, db, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return Grant{}, ErrNoGrant()
	}
	return grantOf(row), err
}

// ErrNoGrant is the answer for a grant that is not there, or cannot be seen.
func ErrNoGrant() error {
	return fault.NotFound("The role does not speak of such a permission, or you may not see it.")
}

// GrantOf is what the role says of a permission, which is named by its id or
// (0) its code.
func (s *Service) GrantOf(ctx context.Context, db pg.Querier, roleID, permissionID int64, code Permission) (Grant, error) {
	permissionID, err := s.entryID(ctx, db, permissionID, code)
	if err != nil {
		return Grant{}, err
	}
	row, err := s.queries.FindGrant(ctx, db, dbsqlc.FindGrantParams{RoleID: roleID, PermissionID: permissionID})
	if errors.Is(err, pgx.ErrNoRows) {
		return Grant{}, ErrNoGrant()
	}
	return grantOf(dbsqlc.GetGrantRow(row)), err
}

// Saying is what a role is to say of a permission, which is named by its id or
// (0) its code.
type Saying struct {
	RoleID       int64
	PermissionID int64
	Code         Permission
	Granted      bool
	New          bool // refused where the role speaks of it already
}

// Say lets a role grant or deny a permission. To grant it, or to grant what was
// denied, the giver must hold it where the role belongs: in its company and all
// below, or for a system-wide role in the home company. Owners keep everything,
// and are denied something by owners alone.
func (s *Service) Say(ctx context.Context, tx pgx.Tx, by Giver, who audit.Who, in Saying) (Grant, error) {
	role, err := s.lockRole(ctx, tx, in.RoleID)
	if err != nil {
		return Grant{}, err
	}
	permissionID, err := s.entryID(ctx, tx, in.PermissionID, in.Code)
	if err != nil {
		return Grant{}, err
	}
	row, err := s.queries.FindGrant(ctx, tx, dbsqlc.FindGrantParams{RoleID: role.ID, PermissionID: permissionID})
	spoken := err == nil
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return Grant{}, err
	}
	before := grantOf(dbsqlc.GetGrantRow(row))
	switch {
	case spoken && in.New:
		return Grant{}, fault.Conflict("The role speaks of this permission already. Change that.").Code("grant_exists")
	case spoken && before.Granted == in.Granted:
		return before, nil
	}
	if in.Granted {
		err = s.mayWiden(ctx, tx, by, role, permissionID)
	} else {
		err = s.mayDeny(ctx, tx, by, role)
	}
	if err != nil {
		return Grant{}, err
	}
	id, err := s.queries.PutGrant(ctx, tx, dbsqlc.PutGrantParams{RoleID: role.ID, PermissionID: permissionID, Granted: in.Granted})
	if err != nil {
		return Grant{}, err
	}
	after, err := s.Grant(ctx, tx, id)
	if err != nil {
		return Grant{}, err
	}
	if spoken {
		return after, grants.Updated(ctx, tx, who, role.CompanyID, id, before.snapshot(), after.snapshot())
	}
	return after, grants.Created(ctx, tx, who, role.CompanyID, id, after.snapshot())
}

// Unsay lets a role speak of a permission no more. To take a denial away the
// giver must hold the permission, as if they granted it.
func (s *Service) Unsay(ctx context.Context, tx pgx.Tx, by Giver, who audit.Who, id int64) error {
	grant, err := s.Grant(ctx, tx, id)
	if err != nil {
		return err
	}
	role, err := s.lockRole(ctx, tx, grant.RoleID)
	if err != nil {
		return err
	}
	if grant, err = s.Grant(ctx, tx, id); err != nil { // as it is now that nobody else changes it
		return err
	}
	switch {
	case role.Owner():
		return errOwnerKeeps()
	case !grant.Granted:
		if err := s.mayWiden(ctx, tx, by, role, grant.PermissionID); err != nil {
			return err
		}
	}
	if err := s.queries.DeleteGrant(ctx, tx, id); err != nil {
		return err
	}
	return grants.Deleted(ctx, tx, who, role.CompanyID, id, grant.snapshot())
}

// place is the giver's standing where a role belongs.
func (s *Service) place(ctx context.Context, db pg.Querier, by Giver, role Role) (Standing, error) {
	if role.CompanyID == nil {
		return s.atHomeOf(ctx, db, by)
	}
	return s.standingOf(ctx, db, by, *role.CompanyID)
}

// mayWiden: whoever holds the role may come to hold the permission, in the
// role's company and everywhere below.
func (s *Service) mayWiden(ctx context.Context, db pg.Querier, by Giver, role Role, permissionID int64) error {
	standing, err := s.place(ctx, db, by, role)
	if err != nil {
		return err
	}
	if role.Owner() && standing.Owner() {
		return nil // what a team has added in the database is nobody's yet, and owners hold everything
	}
	entry, err := s.Entry(ctx, db, permissionID)
	if err != nil {
		return err
	}
	return s.mustHold(ctx, db, by, standing, ScopeSubtree, []string{string(entry.Code)})
}

// mayDeny: a denial wins over everything, so that with one in a role that
// owners hold too they could be shut out.
func (s *Service) mayDeny(ctx context.Context, db pg.Querier, by Giver, role Role) error {
	if role.Owner() {
		return errOwnerKeeps()
	}
	standing, err := s.place(ctx, db, by, role)
	if err != nil || standing.Owner() {
		return err
	}
	held, err := s.queries.OwnersHoldRole(ctx, db, role.ID)
	if err == nil && held {
		return errOwnersDeny()
	}
	return err
}

func errOwnerKeeps() error {
	return fault.Conflict("The owner role keeps every permission.").Code("owner_keeps_all")
}

func errOwnersDeny() error {
	return fault.Forbidden("An owner would be denied something by this. Only an owner of the company may do it.").Code("owners_only")
}
