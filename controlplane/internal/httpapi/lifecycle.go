package httpapi

import (
	"context"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/shared/fault"
)

type confirmInput struct {
	TenantPath

	Body *struct {
		ConfirmSlug string `json:"confirm_slug,omitempty" maxLength:"63" example:"initech" doc:"The tenant's slug; where it is given it must match."`
	}
}

func (in *confirmInput) slug() string {
	if in.Body == nil {
		return ""
	}
	return in.Body.ConfirmSlug
}

func (a *api) deleteTenant(ctx context.Context, in *confirmInput) (*body[OperationOnly], error) {
	t, err := a.find(ctx, in.TenantPath)
	if err != nil {
		return nil, err
	}
	return a.answerOperation(ctx)(a.Tenants.Delete(ctx, actorOf(ctx), t.ID, in.slug()))
}

func (a *api) undeleteTenant(ctx context.Context, in *resumeInput) (*body[OperationOnly], error) {
	t, err := a.find(ctx, in.TenantPath)
	if err != nil {
		return nil, err
	}
	return a.answerOperation(ctx)(a.Tenants.Undelete(ctx, actorOf(ctx), t.ID))
}

func (a *api) purgeTenant(ctx context.Context, in *confirmInput) (*body[OperationOnly], error) {
	t, err := a.find(ctx, in.TenantPath)
	if err != nil {
		return nil, err
	}
	return a.answerOperation(ctx)(a.Tenants.Purge(ctx, actorOf(ctx), t.ID, in.slug()))
}

// answerOperation shows the operation that a room has started.
func (a *api) answerOperation(ctx context.Context) func(id uuid.UUID, err error) (*body[OperationOnly], error) {
	return func(id uuid.UUID, err error) (*body[OperationOnly], error) {
		if err != nil {
			return nil, err
		}
		o, err := a.Operations.Get(ctx, id)
		if err != nil {
			return nil, err
		}
		return &body[OperationOnly]{OperationOnly{operationOf(o)}}, nil
	}
}

type rotateInput struct {
	TenantPath

	Body *struct {
		What   string `json:"what,omitempty" enum:"password,signing-key" default:"password" doc:"The password of its database role, or the key that signs its users' tokens."`
		AtOnce bool   `json:"at_once,omitempty" doc:"For a signing key that somebody else has: it does not count any more within seconds, and neither does any access token. Apps refresh theirs."`
	}
}

func (a *api) rotateTenant(ctx context.Context, in *rotateInput) (*body[OperationOnly], error) {
	t, err := a.find(ctx, in.TenantPath)
	if err != nil {
		return nil, err
	}
	switch {
	case in.Body != nil && in.Body.What == "signing-key":
		return a.answerOperation(ctx)(a.Tenants.RotateKey(ctx, actorOf(ctx), t.ID, provision.KeyRotation{AtOnce: in.Body.AtOnce}))
	case in.Body != nil && in.Body.AtOnce:
		return nil, fault.Invalid("A password is changed at once in any case; only a signing key waits.").
			OnField("at_once", "not_allowed", "Leave this out, or say signing-key.")
	}
	return a.answerOperation(ctx)(a.Tenants.Rotate(ctx, actorOf(ctx), t.ID))
}

func (a *api) signOutEveryone(ctx context.Context, in *resumeInput) (*body[Tenant], error) {
	t, err := a.find(ctx, in.TenantPath)
	if err != nil {
		return nil, err
	}
	return answerTenant(a.Tenants.SignOutEveryone(ctx, actorOf(ctx), t.ID))
}
