package httpapi

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/access"
	"github.com/ouvira/ouvira/dataplane/internal/company"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// Member is a user's membership in a company.
type Member struct {
	ID               int64        `json:"id" doc:"Of the membership."`
	Company          int64        `json:"company"`
	User             MemberUser   `json:"user"`
	Roles            []MemberRole `json:"roles"`
	IsActive         bool         `json:"is_active" doc:"False: the membership is switched off, and none of its roles count."`
	IsPrimaryCompany bool         `json:"is_primary_company" doc:"The company is the user's primary one."`
	JoinedAt         time.Time    `json:"joined_at"`
	Entity
}

// MemberUser is what members of a company know of each other.
type MemberUser struct {
	ID       int64   `json:"id"`
	Username string  `json:"username"`
	FullName string  `json:"full_name"`
	Email    *string `json:"email"`
	IsActive bool    `json:"is_active" doc:"False: the account is disabled."`
}

// MemberRole is a role that a member holds.
type MemberRole struct {
	ID         int64      `json:"id" doc:"Of the role."`
	Role       string     `json:"role" example:"manager"`
	Scope      string     `json:"scope" enum:"subtree,self" doc:"Whether it counts in the companies below as well."`
	ExpiresAt  *time.Time `json:"expires_at"`
	AssignedAt time.Time  `json:"assigned_at"`
}

func memberOf(m company.Member) Member {
	out := Member{
		ID: m.MembershipID, Company: m.CompanyID, IsActive: m.IsActive, IsPrimaryCompany: m.IsPrimaryCompany, JoinedAt: m.JoinedAt.UTC(),
		User:   MemberUser{ID: m.UserID, Username: m.Username, FullName: m.FullName, Email: m.Email, IsActive: m.UserActive},
		Roles:  make([]MemberRole, len(m.Roles)),
		Entity: entityOf(m.CreatedAt, m.UpdatedAt, nil),
	}
	for i, r := range m.Roles {
		out.Roles[i] = MemberRole{ID: r.RoleID, Role: r.Role, Scope: r.Scope, ExpiresAt: utc(r.ExpiresAt), AssignedAt: r.AssignedAt.UTC()}
	}
	return out
}

type listMembersInput struct {
	IDPath
	PageInput
	IsActive string `query:"is_active" enum:"true,false" doc:"Only memberships that are on, or off."`
	Q        string `query:"q" maxLength:"100" doc:"Part of the name, the email address or the user name."`
}

type listMembersOutput struct{ Body Page[Member] }

func (s *server) listMembers(ctx context.Context, db pg.Querier, c *caller, in *listMembersInput) (*listMembersOutput, error) {
	if err := c.require(ctx, db, in.ID); err != nil {
		return nil, err
	}
	filter := company.MemberFilter{Q: in.Q}
	if in.IsActive != "" {
		active := in.IsActive == "true"
		filter.IsActive = &active
	}
	limit, offset := in.window()
	page, count, err := company.Members(ctx, db, c.who(), in.ID, filter, limit, offset)
	if err != nil {
		return nil, err
	}
	return &listMembersOutput{pageOf(s, c.scope, in.PageInput, count, each(page, memberOf))}, nil
}

// MemberPath is a member of the company of a path.
type MemberPath struct {
	IDPath
	UserID int64 `path:"user_id" minimum:"1"`
}

type patchMemberInput struct {
	MemberPath
	Body struct {
		IsActive optional[bool]    `json:"is_active,omitzero" doc:"Switches the membership off and on. Its roles stay, and do not count meanwhile."`
		Roles    optional[[]int64] `json:"roles,omitzero" maxItems:"50" doc:"The roles that the member holds from now on. New ones count for the whole subtree; those that stay keep their scope and their end. Needs the permission role.assign as well."`
	}
}

type memberOutput struct{ Body Member }

func (s *server) patchMember(ctx context.Context, tx pgx.Tx, c *caller, in *patchMemberInput) (*memberOutput, error) {
	if err := c.require(ctx, tx, in.ID); err != nil {
		return nil, err
	}
	before, err := company.LockMember(ctx, tx, in.ID, in.UserID)
	if err != nil {
		return nil, err
	}
	change := company.Change{IsActive: in.Body.IsActive.or(before.IsActive), Scope: string(access.ScopeSubtree)}
	if in.Body.Roles.Set && !in.Body.Roles.Null {
		change.Give, change.Take = difference(before, in.Body.Roles.Value)
	}
	if err := c.mayChange(ctx, tx, before, change); err != nil {
		return nil, err
	}
	after, err := company.ChangeMember(ctx, tx, c.who(), before, change)
	if err != nil {
		return nil, err
	}
	return &memberOutput{memberOf(after)}, nil
}

// difference is which roles the member gets, and which they lose.
func difference(m company.Member, wanted []int64) (give, take []int64) {
	for _, role := range m.Roles {
		if !slices.Contains(wanted, role.RoleID) {
			take = append(take, role.RoleID)
		}
	}
	for _, id := range wanted {
		held := slices.ContainsFunc(m.Roles, func(r company.MemberRole) bool { return r.RoleID == id })
		if !held && !slices.Contains(give, id) {
			give = append(give, id)
		}
	}
	return give, take
}

// mayChange tells whether the caller may give and take what a change gives and
// takes. A membership that is switched off loses its roles, and gets them back
// when it is switched on.
func (c *caller) mayChange(ctx context.Context, tx pgx.Tx, before company.Member, change company.Change) error {
	if len(change.Give)+len(change.Take) > 0 {
		if err := c.requireAlso(ctx, tx, before.CompanyID, access.RoleAssign); err != nil {
			return err
		}
	}
	for _, role := range change.Give {
		if err := c.server.Access.MayAssign(ctx, tx, c.giver(), before.CompanyID, role, access.ScopeSubtree); err != nil {
			return ofRoles(err)
		}
	}
	for _, role := range before.Roles {
		var err error
		switch taken := slices.Contains(change.Take, role.RoleID); {
		case taken, before.IsActive && !change.IsActive:
			err = c.server.Access.MayTake(ctx, tx, c.giver(), before.CompanyID, role.RoleID, access.Scope(role.Scope))
		case !before.IsActive && change.IsActive:
			err = c.server.Access.MayAssign(ctx, tx, c.giver(), before.CompanyID, role.RoleID, access.Scope(role.Scope))
		}
		if err != nil {
			return ofRoles(err)
		}
	}
	return nil
}

// ofRoles names the field as it is called in a list of roles.
func ofRoles(err error) error {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		for i := range f.Fields {
			if f.Fields[i].Field == "role" {
				f.Fields[i].Field = "roles"
			}
		}
	}
	return err
}

func (s *server) removeMember(ctx context.Context, tx pgx.Tx, c *caller, in *MemberPath) (*struct{}, error) {
	if err := c.require(ctx, tx, in.ID); err != nil {
		return nil, err
	}
	gone, err := company.LockMember(ctx, tx, in.ID, in.UserID)
	if err != nil {
		return nil, err
	}
	for _, role := range gone.Roles {
		if err := c.server.Access.MayTake(ctx, tx, c.giver(), in.ID, role.RoleID, access.Scope(role.Scope)); err != nil {
			return nil, err
		}
	}
	return nil, company.RemoveMember(ctx, tx, c.who(), gone)
}
