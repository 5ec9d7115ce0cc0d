package httpapi

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/signup"
	"github.com/ouvira/ouvira/controlplane/internal/tenant"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/httpserver"
	"github.com/ouvira/ouvira/shared/telemetry"
	"github.com/ouvira/ouvira/shared/turnstile"
)

func callerOf(ctx context.Context) signup.Caller {
	return signup.Caller{IP: httpserver.ClientIP(ctx), RequestID: telemetry.RequestID(ctx)}
}

// PendingSignup is a sign-up that waits for its code.
type PendingSignup struct {
	ID        uuid.UUID     `json:"id" format:"uuid"`
	Status    signup.Status `json:"status" enum:"pending_verification"`
	ExpiresAt time.Time     `json:"expires_at" doc:"Until then the code is good."`
}

type startSignupInput struct {
	Body struct {
		CompanyName    string `json:"company_name" example:"Initech" doc:"Name of the first company, at most 200 bytes."`
		Slug           string `json:"slug" example:"initech" doc:"First part of the tenant's address: 3 to 63 lower-case letters, digits and hyphens, a letter first. It never changes."`
		FullName       string `json:"full_name" example:"Bill Lumbergh"`
		Email          string `json:"email" example:"bill@initech.example" doc:"The code is mailed there."`
		Password       string `json:"password" doc:"At least 12 characters."`
		TurnstileToken string `json:"turnstile_token,omitempty" maxLength:"2048" doc:"Of a Cloudflare Turnstile widget with the action signup; wanted where Turnstile is configured." example:"0.mF74FV8wEufAWOdvLak7hJcyqr5mBk4Q"`
	}
}

func (a *api) startSignup(ctx context.Context, in *startSignupInput) (*body[PendingSignup], error) {
	err := a.options.Turnstile.Verify(ctx, turnstile.Claim{
		Token: in.Body.TurnstileToken, Action: "signup", ClientIP: httpserver.ClientIP(ctx), Hostname: a.isSignupPage,
	})
	if err != nil {
		return nil, err
	}
	p, err := a.Signups.Start(ctx, callerOf(ctx), signup.Form{
		CompanyName: in.Body.CompanyName, Slug: in.Body.Slug, FullName: in.Body.FullName,
		Email: in.Body.Email, Password: in.Body.Password,
	})
	if err != nil {
		return nil, err
	}
	httpserver.Annotate(ctx, "signup", p.ID.String())
	return &body[PendingSignup]{PendingSignup(p)}, nil
}

// isSignupPage tells whether a page of the host is one of ours.
func (a *api) isSignupPage(hostname string) bool {
	return slices.ContainsFunc(a.options.SignupOrigins, func(origin string) bool {
		u, err := url.Parse(origin)
		return err == nil && strings.EqualFold(u.Hostname(), hostname)
	})
}

type signupInput struct {
	ID uuid.UUID `path:"id" format:"uuid"`
}

// Signup is what anyone who knows its id may see of a sign-up.
type Signup struct {
	ID       uuid.UUID     `json:"id" format:"uuid"`
	Status   signup.Status `json:"status" enum:"pending_verification,pending_approval,provisioning,active,failed,expired,rejected"`
	Slug     string        `json:"slug"`
	LoginURL *string       `json:"login_url" doc:"Where to sign in, once the tenant is active."`
	Reason   *string       `json:"reason" doc:"Why it waits or has failed."`
}

