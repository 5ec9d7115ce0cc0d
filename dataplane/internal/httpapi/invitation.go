package httpapi

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/access"
	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/dataplane/internal/invitation"
	"github.com/ouvira/ouvira/shared/pg"
)

// Invitation asks somebody into a company.
type Invitation struct {
	ID         int64      `json:"id"`
	Email      string     `json:"email"`
	Company    int64      `json:"company"`
	Role       int64      `json:"role"`
	RoleName   string     `json:"role_name" example:"employee"`
	Scope      string     `json:"scope" enum:"subtree,self"`
	Language   string     `json:"language" doc:"Of the mail; ISO 639-1." example:"en"`
	Status     string     `json:"status" enum:"pending,accepted,revoked,expired"`
	ExpiresAt  time.Time  `json:"expires_at"`
	InvitedBy  *int64     `json:"invited_by" doc:"Who answers for it: made it, or sent it again."`
	AcceptedBy *int64     `json:"accepted_by"`
	AcceptedAt *time.Time `json:"accepted_at"`
	Entity
}

// NewInvitation is an invitation with its token.
type NewInvitation struct {
	Invitation
	Token string `json:"token" secret:"true" doc:"Shown this once. It is in the mailed link too."`
}

func invitationOf(i invitation.Invitation) Invitation {
	return Invitation{
		ID: i.ID, Email: i.Email, Company: i.CompanyID, Role: i.RoleID, RoleName: i.Role, Scope: i.Scope, Language: i.Language, Status: i.Status,
		ExpiresAt: i.ExpiresAt.UTC(), InvitedBy: i.InvitedBy, AcceptedBy: i.AcceptedBy, AcceptedAt: utc(i.AcceptedAt),
		Entity: entityOf(i.CreatedAt, i.UpdatedAt, i.DeletedAt),
	}
}

func (s *server) invitations() *invitation.Service { return &invitation.Service{Access: s.Access} }

// invitationPath is the page of the platform for tenants that have none.
const invitationPath = "/invitations/accept"

func (c *caller) inviter() (invitation.Inviter, invitation.Post) {
	r := c.tenant.Route
	return invitation.Inviter{Giver: c.giver(), Who: c.who()}, invitation.Post{
		Outbox: c.tenant.Outbox,
		Link: func(token string) (string, error) {
			return c.server.Tokens.Link(r, r.Settings.InviteURL, invitationPath, token)
		},
	}
}

// InvitationFields are what an invitation is made of, beside its company.
type InvitationFields struct {
	Email     string     `json:"email" minLength:"3" maxLength:"254"`
	Role      int64      `json:"role" minimum:"1" doc:"A role of the company, of one above it, or a system-wide one. You must hold what it grants."`
	Scope     string     `json:"scope,omitempty" enum:"subtree,self" default:"subtree" doc:"Whether the role will count in the companies below as well."`
	Language  string     `json:"language,omitempty" maxLength:"2" doc:"Of the mail, ISO 639-1. The company's, unless you know better." example:"de"`
	ExpiresAt *time.Time `json:"expires_at,omitempty" doc:"Within 30 days; 7 days from now unless said."`
}

type inviteToCompanyInput struct {
	IDPath
	Body InvitationFields
}

type createInvitationInput struct {
	Body struct {
		Company int64 `json:"company" minimum:"1"`
		InvitationFields
	}
}

type newInvitationOutput struct{ Body NewInvitation }

func (s *server) inviteToCompany(ctx context.Context, tx pgx.Tx, c *caller, in *inviteToCompanyInput) (*newInvitationOutput, error) {
	return s.invite(ctx, tx, c, in.ID, in.Body)
}

func (s *server) createInvitation(ctx context.Context, tx pgx.Tx, c *caller, in *createInvitationInput) (*newInvitationOutput, error) {
	return s.invite(ctx, tx, c, in.Body.Company, in.Body.InvitationFields)
}

func (s *server) invite(ctx context.Context, tx pgx.Tx, c *caller, companyID int64, in InvitationFields) (*newInvitationOutput, error) {
	if err := c.require(ctx, tx, companyID); err != nil {
		return nil, err
	}
	by, post := c.inviter()
	made, token, err := s.invitations().Create(ctx, tx, by, post, invitation.New{
		CompanyID: companyID, Email: in.Email, RoleID: in.Role, Scope: access.Scope(in.Scope), Language: in.Language, ExpiresAt: in.ExpiresAt,
	})
	if err != nil {
		return nil, err
	}
	return &newInvitationOutput{NewInvitation{invitationOf(made), token}}, nil
}

// InvitationStatus narrows a list of invitations.
type InvitationStatus struct {
	Status string `query:"status" enum:"pending,accepted,revoked,expired"`
}

type listCompanyInvitationsInput struct {
	IDPath
	PageInput
	InvitationStatus
}

type listInvitationsInput struct {
	PageInput
	InvitationStatus
	Company int64 `query:"company" minimum:"1"`
}

type listInvitationsOutput struct{ Body Page[Invitation] }

func (s *server) listCompanyInvitations(ctx context.Context, db pg.Querier, c *caller, in *listCompanyInvitationsInput) (*listInvitationsOutput, error) {
	if err := c.require(ctx, db, in.ID); err != nil {
		return nil, err
	}
	return s.invitationsOf(ctx, db, c, []int64{in.ID}, in.Status, in.PageInput)
}

