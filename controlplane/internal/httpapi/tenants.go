package httpapi

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/tenant"
	"github.com/ouvira/ouvira/shared/httpserver"
	"github.com/ouvira/ouvira/shared/route"
)

// Tenant is a customer of the platform.
type Tenant struct {
	ID            uuid.UUID     `json:"id" format:"uuid"`
	Slug          string        `json:"slug"`
	Name          string        `json:"name"`
	Status        tenant.Status `json:"status" enum:"provisioning,active,suspended,deleted,purged,failed"`
	StatusReason  string        `json:"status_reason" doc:"Why it is suspended or has failed."`
	Mode          route.Mode    `json:"mode" enum:"serve,hold,maintenance" doc:"What nodes do with its requests."`
	Server        *string       `json:"server" doc:"Name of the Postgres server; null until one was chosen."`
	SchemaVersion int64         `json:"schema_version"`
	PrimaryDomain string        `json:"primary_domain"`
	Plan          string        `json:"plan" doc:"Code of the plan."`
	OnTrial       bool          `json:"on_trial"`
	PaidUntil     *string       `json:"paid_until" format:"date"`
	Settings      Settings      `json:"settings"`
	PurgeAt       *time.Time    `json:"purge_at"`
	CreatedAt     time.Time     `json:"created_at"`
	UpdatedAt     time.Time     `json:"updated_at"`
}

// Settings of a tenant, which its route carries to the nodes.
type Settings struct {
	SelfRegistration bool     `json:"self_registration" doc:"Anyone may register."`
	CORSOrigins      []string `json:"cors_origins" nullable:"false"`
	ResetURL         string   `json:"reset_url"`
	InviteURL        string   `json:"invite_url"`
	Locale           string   `json:"locale"`
	Require2FA       bool     `json:"require_2fa"`
	Redirect         bool     `json:"redirect_to_primary" doc:"Browsers that come by another name are led to the primary domain."`
	Branding         Branding `json:"branding"`
	Sandbox          bool     `json:"sandbox" doc:"A copy to try things with: its mail and SMS go nowhere. It is said when it is made."`
}

// Branding is how the tenant's mails look; what is empty is taken from its
// first company, or left out.
type Branding struct {
	Name     string `json:"name,omitempty" example:"Acme"`
	LogoURL  string `json:"logo_url,omitempty" doc:"https." example:"https://acme.example/logo.png"`
	Color    string `json:"color,omitempty" example:"#1a73e8"`
	FromName string `json:"from_name,omitempty" doc:"Whom readers see as the sender." example:"Acme support"`
}

func tenantOf(t tenant.Tenant) Tenant {
	out := Tenant{
		ID: t.ID, Slug: t.Slug, Name: t.Name, Status: t.Status, StatusReason: t.StatusReason, Mode: t.Mode,
		Server: t.Server, SchemaVersion: t.SchemaVersion, PrimaryDomain: t.PrimaryDomain, Plan: t.Plan,
		OnTrial: t.OnTrial, PurgeAt: t.PurgeAt, CreatedAt: t.CreatedAt, UpdatedAt: t.UpdatedAt,
		Settings: Settings{
			SelfRegistration: t.Settings.AllowsSelfRegistration(), CORSOrigins: t.Settings.CORSOrigins,
			ResetURL: t.Settings.ResetURL, InviteURL: t.Settings.InviteURL,
			Locale: t.Settings.Locale, Require2FA: t.Settings.Require2FA, Redirect: t.Settings.RedirectToPrimary, Branding: Branding(t.Settings.Branding),
			Sandbox: t.Settings.Sandbox,
		},
	}
	if out.Settings.CORSOrigins == nil {
		out.Settings.CORSOrigins = []string{}
	}
	if t.PaidUntil != nil {
		day := t.PaidUntil.Format(time.DateOnly)
		out.PaidUntil = &day
	}
	return out
}

type listTenantsInput struct {
	Paging

	Q      string        `query:"q" maxLength:"200" doc:"Part of the slug or the name."`
	Status tenant.Status `query:"status" enum:"provisioning,active,suspended,deleted,purged,failed"`
	Sort   string        `query:"sort" doc:"created_at, slug or name; with - in front for the other direction."`
}

func (a *api) listTenants(ctx context.Context, in *listTenantsInput) (*body[List[Tenant]], error) {
	found, next, err := a.Tenants.List(ctx, tenant.Query{Q: in.Q, Status: in.Status, Sort: in.Sort, Limit: in.Limit, Cursor: in.Cursor})
	if err != nil {
		return nil, err
	}
	items := make([]Tenant, 0, len(found))
	for _, t := range found {
		items = append(items, tenantOf(t))
	}
	return listed(items, next), nil
}

type createTenantInput struct {
	Body struct {
		Slug  string `json:"slug" example:"initech" doc:"First part of the tenant's address; it never changes."`
		Name  string `json:"name" example:"Initech"`
		Owner struct {
			Email    string `json:"email" example:"bill@initech.example"`
			FullName string `json:"full_name" example:"Bill Lumbergh"`
		} `json:"owner" doc:"The first user; gets a link to set a password, good for 7 days."`
		Plan   string `json:"plan,omitempty" maxLength:"100" doc:"Code of the plan; the standard one if absent."`
		Server string `json:"server,omitempty" maxLength:"63" doc:"Name of the Postgres server; the emptiest if absent."`
	}
}

