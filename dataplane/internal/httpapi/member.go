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
	m, err := company.LockMember(ctx, tx, in.ID, in.UserID)
	if err != nil {
		return nil, err
	}
	if in.Body.Roles.Set && !in.Body.Roles.Null {
		if err := c.setRoles(ctx, tx, m, in.Body.Roles.Value); err != nil {
			return nil, ofRoles(err)
		}
	}
	if active := in.Body.IsActive; active.Set && !active.Null {
		_, err := s.Access.ChangeMembership(ctx, tx, c.giver(), c.who(), m.MembershipID, access.MembershipChange{IsActive: &active.Value})
		if err != nil {
			return nil, ofRoles(err)
		}
	}
	if m, err = company.LockMember(ctx, tx, in.ID, in.UserID); err != nil {
		return nil, err
	}
	return &memberOutput{memberOf(m)}, nil
}

// setRoles gives a member what is wanted and not held, and takes the rest.
func (c *caller) setRoles(ctx context.Context, tx pgx.Tx, m company.Member, wanted []int64) error {
	var take, keep []int64 // what is taken by its assignment, what is kept by its role
	for _, role := range m.Roles {
		switch {
		case !slices.Contains(wanted, role.RoleID):
			take = append(take, role.AssignmentID)
		case !role.Expired:
			keep = append(keep, role.RoleID)
		}
	}
	give := slices.DeleteFunc(slices.Compact(slices.Sorted(slices.Values(wanted))), func(id int64) bool { return slices.Contains(keep, id) })
	if len(give)+len(take) == 0 {
		return nil
	}
	if err := c.requireAlso(ctx, tx, m.CompanyID, access.RoleAssign); err != nil {
		return err
	}
	unassign := func(id int64) error { return c.server.Access.Unassign(ctx, tx, c.giver(), c.who(), id) }
	for _, role := range m.Roles {
		if role.Expired && slices.Contains(give, role.RoleID) { // it makes room for the new one
			if err := unassign(role.AssignmentID); err != nil {
				return err
			}
		}
	}
	for _, role := range give { // before others are taken: the company keeps an owner throughout
		assignment := access.NewAssignment{MembershipID: m.MembershipID, RoleID: role, Scope: access.ScopeSubtree}
		if _, err := c.server.Access.Assign(ctx, tx, c.giver(), c.who(), assignment); err != nil {
			return err
		}
	}
	for _, id := range take {
		if err := unassign(id); err != nil {
			return err
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
	return nil, c.endMembership(ctx, tx, gone.MembershipID, gone.UserID)
}

// endMembership ends a membership with its roles. If it was the user's primary
// company, another takes its place.
func (c *caller) endMembership(ctx context.Context, tx pgx.Tx, id, userID int64) error {
	if err := c.server.Access.DeleteMembership(ctx, tx, c.giver(), c.who(), id); err != nil {
		return err
	}
	return company.ChoosePrimary(ctx, tx, userID)
}
