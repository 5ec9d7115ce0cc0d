package httpapi

import (
	"context"

	"github.com/google/uuid"
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

func (a *api) rotateTenant(ctx context.Context, in *resumeInput) (*body[OperationOnly], error) {
	t, err := a.find(ctx, in.TenantPath)
	if err != nil {
		return nil, err
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
