package httpapi

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/access"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// SupportAccess is whether the platform's support is let in.
type SupportAccess struct {
	Active           bool             `json:"active"`
	Until            *time.Time       `json:"until" doc:"Null when support is not let in."`
	Write            bool             `json:"write" doc:"Support may change things, and not only look."`
	GrantedBy        *int64           `json:"granted_by" example:"1" doc:"The owner who let it in, and for whom it acts."`
	GrantedByDisplay *string          `json:"granted_by_display" example:"Jane Doe"`
	Sessions         []SupportSession `json:"sessions" nullable:"false" doc:"When support entered, the last 50 times."`
}

// SupportSession is one entry of support.
type SupportSession struct {
	ID         uuid.UUID  `json:"id" example:"0199f6a1-7c2e-7d31-9b0a-3f1de2c4a5b6"`
	Operator   string     `json:"operator" example:"helen@ouvira.example"`
	Reason     string     `json:"reason" example:"Ticket 4711: invoices are missing"`
	Write      bool       `json:"write"`
	BreakGlass bool       `json:"break_glass" doc:"In an emergency, without consent."`
	CreatedAt  time.Time  `json:"created_at"`
	ExpiresAt  time.Time  `json:"expires_at"`
	EndedAt    *time.Time `json:"ended_at" doc:"When an owner ended it."`
}

type supportAccessOutput struct{ Body SupportAccess }

func (s *server) getSupportAccess(ctx context.Context, db pg.Querier, c *caller, _ *struct{}) (*supportAccessOutput, error) {
	if err := c.requireHome(ctx, db); err != nil {
		return nil, err
	}
	return s.supportAccess(ctx, db)
}

func (s *server) supportAccess(ctx context.Context, db pg.Querier) (*supportAccessOutput, error) {
	consent, sessions, err := s.Identity.SupportAccess(ctx, db)
	if err != nil {
		return nil, err
	}
	out := supportAccessOutput{SupportAccess{Sessions: make([]SupportSession, len(sessions))}}
	if consent != nil {
		out.Body.Active, out.Body.Until, out.Body.Write = true, utc(&consent.Until), consent.Write
		out.Body.GrantedBy, out.Body.GrantedByDisplay = &consent.UserID, &consent.UserDisplay
	}
	for i, e := range sessions {
		out.Body.Sessions[i] = SupportSession{
			ID: e.ID, Operator: e.Operator, Reason: e.Reason, Write: e.Write, BreakGlass: e.BreakGlass,
			CreatedAt: e.CreatedAt.UTC(), ExpiresAt: e.ExpiresAt.UTC(), EndedAt: utc(e.EndedAt),
		}
	}
	return &out, nil
}

type allowSupportInput struct {
	Body struct {
		Until time.Time `json:"until" doc:"Seven days from now at the latest."`
		Write bool      `json:"write,omitempty" doc:"Let it change things, and not only look."`
	}
}

func (s *server) allowSupport(ctx context.Context, tx pgx.Tx, c *caller, in *allowSupportInput) (*supportAccessOutput, error) {
	if err := c.requireHome(ctx, tx); err != nil {
		return nil, err
	}
	if err := s.Identity.AllowSupport(ctx, c.tenant, tx, c.Actor, in.Body.Until, in.Body.Write, c.who()); err != nil {
		return nil, err
	}
	return s.supportAccess(ctx, tx)
}

func (s *server) endSupport(ctx context.Context, tx pgx.Tx, c *caller, _ *struct{}) (*struct{}, error) {
	if err := c.requireHome(ctx, tx); err != nil {
		return nil, err
	}
	return nil, s.Identity.EndSupport(ctx, c.tenant, tx, c.Actor, c.who())
}

type enterSupportInput struct {
	Body struct {
		Code string `json:"code" minLength:"1" maxLength:"256" doc:"From the control plane. It works once, for five minutes." example:"ous_agopbwdlk4ymlm5kd6nycmdzge_gezdgnbvgy3tqojqgezdgnbvgy3tqojqgezdgnbvgy3tqojqgeza"`
	}
}

type enterSupportOutput struct {
	Body struct {
		Access    string    `json:"access" secret:"true" doc:"Send it as Authorization: Bearer. It names the operator in the claim act, and cannot be refreshed."`
		ExpiresIn int64     `json:"expires_in" doc:"Seconds until it expires." example:"900"`
		ExpiresAt time.Time `json:"expires_at"`
		Write     bool      `json:"write" doc:"It may change things; only where the owners have allowed that."`
	}
}

func (s *server) enterSupport(ctx context.Context, sc *scope, in *enterSupportInput) (*enterSupportOutput, error) {
	if s.Support == nil {
		return nil, fault.Unavailable("Support cannot enter at this node.")
	}
	token, err := s.Identity.EnterSupport(ctx, sc.tenant, s.Support, in.Body.Code, sc.client)
	if err != nil {
		return nil, err
	}
	var out enterSupportOutput
	out.Body.Access, out.Body.ExpiresIn, out.Body.ExpiresAt, out.Body.Write = token.Access, int64(token.ExpiresIn.Seconds()), token.ExpiresAt.UTC(), token.Write
	return &out, nil
}

// notForSupport are the modules whose permissions give power over who may do
// what. Support does not use them, whatever it is allowed, but to look.
var notForSupport = []string{"user", "role", "permission", "member", "invitation", "apikey", "support"}

// admitSupport refuses what support never does: anything about signing in and
// accounts, what is a person's own, and changes of who may do what. Where it was
// let in to look only, it changes nothing.
func (c *caller) admitSupport() error {
	if (c.op.ofOneself && !c.op.machines) || slices.Contains(c.op.Tags, "auth") || slices.Contains(c.op.Tags, "account") {
		return fault.Forbidden("Accounts, and what is a person's own, are not for support.").Code("not_for_support")
	}
	if safe(c.op.Method) {
		return nil
	}
	if !c.Support.Write {
		return fault.Forbidden("Support was let in to look, not to change things. An owner can allow it.").Code("support_reads_only")
	}
	if slices.Contains(c.op.Tags, "access-control") || slices.Contains(notForSupport, module(c.op.permission)) {
		return fault.Forbidden("Support does not change who may do what.").Code("not_for_support")
	}
	return nil
}

// supportMay lets through what an operation that looks needs, and what reads;
// where support was let in to change things, the rest too but for power over
// who may do what.
func (c *caller) supportMay(p access.Permission) bool {
	_, action, _ := strings.Cut(string(p), ".")
	if slices.Contains([]string{"read", "security", "verify"}, action) || (safe(c.op.Method) && p == c.op.permission) {
		return true
	}
	return c.Support.Write && !slices.Contains(notForSupport, module(p))
}

func module(p access.Permission) string {
	name, _, _ := strings.Cut(string(p), ".")
	return name
}
