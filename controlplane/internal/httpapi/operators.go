package httpapi

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/operator"
	"github.com/ouvira/ouvira/shared/httpserver"
	"github.com/ouvira/ouvira/shared/telemetry"
)

// Operator is an account.
type Operator struct {
	ID          uuid.UUID     `json:"id"`
	Email       string        `json:"email"`
	FullName    string        `json:"full_name"`
	Role        operator.Role `json:"role" enum:"owner,operator,support,auditor"`
	IsActive    bool          `json:"is_active"`
	LastLoginAt *time.Time    `json:"last_login_at"`
	CreatedAt   time.Time     `json:"created_at"`
}

func (a *api) listOperators(ctx context.Context, _ *struct{}) (*body[List[Operator]], error) {
	found, err := a.Operators.List(ctx)
	if err != nil {
		return nil, err
	}
	items := make([]Operator, 0, len(found))
	for _, o := range found {
		items = append(items, Operator(o))
	}
	return listed(items, ""), nil
}

// IDPath is an id in a path.
type IDPath struct {
	ID uuid.UUID `path:"id" format:"uuid"`
}

type updateOperatorInput struct {
	IDPath

	Body struct {
		FullName *string        `json:"full_name,omitempty" maxLength:"200"`
		Role     *operator.Role `json:"role,omitempty" enum:"owner,operator,support,auditor" doc:"Ends the sessions."`
		IsActive *bool          `json:"is_active,omitempty" doc:"false ends the sessions and revokes the API keys."`
	}
}

func (a *api) updateOperator(ctx context.Context, in *updateOperatorInput) (*body[Operator], error) {
	o, err := a.Operators.Update(ctx, actorOf(ctx), in.ID, operator.Patch{FullName: in.Body.FullName, Role: in.Body.Role, IsActive: in.Body.IsActive})
	if err != nil {
		return nil, err
	}
	return &body[Operator]{Operator(o)}, nil
}

func (a *api) resetFactor(ctx context.Context, in *IDPath) (*struct{}, error) {
	return nil, a.Operators.ResetFactor(ctx, actorOf(ctx), in.ID)
}

// Invitation of somebody who has no account yet.
type Invitation struct {
	ID        uuid.UUID     `json:"id"`
	Email     string        `json:"email"`
	FullName  string        `json:"full_name"`
	Role      operator.Role `json:"role" enum:"owner,operator,support,auditor"`
	InvitedBy string        `json:"invited_by"`
	CreatedAt time.Time     `json:"created_at"`
	ExpiresAt time.Time     `json:"expires_at"`
}

type inviteInput struct {
	Body struct {
		Email    string        `json:"email" maxLength:"254" example:"grace@ouvira.example"`
		FullName string        `json:"full_name,omitempty" maxLength:"200"`
		Role     operator.Role `json:"role" enum:"owner,operator,support,auditor"`
	}
}

func (a *api) invite(ctx context.Context, in *inviteInput) (*body[Invitation], error) {
	inv, err := a.Operators.Invite(ctx, actorOf(ctx), principalOf(ctx), in.Body.Email, in.Body.FullName, in.Body.Role)
	if err != nil {
		return nil, err
	}
	return &body[Invitation]{Invitation(inv)}, nil
}

func (a *api) listInvitations(ctx context.Context, _ *struct{}) (*body[List[Invitation]], error) {
	found, err := a.Operators.Invitations(ctx)
	if err != nil {
		return nil, err
	}
	items := make([]Invitation, 0, len(found))
	for _, inv := range found {
		items = append(items, Invitation(inv))
	}
	return listed(items, ""), nil
}

func (a *api) revokeInvitation(ctx context.Context, in *IDPath) (*struct{}, error) {
	return nil, a.Operators.RevokeInvitation(ctx, actorOf(ctx), in.ID)
}

type acceptInvitationInput struct {
	Body struct {
		Token    string `json:"token" maxLength:"128" doc:"From the link in the mail."`
		FullName string `json:"full_name,omitempty" maxLength:"200"`
		Password string `json:"password" maxLength:"1024"`
	}
}

func (a *api) acceptInvitation(ctx context.Context, in *acceptInvitationInput) (*body[Operator], error) {
	o, err := a.Operators.AcceptInvitation(ctx, in.Body.Token, in.Body.FullName, in.Body.Password, httpserver.ClientIP(ctx), telemetry.RequestID(ctx))
	if err != nil {
		return nil, err
	}
	return &body[Operator]{Operator(o)}, nil
}

// APIKey of a script; it acts for the operator who made it.
type APIKey struct {
	ID         uuid.UUID  `json:"id"`
	Name       string     `json:"name"`
	Prefix     string     `json:"prefix" doc:"How the key begins."`
	Scopes     []string   `json:"scopes" nullable:"false"`
	Operator   string     `json:"operator"`
	CreatedAt  time.Time  `json:"created_at"`
	ExpiresAt  time.Time  `json:"expires_at"`
	LastUsedAt *time.Time `json:"last_used_at" doc:"To the minute."`
}

// NewAPIKey shows the key, this time only.
type NewAPIKey struct {
	APIKey

	Key string `json:"key" secret:"true" doc:"Send it as a bearer token. It is not shown again."`
}

type createAPIKeyInput struct {
	Body struct {
		Name      string     `json:"name" example:"nightly backups"`
		Scopes    []string   `json:"scopes" maxItems:"100" doc:"Permissions, each by name, of those that you have." example:"[\"tenant.read\",\"tenant.backup\"]"`
		ExpiresAt *time.Time `json:"expires_at,omitempty" doc:"A year from now at the latest, and when absent."`
	}
}

func (a *api) createAPIKey(ctx context.Context, in *createAPIKeyInput) (*body[NewAPIKey], error) {
	k, text, err := a.Operators.CreateAPIKey(ctx, actorOf(ctx), principalOf(ctx), operator.NewKey{
		Name: in.Body.Name, Scopes: in.Body.Scopes, ExpiresAt: in.Body.ExpiresAt,
	})
	if err != nil {
		return nil, err
	}
	return &body[NewAPIKey]{NewAPIKey{APIKey: APIKey(k), Key: text}}, nil
}

func (a *api) listAPIKeys(ctx context.Context, _ *struct{}) (*body[List[APIKey]], error) {
	found, err := a.Operators.APIKeys(ctx, principalOf(ctx))
	if err != nil {
		return nil, err
	}
	items := make([]APIKey, 0, len(found))
	for _, k := range found {
		items = append(items, APIKey(k))
	}
	return listed(items, ""), nil
}

func (a *api) revokeAPIKey(ctx context.Context, in *IDPath) (*struct{}, error) {
	return nil, a.Operators.RevokeAPIKey(ctx, actorOf(ctx), principalOf(ctx), in.ID)
}
