// Package domain maps hostnames of customers to tenants.
//
// It promises: a hostname belongs to one tenant at most; it is routed only
// after its owner has proven the claim with a TXT record; each claim gets a
// challenge of its own, so that a released name needs a fresh proof; what
// changes the route publishes it in the same transaction.
package domain

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/domain/dbsqlc"
	"github.com/ouvira/ouvira/controlplane/internal/event"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
)

// Status of a domain.
type Status string

// The states of a domain.
const (
	StatusPending  Status = "pending"
	StatusVerified Status = "verified"
	StatusLost     Status = "lost"
)

// ChallengeLabel is the DNS label under which the proof is looked for.
const ChallengeLabel = "_ouvira"

const challengePrefix = "ouvira-verification="

// lookupTimeout bounds the question to the DNS.
const lookupTimeout = 5 * time.Second

// Domain is a hostname of a tenant.
type Domain struct {
	ID         uuid.UUID
	TenantID   uuid.UUID
	Hostname   string
	Status     Status
	IsPrimary  bool
	Challenge  string
	VerifiedAt *time.Time
	CreatedAt  time.Time
}

// RecordName is the name of the TXT record that proves the claim.
func (d Domain) RecordName() string { return ChallengeLabel + "." + d.Hostname }

// Resolver asks the DNS.
type Resolver interface {
	LookupTXT(ctx context.Context, name string) ([]string, error)
}

// Service of the room. Resolver may be nil: the system's is used then.
type Service struct {
	DB         *pgxpool.Pool
	BaseDomain string
	Resolver   Resolver

	q dbsqlc.Queries
}

// List gives the domains of a tenant by name.
func (s *Service) List(ctx context.Context, tenantID uuid.UUID) ([]Domain, error) {
	rows, err := s.q.ListDomains(ctx, s.DB, tenantID)
	if err != nil {
		return nil, fmt.Errorf("list the domains: %w", err)
	}
	list := make([]Domain, 0, len(rows))
	for _, r := range rows {
		list = append(list, domainOf(r))
	}
	return list, nil
}

// Add claims a hostname for a tenant. It is not routed before Verify.
func (s *Service) Add(ctx context.Context, actor *audit.Actor, tenantID uuid.UUID, hostname string) (Domain, error) {
	name, err := s.normalize(hostname)
	if err != nil {
		return Domain{}, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return Domain{}, fmt.Errorf("make an id: %w", err)
	}
	var added Domain
	err = pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		if err := s.lockTenant(ctx, tx, tenantID); err != nil {
			return err
		}
		row, err := s.q.InsertDomain(ctx, tx, dbsqlc.InsertDomainParams{
			ID: id, TenantID: tenantID, Hostname: name, Challenge: challengePrefix + rand.Text(),
		})
		if pg.Constraint(err) == "domains_hostname_key" {
			return fault.Conflict("This hostname is mapped already. Remove it there first.").Code("domain_taken").
				OnField("hostname", "taken", "This hostname is taken.").Because(err)
		}
		if err != nil {
			return fmt.Errorf("store the domain: %w", err)
		}
		added = domainOf(row)
		return audit.Record(ctx, tx, audit.Entry{
			Actor: actor, Action: "domain.add", EntityType: "domain", EntityID: id.String(),
			TenantID: tenantID, Detail: map[string]any{"hostname": name},
		})
	})
	return added, err
}

// normalize refuses what cannot be, or must not be, a tenant's own hostname.
// Names below the base domain belong to the platform: a tenant that could
// claim one would take another tenant's address.
func (s *Service) normalize(hostname string) (string, error) {
	refuse := func(code, message string) error {
		return fault.Invalid(message).OnField("hostname", code, message)
	}
	name, err := route.NormalizeHost(strings.TrimSpace(hostname))
	switch {
	case err != nil, strings.Contains(hostname, ":"):
		return "", refuse("hostname", "This is not a host name. Write it as in shop.example.com, without scheme, port and path.")
	case !strings.Contains(name, "."):
		return "", refuse("hostname", "A host name needs at least two parts, as in shop.example.com.")
	case len(name) > 253-len(ChallengeLabel)-1:
		return "", refuse("too_long", "This host name is too long for its proof to be published in the DNS.")
	case name == s.BaseDomain, strings.HasSuffix(name, "."+s.BaseDomain):
		return "", refuse("platform_name", "Names below the platform's own domain are given out by the platform. Use a domain of the customer.")
	}
	return name, nil
}

