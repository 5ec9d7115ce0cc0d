package httpapi

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/support"
)

// SupportCode lets an operator into a tenant, once.
type SupportCode struct {
	ID        uuid.UUID `json:"id"`
	Code      string    `json:"code" secret:"true" doc:"Shown this time only. Send it to redeem_url."`
	RedeemURL string    `json:"redeem_url" doc:"Answers with a token for the tenant's API."`
	ExpiresAt time.Time `json:"expires_at" doc:"Of the code. The session begins when it is redeemed."`
}

type supportSessionInput struct {
	TenantPath

	Body struct {
		Reason     string `json:"reason" doc:"For both audits and the tenant's owners: 1 to 500 characters." example:"Ticket 4711: invoices are missing"`
		Minutes    int    `json:"minutes" doc:"How long the session lasts: 1 to 60."`
		Write      bool   `json:"write,omitempty" doc:"Change things too, where an owner of the tenant has allowed that."`
		BreakGlass bool   `json:"break_glass,omitempty" doc:"An emergency: without the tenant's consent, to read. Takes an owner of the platform with a fresh second factor; all owners of the tenant are mailed."`
	}
}

func (a *api) enterSupport(ctx context.Context, in *supportSessionInput) (*body[SupportCode], error) {
	t, err := a.find(ctx, in.TenantPath)
	if err != nil {
		return nil, err
	}
	code, err := a.Support.Enter(ctx, actorOf(ctx), principalOf(ctx), t, support.Request{
		Reason: in.Body.Reason, Minutes: in.Body.Minutes, Write: in.Body.Write, BreakGlass: in.Body.BreakGlass,
	})
	if err != nil {
		return nil, err
	}
	return &body[SupportCode]{SupportCode(code)}, nil
}