func (a *api) showSignup(ctx context.Context, in *signupInput) (*body[Signup], error) {
	v, err := a.Signups.View(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return &body[Signup]{Signup(v)}, nil
}

type verifyInput struct {
	ID   uuid.UUID `path:"id" format:"uuid"`
	Body struct {
		Code string `json:"code" example:"123456" doc:"The six digits from the mail."`
	}
}

// TenantAndOperation is a new tenant and the operation that makes it.
type TenantAndOperation struct {
	Tenant    Tenant    `json:"tenant"`
	Operation Operation `json:"operation"`
}

// VerifiedSignup is how a sign-up goes on.
type VerifiedSignup struct {
	Status    signup.Status `json:"status" enum:"provisioning,pending_approval"`
	Tenant    *Tenant       `json:"tenant,omitempty" doc:"Absent while an operator has to approve the sign-up."`
	Operation *Operation    `json:"operation,omitempty"`
}

func verifiedOf(v signup.Verified) *body[VerifiedSignup] {
	out := VerifiedSignup{Status: v.Status}
	if v.Operation != nil {
		t, o := tenantOf(v.Tenant), operationOf(v.Operation)
		out.Tenant, out.Operation = &t, &o
	}
	return &body[VerifiedSignup]{out}
}

func (a *api) verifySignup(ctx context.Context, in *verifyInput) (*body[VerifiedSignup], error) {
	v, err := a.Signups.Verify(ctx, callerOf(ctx), in.ID, in.Body.Code)
	if err != nil {
		return nil, err
	}
	if v.Operation != nil {
		httpserver.Annotate(ctx, "tenant", v.Tenant.ID.String())
	}
	return verifiedOf(v), nil
}

type decideInput struct {
	ID   uuid.UUID `path:"id" format:"uuid"`
	Body struct {
		Reason string `json:"reason,omitempty" maxLength:"2000" doc:"At most 500 characters; mailed to who has signed up. A rejection needs one."`
	}
}

func (a *api) approveSignup(ctx context.Context, in *decideInput) (*body[VerifiedSignup], error) {
	v, err := a.Signups.Approve(ctx, actorOf(ctx), in.ID, in.Body.Reason)
	if err != nil {
		return nil, err
	}
	if a.hasten(ctx, v.Operation) {
		if v.Tenant, err = a.Tenants.Get(ctx, v.Tenant.ID.String()); err == nil {
			v.Operation, err = a.Operations.Get(ctx, v.Operation.ID)
		}
	}
	return verifiedOf(v), err
}

func (a *api) rejectSignup(ctx context.Context, in *decideInput) (*body[Signup], error) {
	if err := a.Signups.Reject(ctx, actorOf(ctx), in.ID, in.Body.Reason); err != nil {
		return nil, err
	}
	return a.showSignup(ctx, &signupInput{ID: in.ID})
}

func (a *api) resendCode(ctx context.Context, in *signupInput) (*body[PendingSignup], error) {
	p, err := a.Signups.Resend(ctx, callerOf(ctx), in.ID)
	if err != nil {
		return nil, err
	}
	return &body[PendingSignup]{PendingSignup(p)}, nil
}

type availabilityInput struct {
	Slug string `query:"slug" required:"true"`
}

// Availability says whether a slug could be had now.
type Availability struct {
	Available bool    `json:"available"`
	Reason    *string `json:"reason" doc:"Why not."`
}

func (a *api) slugAvailability(ctx context.Context, in *availabilityInput) (*body[Availability], error) {
	answer := func(free bool, why string) (*body[Availability], error) {
		v := Availability{Available: free}
		if why != "" {
			v.Reason = &why
		}
		return &body[Availability]{v}, nil
	}
	if err := tenant.CheckSlug(in.Slug); err != nil {
		return answer(false, fault.From(err).Message)
	}
	free, err := a.Tenants.Available(ctx, in.Slug)
	if err != nil {
		return nil, err
	}
	if !free {
		return answer(false, tenant.SlugTaken().Message)
	}
	return answer(true, "")
}

// SignupEntry is a sign-up as operators see it.
type SignupEntry struct {
	ID          uuid.UUID     `json:"id"`
	CompanyName string        `json:"company_name"`
	Slug        string        `json:"slug"`
	FullName    string        `json:"full_name"`
	Email       string        `json:"email"`
	Status      signup.Status `json:"status"`
	TenantID    *uuid.UUID    `json:"tenant_id"`
	ExpiresAt   time.Time     `json:"expires_at"`
	CreatedAt   time.Time     `json:"created_at"`
	UpdatedAt   time.Time     `json:"updated_at"`
}

type listSignupsInput struct {
	Paging

	Status signup.Status `query:"status" enum:"pending_verification,pending_approval,provisioning,active,failed,expired,rejected"`
}

func (a *api) listSignups(ctx context.Context, in *listSignupsInput) (*body[List[SignupEntry]], error) {
	found, next, err := a.Signups.List(ctx, signup.Query{Status: in.Status, Limit: in.Limit, Cursor: in.Cursor})
	if err != nil {
		return nil, err
	}
	items := make([]SignupEntry, 0, len(found))
	for _, s := range found {
		items = append(items, SignupEntry{
			ID: s.ID, CompanyName: s.CompanyName, Slug: s.Slug, FullName: s.FullName, Email: s.Email, Status: s.Status,
			TenantID: optionalID(s.TenantID), ExpiresAt: s.ExpiresAt, CreatedAt: s.CreatedAt, UpdatedAt: s.UpdatedAt,
		})
	}
	return listed(items, next), nil
}

func optionalID(id uuid.NullUUID) *uuid.UUID {
	if !id.Valid {
		return nil
	}
	return &id.UUID
}
