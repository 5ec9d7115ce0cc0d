package httpapi

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/shared/pg"
)

// User is a user as they see themselves.
type User struct {
	ID            int64      `json:"id"`
	Username      string     `json:"username"`
	FullName      string     `json:"full_name"`
	Email         *string    `json:"email"`
	PrimaryMobile *string    `json:"primary_mobile"`
	EmailVerified bool       `json:"email_verified"`
	PhoneVerified bool       `json:"phone_verified"`
	AccountUID    string     `json:"account_uid" example:"USR-0A1B2C3D4E5F"`
	Is2FAEnabled  bool       `json:"is_2fa_enabled"`
	TwoFAType     *string    `json:"two_fa_type"`
	DateJoined    time.Time  `json:"date_joined"`
	LastLogin     *time.Time `json:"last_login"`

	Entity
}

// Entity is what every entity carries.
type Entity struct {
	CreatedAt time.Time  `json:"created_at"`
	UpdatedAt time.Time  `json:"updated_at"`
	DeletedAt *time.Time `json:"deleted_at"`
	IsDeleted bool       `json:"is_deleted"`
}

func entityOf(created, updated time.Time, deleted *time.Time) Entity {
	return Entity{created.UTC(), updated.UTC(), utc(deleted), deleted != nil}
}

func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC()
	return &u
}

func userOf(p identity.Profile) User {
	return User{
		ID: p.ID, Username: p.Username, FullName: p.FullName, Email: p.Email, PrimaryMobile: p.PrimaryMobile,
		EmailVerified: p.EmailVerified, PhoneVerified: p.PhoneVerified, AccountUID: p.AccountUID,
		Is2FAEnabled: p.Is2FAEnabled, TwoFAType: p.TwoFAType, DateJoined: p.DateJoined.UTC(), LastLogin: utc(p.LastLogin),
		Entity: entityOf(p.CreatedAt, p.UpdatedAt, nil),
	}
}

type registerInput struct {
	Body struct {
		FullName        string  `json:"full_name" minLength:"1" maxLength:"200"`
		Email           string  `json:"email" minLength:"3" maxLength:"254"`
		Password        string  `json:"password" minLength:"1" maxLength:"1024" format:"password" doc:"At least 12 characters."`
		PrimaryMobile   *string `json:"primary_mobile,omitempty" pattern:"^\\+[1-9][0-9]{6,14}$" doc:"E.164." example:"+4915112345678"`
		InvitationToken string  `json:"invitation_token,omitempty" maxLength:"256" doc:"Opens workspaces that do not allow self-registration."`
		TurnstileToken  string  `json:"turnstile_token,omitempty" maxLength:"2048" doc:"Of a Cloudflare Turnstile widget with the action register; wanted where Turnstile is configured, unless there is an invitation_token."`
	}
}

func (s *server) register(ctx context.Context, sc *scope, in *registerInput) (*signedIn, error) {
	if in.Body.InvitationToken == "" { // who was invited needs no other proof, and nobody registers with a wrong one
		if err := s.human(ctx, sc, in.Body.TurnstileToken, "register"); err != nil {
			return nil, err
		}
	}
	profile, tokens, err := s.Identity.Register(ctx, sc.tenant, identity.Registration{
		FullName: in.Body.FullName, Email: in.Body.Email, Password: in.Body.Password,
		PrimaryMobile: in.Body.PrimaryMobile, Invitation: s.invitationOf(sc, in.Body.InvitationToken),
	}, sc.client)
	if err != nil {
		return nil, err
	}
	s.countLogin(sc)
	return sc.signedIn(profile, tokens), nil
}

type userOutput struct {
	ETagged

	Body User
}

// me needs no statement of its own: the first one has brought the profile.
func (s *server) me(_ context.Context, _ pg.Querier, c *caller, _ *struct{}) (*userOutput, error) {
	return &userOutput{etagged(c.UpdatedAt), userOf(c.Profile)}, nil
}

type replaceProfileInput struct {
	IfMatch

	Body struct {
		ProfileFields

		FullName string `json:"full_name" minLength:"1" maxLength:"200"`
	}
}

func (s *server) replaceProfile(ctx context.Context, tx pgx.Tx, c *caller, in *replaceProfileInput) (*userOutput, error) {
	return s.changeProfile(ctx, tx, c, in.IfMatch, optional[string]{Set: true, Value: in.Body.FullName}, in.Body.ProfileFields)
}

type patchProfileInput struct {
	IfMatch

	Body struct {
		ProfileFields

		FullName optional[string] `json:"full_name,omitzero" minLength:"1" maxLength:"200"`
	}
}

func (s *server) patchProfile(ctx context.Context, tx pgx.Tx, c *caller, in *patchProfileInput) (*userOutput, error) {
	return s.changeProfile(ctx, tx, c, in.IfMatch, in.Body.FullName, in.Body.ProfileFields)
}

func (s *server) changeProfile(ctx context.Context, tx pgx.Tx, c *caller, match IfMatch, name optional[string], fields ProfileFields) (*userOutput, error) {
	before, err := s.Identity.LockAccount(ctx, tx, c.ID)
	if err != nil {
		return nil, err
	}
	if err := match.check(before.UpdatedAt); err != nil {
		return nil, err
	}
	after, err := s.Identity.ChangeAccount(ctx, c.tenant, tx, c.who(), nil, before, fields.of(before, name.or(before.FullName)))
	if err != nil {
		return nil, err
	}
	return &userOutput{etagged(after.UpdatedAt), userOf(after.Profile)}, nil
}
