package httpapi

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/domain"
)

// Domain is a hostname of a tenant.
type Domain struct {
	ID         uuid.UUID     `json:"id" format:"uuid"`
	TenantID   uuid.UUID     `json:"tenant_id" format:"uuid"`
	Hostname   string        `json:"hostname"`
	Status     domain.Status `json:"status" enum:"pending,verified,lost"`
	IsPrimary  bool          `json:"is_primary"`
	DNS        DNSRecord     `json:"dns" doc:"Publish this record, then verify."`
	VerifiedAt *time.Time    `json:"verified_at"`
	CreatedAt  time.Time     `json:"created_at"`
}

// DNSRecord proves that a hostname is its claimant's.
type DNSRecord struct {
	Name  string `json:"name" example:"_ouvira.shop.example.com"`
	Type  string `json:"type" enum:"TXT"`
	Value string `json:"value"`
}

func domainOf(d domain.Domain) Domain {
	return Domain{
		ID: d.ID, TenantID: d.TenantID, Hostname: d.Hostname, Status: d.Status, IsPrimary: d.IsPrimary,
		DNS:        DNSRecord{Name: d.RecordName(), Type: "TXT", Value: d.Challenge},
		VerifiedAt: d.VerifiedAt, CreatedAt: d.CreatedAt,
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
	d, err := a.Domains.Add(ctx, actorOf(ctx), t.ID, in.Body.Hostname)
	if err != nil {
		return nil, err
	}
	return &body[Domain]{domainOf(d)}, nil
}

type domainPath struct {
	ID uuid.UUID `path:"id" format:"uuid"`
}

func (a *api) verifyDomain(ctx context.Context, in *domainPath) (*body[Domain], error) {
	d, err := a.Domains.Verify(ctx, actorOf(ctx), in.ID)
	if err != nil {
		return nil, err
	}
	return &body[Domain]{domainOf(d)}, nil
}

func (a *api) removeDomain(ctx context.Context, in *domainPath) (*struct{}, error) {
	return nil, a.Domains.Remove(ctx, actorOf(ctx), in.ID)
}
