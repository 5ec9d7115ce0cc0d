package httpapi

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/domain"
)

// Domain is a hostname of a tenant.
type Domain struct {
	ID          uuid.UUID     `json:"id" format:"uuid"`
	TenantID    uuid.UUID     `json:"tenant_id" format:"uuid"`
	Hostname    string        `json:"hostname" doc:"As the DNS has it."`
	DisplayName string        `json:"display_name" doc:"As people write it, with letters of other scripts."`
	Status      domain.Status `json:"status" enum:"pending,verified,lost" doc:"Lost: the record was gone for days, and the hostname is not routed."`
	IsPrimary   bool          `json:"is_primary"`
	DNS         DNSRecord     `json:"dns" doc:"Publish this record, then verify, and leave it there."`
	VerifiedAt  *time.Time    `json:"verified_at"`
	CheckedAt   *time.Time    `json:"checked_at" doc:"When the DNS has last answered."`
	ExpiresAt   *time.Time    `json:"expires_at" doc:"When a claim ends that is not proven."`
	CreatedAt   time.Time     `json:"created_at"`
}

// DNSRecord proves that a hostname is its claimant's.
type DNSRecord struct {
	Name  string `json:"name" example:"_ouvira.shop.example.com"`
	Type  string `json:"type" enum:"TXT"`
	Value string `json:"value"`
}

func domainOf(d domain.Domain) Domain {
	return Domain{
		ID: d.ID, TenantID: d.TenantID, Hostname: d.Hostname, DisplayName: d.DisplayName(), Status: d.Status, IsPrimary: d.IsPrimary,
		DNS:        DNSRecord{Name: d.RecordName(), Type: "TXT", Value: d.Challenge},
		VerifiedAt: d.VerifiedAt, CheckedAt: d.CheckedAt, ExpiresAt: d.ExpiresAt(), CreatedAt: d.CreatedAt,
	}
}

func (a *api) listDomains(ctx context.Context, in *TenantPath) (*body[List[Domain]], error) {
	t, err := a.find(ctx, *in)
	if err != nil {
		return nil, err
	}
	found, err := a.Domains.List(ctx, t.ID)
	if err != nil {
		return nil, err
	}
	items := make([]Domain, 0, len(found))
	for _, d := range found {
		items = append(items, domainOf(d))
	}
	return listed(items, ""), nil
}

type addDomainInput struct {
	TenantPath

	Body struct {
		Hostname string `json:"hostname" example:"shop.example.com"`
	}
}

func (a *api) addDomain(ctx context.Context, in *addDomainInput) (*body[Domain], error) {
	t, err := a.find(ctx, in.TenantPath)
	if err != nil {
		return nil, err
	}
	return answerDomain(a.Domains.Add(ctx, actorOf(ctx), t.ID, in.Body.Hostname))
}

type domainPath struct {
	ID uuid.UUID `path:"id" format:"uuid"`
}

func (a *api) verifyDomain(ctx context.Context, in *domainPath) (*body[Domain], error) {
	return answerDomain(a.Domains.Verify(ctx, actorOf(ctx), in.ID))
}

func answerDomain(d domain.Domain, err error) (*body[Domain], error) {
	if err != nil {
		return nil, err
	}
	return &body[Domain]{domainOf(d)}, nil
}

// DomainCheck is what the DNS says about a domain now.
type DomainCheck struct {
	Proof  domain.Proof `json:"proof" enum:"found,missing,unknown" doc:"Unknown: the DNS could not be asked."`
	Domain Domain       `json:"domain"`
}

func (a *api) checkDomain(ctx context.Context, in *domainPath) (*body[DomainCheck], error) {
	d, found, err := a.Domains.Check(ctx, actorOf(ctx), in.ID)
	if err != nil {
		return nil, err
	}
	return &body[DomainCheck]{DomainCheck{Proof: found, Domain: domainOf(d)}}, nil
}

func (a *api) setPrimaryDomain(ctx context.Context, in *domainPath) (*body[Domain], error) {
	return answerDomain(a.Domains.SetPrimary(ctx, actorOf(ctx), in.ID))
}

func (a *api) unsetPrimaryDomain(ctx context.Context, in *domainPath) (*body[Domain], error) {
	return answerDomain(a.Domains.UnsetPrimary(ctx, actorOf(ctx), in.ID))
}

func (a *api) removeDomain(ctx context.Context, in *domainPath) (*struct{}, error) {
	return nil, a.Domains.Remove(ctx, actorOf(ctx), in.ID)
}