func (a *api) createTenant(ctx context.Context, in *createTenantInput) (*body[TenantAndOperation], error) {
	t, operationID, err := a.Tenants.Create(ctx, actorOf(ctx), tenant.New{
		Slug: in.Body.Slug, Name: in.Body.Name, Plan: in.Body.Plan, Server: in.Body.Server,
		Owner: tenant.Owner{Email: in.Body.Owner.Email, FullName: in.Body.Owner.FullName},
	})
	if err != nil {
		return nil, err
	}
	httpserver.Annotate(ctx, "tenant", t.ID.String())
	o, err := a.Operations.Get(ctx, operationID)
	if err == nil && a.hasten(ctx, o) {
		if t, err = a.Tenants.Get(ctx, t.ID.String()); err == nil {
			o, err = a.Operations.Get(ctx, operationID)
		}
	}
	if err != nil {
		return nil, err
	}
	return &body[TenantAndOperation]{TenantAndOperation{Tenant: tenantOf(t), Operation: operationOf(o)}}, nil
}

// TenantPath is a tenant in a path, by id or slug.
type TenantPath struct {
	Tenant string `path:"tenant" maxLength:"63" doc:"Id or slug."`
}

func (a *api) find(ctx context.Context, in TenantPath) (tenant.Tenant, error) {
	t, err := a.Tenants.Get(ctx, in.Tenant)
	if err == nil {
		httpserver.Annotate(ctx, "tenant", t.ID.String())
	}
	return t, err
}

func (a *api) showTenant(ctx context.Context, in *TenantPath) (*body[Tenant], error) {
	t, err := a.find(ctx, *in)
	if err != nil {
		return nil, err
	}
	return &body[Tenant]{tenantOf(t)}, nil
}

type updateTenantInput struct {
	TenantPath

	Body struct {
		Name     *string `json:"name,omitempty"`
		Plan     *string `json:"plan,omitempty" maxLength:"100"`
		Settings *struct {
			SelfRegistration *bool     `json:"self_registration,omitempty"`
			CORSOrigins      *[]string `json:"cors_origins,omitempty"`
			ResetURL         *string   `json:"reset_url,omitempty"`
			InviteURL        *string   `json:"invite_url,omitempty"`
			Locale           *string   `json:"locale,omitempty"`
			Require2FA       *bool     `json:"require_2fa,omitempty"`
			Redirect         *bool     `json:"redirect_to_primary,omitempty"`
			Branding         *Branding `json:"branding,omitempty" doc:"As a whole; an empty one takes it back."`
		} `json:"settings,omitempty" doc:"Changes what it names; an empty text or list takes a setting back."`
	}
}

func (a *api) updateTenant(ctx context.Context, in *updateTenantInput) (*body[Tenant], error) {
	t, err := a.find(ctx, in.TenantPath)
	if err != nil {
		return nil, err
	}
	p := tenant.Patch{Name: in.Body.Name, Plan: in.Body.Plan}
	if s := in.Body.Settings; s != nil {
		p.Settings = &tenant.SettingsPatch{
			SelfRegistration: s.SelfRegistration, CORSOrigins: s.CORSOrigins, ResetURL: s.ResetURL,
			InviteURL: s.InviteURL, Locale: s.Locale, Require2FA: s.Require2FA, Redirect: s.Redirect, Branding: (*route.Branding)(s.Branding),
		}
	}
	return answerTenant(a.Tenants.Update(ctx, actorOf(ctx), t.ID, p))
}

func answerTenant(t tenant.Tenant, err error) (*body[Tenant], error) {
	if err != nil {
		return nil, err
	}
	return &body[Tenant]{tenantOf(t)}, nil
}

type suspendInput struct {
	TenantPath

	Body struct {
		Reason string `json:"reason" doc:"For the audit log and the tenant's people: 1 to 500 characters."`
	}
}

func (a *api) suspendTenant(ctx context.Context, in *suspendInput) (*body[Tenant], error) {
	t, err := a.find(ctx, in.TenantPath)
	if err != nil {
		return nil, err
	}
	return answerTenant(a.Tenants.Suspend(ctx, actorOf(ctx), t.ID, in.Body.Reason))
}

type resumeInput struct {
	TenantPath

	Body *struct{} // may be absent
}

func (a *api) resumeTenant(ctx context.Context, in *resumeInput) (*body[Tenant], error) {
	t, err := a.find(ctx, in.TenantPath)
	if err != nil {
		return nil, err
	}
	return answerTenant(a.Tenants.Resume(ctx, actorOf(ctx), t.ID))
}

// OperationOnly is the answer of what takes long and makes nothing new.
type OperationOnly struct {
	Operation Operation `json:"operation"`
}

func (a *api) retryTenant(ctx context.Context, in *TenantPath) (*body[OperationOnly], error) {
	t, err := a.find(ctx, *in)
	if err != nil {
		return nil, err
	}
	return a.answerOperation(ctx)(a.Tenants.Retry(ctx, actorOf(ctx), t.ID))
}

type listTenantOperationsInput struct {
	TenantPath
	Paging
}

func (a *api) listTenantOperations(ctx context.Context, in *listTenantOperationsInput) (*body[List[Operation]], error) {
	t, err := a.find(ctx, in.TenantPath)
	if err != nil {
		return nil, err
	}
	return a.operationsPage(ctx, in.Paging, operation.Filter{TenantID: t.ID})
}

type listTenantAuditInput struct {
	TenantPath
	Paging
}

func (a *api) listTenantAudit(ctx context.Context, in *listTenantAuditInput) (*body[List[AuditEntry]], error) {
	t, err := a.find(ctx, in.TenantPath)
	if err != nil {
		return nil, err
	}
	return a.auditPage(ctx, in.Paging, t.ID, "")
}