func (s *server) listInvitations(ctx context.Context, db pg.Querier, c *caller, in *listInvitationsInput) (*listInvitationsOutput, error) {
	if in.Company != 0 {
		if err := c.require(ctx, db, in.Company); err != nil {
			return nil, err
		}
		return s.invitationsOf(ctx, db, c, []int64{in.Company}, in.Status, in.PageInput)
	}
	companies, err := c.companies(ctx, db)
	if err != nil {
		return nil, err
	}
	return s.invitationsOf(ctx, db, c, companies, in.Status, in.PageInput)
}

func (s *server) invitationsOf(ctx context.Context, db pg.Querier, c *caller, companies []int64, status string, in PageInput) (*listInvitationsOutput, error) {
	limit, offset := in.window()
	page, count, err := s.invitations().List(ctx, db, invitation.Filter{Companies: companies, Status: status}, limit, offset)
	if err != nil {
		return nil, err
	}
	var companyID *int64
	if len(companies) == 1 {
		companyID = &companies[0]
	}
	if err := invitation.Looked(ctx, db, c.who(), companyID, nil); err != nil {
		return nil, err
	}
	return &listInvitationsOutput{pageOf(s, c.scope, in, count, each(page, invitationOf))}, nil
}

// invitation finds an invitation, and asks for the declared permission in its
// company. One of a company that the caller does not see is none.
func (c *caller) invitation(ctx context.Context, db pg.Querier, id int64) (invitation.Invitation, error) {
	found, err := c.server.invitations().Get(ctx, db, id)
	if err != nil {
		return invitation.Invitation{}, err
	}
	return found, unseen(c.require(ctx, db, found.CompanyID), invitation.Absent())
}

type invitationOutput struct{ Body Invitation }

func (s *server) getInvitation(ctx context.Context, db pg.Querier, c *caller, in *IDPath) (*invitationOutput, error) {
	found, err := c.invitation(ctx, db, in.ID)
	if err != nil {
		return nil, err
	}
	if err := invitation.Looked(ctx, db, c.who(), &found.CompanyID, &found.ID); err != nil {
		return nil, err
	}
	return &invitationOutput{invitationOf(found)}, nil
}

func (s *server) deleteInvitation(ctx context.Context, tx pgx.Tx, c *caller, in *IDPath) (*struct{}, error) {
	if _, err := c.invitation(ctx, tx, in.ID); err != nil {
		return nil, err
	}
	return nil, s.invitations().Delete(ctx, tx, c.who(), in.ID)
}

type detailOutput struct {
	Body struct {
		Detail string `json:"detail"`
	}
}

func detail(text string) *detailOutput {
	var out detailOutput
	out.Body.Detail = text
	return &out
}

func (s *server) revokeInvitation(ctx context.Context, tx pgx.Tx, c *caller, in *IDPath) (*detailOutput, error) {
	if _, err := c.invitation(ctx, tx, in.ID); err != nil {
		return nil, err
	}
	return detail("The invitation is taken back."), s.invitations().Revoke(ctx, tx, c.who(), in.ID)
}

type resendInvitationOutput struct {
	Body struct {
		Detail    string    `json:"detail"`
		Token     string    `json:"token" secret:"true" doc:"The new one; the one before is dead. Shown this once, and mailed."`
		ExpiresAt time.Time `json:"expires_at"`
	}
}

func (s *server) resendInvitation(ctx context.Context, tx pgx.Tx, c *caller, in *IDPath) (*resendInvitationOutput, error) {
	if _, err := c.invitation(ctx, tx, in.ID); err != nil {
		return nil, err
	}
	by, post := c.inviter()
	sent, token, err := s.invitations().Resend(ctx, tx, by, post, in.ID)
	if err != nil {
		return nil, err
	}
	var out resendInvitationOutput
	out.Body.Detail, out.Body.Token, out.Body.ExpiresAt = "The invitation is on its way again.", token, sent.ExpiresAt.UTC()
	return &out, nil
}

type acceptInvitationInput struct {
	Body struct {
		Token string `json:"token" minLength:"1" maxLength:"256" doc:"From the mailed link."`
	}
}

type acceptInvitationOutput struct {
	Body struct {
		Detail  string `json:"detail"`
		Company int64  `json:"company"`
	}
}

func (s *server) acceptInvitation(ctx context.Context, tx pgx.Tx, c *caller, in *acceptInvitationInput) (*acceptInvitationOutput, error) {
	accepted, err := s.invitations().Accept(ctx, tx, invitation.Guest{UserID: c.ID, Email: c.Email, Subject: c.subject(), Who: c.who()}, in.Body.Token)
	if err != nil {
		return nil, err
	}
	var out acceptInvitationOutput
	out.Body.Detail, out.Body.Company = "You are a member of the company now.", accepted.CompanyID
	return &out, nil
}

// invitationOf is the invitation with which somebody registers; nil without a
// token.
func (s *server) invitationOf(sc *scope, token string) *identity.Invitation {
	if token == "" {
		return nil
	}
	return &identity.Invitation{
		Check: func(ctx context.Context, tx pgx.Tx, email string) error {
			return s.invitations().Check(ctx, tx, token, email)
		},
		Accept: func(ctx context.Context, tx pgx.Tx, user identity.Profile) error {
			_, err := s.invitations().Accept(ctx, tx, invitation.Guest{
				UserID: user.ID, Email: user.Email, Subject: access.Subject{Tenant: sc.tenant.Route.TenantID, TokenEpoch: sc.tenant.Route.TokenEpoch},
				Who: audit.Who{UserID: &user.ID, Display: user.FullName, IP: sc.client.IP, RequestID: sc.client.RequestID},
			}, token)
			return invitation.OnRegistration(err)
		},
	}
}
