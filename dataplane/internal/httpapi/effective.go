package httpapi

import (
	"context"
	"time"

	"github.com/ouvira/ouvira/dataplane/internal/access"
	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/shared/pg"
)

// AboutInput says of whom, and in which company.
type AboutInput struct {
	User    int64 `query:"user" minimum:"1" doc:"Absent: oneself. Others take the permission user.read in the company."`
	Company int64 `query:"company" required:"true" minimum:"1"`
}

type looked struct {
	UserID int64 `json:"user" audit:"show"`
}

var looks = audit.Of[looked]("effective_permissions")

// about is the subject of a question. Anyone may ask about themselves. What
// others hold is the map that an attacker would draw first, and more than that
// they are members: it takes user.read in the company, which employees lack,
// and is recorded.
func (c *caller) about(ctx context.Context, db pg.Querier, in AboutInput) (access.Subject, error) {
	who := c.subject()
	if in.User == 0 || in.User == c.ID {
		standing, err := c.standing(ctx, db, in.Company)
		if err == nil && !standing.Visible {
			err = errNoCompany()
		}
		return who, err
	}
	if err := c.requireAlso(ctx, db, in.Company, access.UserRead); err != nil {
		return who, err
	}
	who.UserID = in.User
	return who, looks.Looked(ctx, db, c.who(), &in.Company, &in.User)
}

// HeldRole is a role that somebody holds in a company, seen from that or from
// one below.
type HeldRole struct {
	Assignment int64      `json:"assignment" doc:"The id of the user-company-role."`
	Role       int64      `json:"role"`
	RoleName   string     `json:"role_name" example:"employee"`
	Company    int64      `json:"company" doc:"Of the membership that holds it."`
	Distance   int        `json:"distance" doc:"How many companies up that is; 0 is the company itself."`
	Scope      string     `json:"scope" enum:"self,subtree"`
	ExpiresAt  *time.Time `json:"expires_at"`
}

func heldRoleOf(a access.Assignment) HeldRole {
	return HeldRole{a.ID, a.RoleID, a.Role, a.CompanyID, a.Distance, string(a.Scope), utc(a.ExpiresAt)}
}

// EffectivePermissions is what somebody may do in a company.
type EffectivePermissions struct {
	User        int64      `json:"user"`
	Company     int64      `json:"company"`
	Active      bool       `json:"company_active" doc:"If not, the company or one above it is deactivated and nothing is changed in it."`
	Permissions []string   `json:"permissions" doc:"Codes of what is allowed: granted, and denied by nothing." example:"[\"company.read\", \"member.read\"]"`
	Denied      []string   `json:"denied" doc:"Codes of what a role denies." example:"[\"company.edit\"]"`
	Roles       []HeldRole `json:"roles"`
}

type effectiveOutput struct{ Body EffectivePermissions }

func (s *server) effective(ctx context.Context, db pg.Querier, c *caller, in *AboutInput) (*effectiveOutput, error) {
	who, err := c.about(ctx, db, *in)
	if err != nil {
		return nil, err
	}
	e, err := s.Access.Effective(ctx, db, who, in.Company)
	if err != nil {
		return nil, err
	}
	text := func(p access.Permission) string { return string(p) }
	return &effectiveOutput{EffectivePermissions{
		User: who.UserID, Company: in.Company, Active: e.Active, Permissions: each(e.Allowed(), text), Denied: each(e.Denied(), text),
		Roles: each(e.Roles, heldRoleOf),
	}}, nil
}

type explainInput struct {
	AboutInput
	Permission string `query:"permission" required:"true" minLength:"1" maxLength:"100" example:"company.edit"`
}

// DecidingRole is a role that speaks of the permission.
type DecidingRole struct {
	HeldRole
	Granted bool `json:"granted"`
}

// PermissionExplained is an answer, and what has decided it.
type PermissionExplained struct {
	User       int64          `json:"user"`
	Company    int64          `json:"company"`
	Permission string         `json:"permission" example:"company.edit"`
	Allowed    bool           `json:"allowed"`
	Reason     string         `json:"reason" enum:"granted,denied,not_granted,not_visible" doc:"A denial wins over every grant. not_visible: no membership reaches the company."`
	Rows       []DecidingRole `json:"rows" doc:"The roles that speak of the permission; denials first, then the nearest."`
}

type explainOutput struct{ Body PermissionExplained }

func (s *server) explain(ctx context.Context, db pg.Querier, c *caller, in *explainInput) (*explainOutput, error) {
	who, err := c.about(ctx, db, in.AboutInput)
	if err != nil {
		return nil, err
	}
	e, err := s.Access.Explain(ctx, db, who, in.Company, access.Permission(in.Permission))
	if err != nil {
		return nil, err
	}
	return &explainOutput{PermissionExplained{
		User: who.UserID, Company: in.Company, Permission: in.Permission, Allowed: e.Allowed, Reason: e.Reason,
		Rows: each(e.Rows, func(d access.Deciding) DecidingRole { return DecidingRole{heldRoleOf(d.Assignment), d.Granted} }),
	}}, nil
}