// lockTenant comes first in every change: rows are locked in the order tenant,
// domain, route clock.
func (s *Service) lockTenant(ctx context.Context, tx pgx.Tx, tenantID uuid.UUID) error {
	status, err := s.q.LockTenant(ctx, tx, tenantID)
	if errors.Is(err, pgx.ErrNoRows) {
		return fault.NotFound("There is no such tenant.")
	}
	if err != nil {
		return fmt.Errorf("lock the tenant: %w", err)
	}
	if status == "deleted" || status == "purged" {
		return fault.Conflict("The tenant is " + status + ": its domains cannot be changed. Undelete it first, or choose another tenant.").Code("tenant_" + status)
	}
	return nil
}

// Get finds a domain.
func (s *Service) Get(ctx context.Context, id uuid.UUID) (Domain, error) {
	row, err := s.q.GetDomain(ctx, s.DB, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return Domain{}, noDomain()
	}
	if err != nil {
		return Domain{}, fmt.Errorf("read the domain: %w", err)
	}
	return domainOf(row), nil
}

func noDomain() error { return fault.NotFound("There is no such domain.") }

// Verify looks for the proof in the DNS and routes the hostname when it is
// there. A verified domain stays as it is.
func (s *Service) Verify(ctx context.Context, actor *audit.Actor, id uuid.UUID) (Domain, error) {
	d, err := s.Get(ctx, id)
	if err != nil || d.Status == StatusVerified {
		return d, err
	}
	if err := s.prove(ctx, d); err != nil {
		return Domain{}, err
	}
	err = s.change(ctx, d, func(tx pgx.Tx, locked Domain) error {
		if locked.Challenge != d.Challenge {
			return fault.Conflict("The domain was changed in the meantime. Verify it again.")
		}
		if err := s.q.MarkVerified(ctx, tx, id); err != nil {
			return fmt.Errorf("mark the domain as verified: %w", err)
		}
		if err := event.Record(ctx, tx, event.DomainVerified, d.TenantID, map[string]any{"hostname": d.Hostname}); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Entry{
			Actor: actor, Action: "domain.verify", EntityType: "domain", EntityID: id.String(),
			TenantID: d.TenantID, Detail: map[string]any{"hostname": d.Hostname},
		})
	})
	if err != nil {
		return Domain{}, err
	}
	return s.Get(ctx, id)
}

// prove asks the DNS outside of any transaction.
func (s *Service) prove(ctx context.Context, d Domain) error {
	var resolver Resolver = net.DefaultResolver
	if s.Resolver != nil {
		resolver = s.Resolver
	}
	asking, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	records, err := resolver.LookupTXT(asking, d.RecordName())
	if slices.Contains(records, d.Challenge) {
		return nil
	}
	return fault.Conflict("The proof was not found: publish the TXT record that the domain shows, wait until the DNS has it, and verify again.").
		Code("proof_missing").Because(err)
}

// Remove releases the hostname.
func (s *Service) Remove(ctx context.Context, actor *audit.Actor, id uuid.UUID) error {
	d, err := s.Get(ctx, id)
	if err != nil {
		return err
	}
	return s.change(ctx, d, func(tx pgx.Tx, locked Domain) error {
		if err := s.q.DeleteDomain(ctx, tx, id); err != nil {
			return fmt.Errorf("remove the domain: %w", err)
		}
		return audit.Record(ctx, tx, audit.Entry{
			Actor: actor, Action: "domain.remove", EntityType: "domain", EntityID: id.String(),
			TenantID: d.TenantID, Detail: map[string]any{"hostname": d.Hostname, "status": locked.Status},
		})
	})
}

// change runs fn with tenant and domain locked, and publishes the route as the
// last statement.
func (s *Service) change(ctx context.Context, d Domain, fn func(tx pgx.Tx, locked Domain) error) error {
	return pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		if err := s.lockTenant(ctx, tx, d.TenantID); err != nil {
			return err
		}
		row, err := s.q.LockDomain(ctx, tx, d.ID)
		if errors.Is(err, pgx.ErrNoRows) {
			return noDomain()
		}
		if err != nil {
			return fmt.Errorf("lock the domain: %w", err)
		}
		routed, err := s.q.IsRouted(ctx, tx, d.TenantID)
		if err != nil {
			return fmt.Errorf("look up the route: %w", err)
		}
		if err := fn(tx, domainOf(row)); err != nil {
			return err
		}
		if !routed {
			return nil // the activation publishes the first route
		}
		if _, err := s.q.PublishRoute(ctx, tx, d.TenantID); err != nil {
			return fmt.Errorf("publish the route: %w", err)
		}
		return nil
	})
}

func domainOf(r dbsqlc.ControlDomain) Domain {
	return Domain{
		ID: r.ID, TenantID: r.TenantID, Hostname: r.Hostname, Status: Status(r.Status), IsPrimary: r.IsPrimary,
		Challenge: r.Challenge, VerifiedAt: r.VerifiedAt, CreatedAt: r.CreatedAt,
	}
}
