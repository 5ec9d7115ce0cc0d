// Package domain maps hostnames of customers to tenants.
//
// It promises: a hostname belongs to one tenant at most; it is routed only
// after its owner has proven the claim with a TXT record, and as long as the
// proof is there (a grace of days forgives what passes); each claim gets a
// challenge of its own, so that a released name needs a fresh proof; what
// changes the route publishes it in the same transaction.
//
//	pending ── proven ──▶ verified ── proof gone for days ──▶ lost
//	   │                     ▲                                 │
//	   └─ 14 days: released  └────────── proof is back ────────┘
package domain

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

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

// Domain is a hostname of a tenant.
type Domain struct {
	ID         uuid.UUID
	TenantID   uuid.UUID
	Hostname   string
	Status     Status
	IsPrimary  bool
	Challenge  string
	VerifiedAt *time.Time
	CheckedAt  *time.Time // when the DNS has last answered
	CreatedAt  time.Time

	failures     int32
	failingSince *time.Time
}

// DisplayName is the hostname as people write it: with its own letters.
func (d Domain) DisplayName() string { return route.DisplayHost(d.Hostname) }

// ExpiresAt is when a claim ends that is not proven; nil for others.
func (d Domain) ExpiresAt() *time.Time {
	if d.Status != StatusPending {
		return nil
	}
	end := d.CreatedAt.Add(ClaimLifetime)
	return &end
}

// RecordName is the name of the TXT record that proves the claim.
func (d Domain) RecordName() string { return ChallengeLabel + "." + d.Hostname }

// Service of the room.
type Service struct {
	DB         pg.DB
	BaseDomain string
	Reserved   []string         // names of the platform that no tenant gets, with all below them
	Resolver   Resolver         // nil: the system's
	Log        *slog.Logger     // nil: the default one
	Now        func() time.Time // nil: time.Now

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
		if err := s.takeOver(ctx, tx, actor, tenantID, name); err != nil {
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

// takeOver frees a name that another tenant has lost.
func (s *Service) takeOver(ctx context.Context, tx pgx.Tx, actor *audit.Actor, tenantID uuid.UUID, name string) error {
	loser, err := s.q.DropLost(ctx, tx, dbsqlc.DropLostParams{Hostname: name, TenantID: tenantID})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("free a lost name: %w", err)
	}
	return audit.Record(ctx, tx, audit.Entry{
		Actor: actor, Action: "domain.remove", EntityType: "domain", EntityID: name, TenantID: loser,
		Detail: map[string]any{"hostname": name, "status": StatusLost, "claimed_by": tenantID},
	})
}

// special are top-level names that are nobody's to prove (RFC 6761 and 6762, and
// ICANN's "internal").
var special = []string{"localhost", "local", "internal", "invalid", "onion", "arpa"}

// below tells whether the name is the parent or lies below it.
func below(name, parent string) bool { return name == parent || strings.HasSuffix(name, "."+parent) }

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
	case slices.ContainsFunc(special, func(s string) bool { return below(name, s) }):
		return "", refuse("special_name", "Names of this kind are not in the public DNS. Use a domain that is registered to the customer.")
	case slices.ContainsFunc(s.Reserved, func(s string) bool { return below(name, s) }):
		return "", refuse("reserved", "This name is reserved for the platform. Use a domain of the customer.")
	case below(name, s.BaseDomain):
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
	found, why := s.look(ctx, d)
	switch found {
	case ProofMissing:
		return Domain{}, fault.Conflict("The proof was not found: publish the TXT record that the domain shows, wait until the DNS has it, and verify again.").
			Code("proof_missing").Because(why)
	case ProofUnknown:
		return Domain{}, fault.Unavailable("The DNS could not be asked: the name servers of the domain do not answer, or the platform's resolver does not. Try again in a minute.").
			Code("dns_unavailable").RetryAfter(time.Minute).Because(why)
	case ProofFound:
	}
	now := s.now()
	err = s.change(ctx, d, func(tx pgx.Tx, _ Domain) error {
		changed, err := s.q.SetChecked(ctx, tx, dbsqlc.SetCheckedParams{
			ID: id, Challenge: d.Challenge, OldStatus: string(d.Status), NewStatus: string(StatusVerified),
			CheckedAt: now, NextCheckAt: now.Add(recheckEvery),
		})
		if err != nil {
			return fmt.Errorf("mark the domain as verified: %w", err)
		}
		if changed == 0 {
			return fault.Conflict("The domain was changed in the meantime. Verify it again.")
		}
		return s.record(ctx, tx, actor, d, event.DomainVerified, "domain.verify")
	})
	if err != nil {
		return Domain{}, err
	}
	return s.Get(ctx, id)
}

// Check asks the DNS now and says what it has; a verified or lost domain moves as
// if its time had come.
func (s *Service) Check(ctx context.Context, actor *audit.Actor, id uuid.UUID) (Domain, Proof, error) {
	d, err := s.Get(ctx, id)
	if err != nil {
		return Domain{}, "", err
	}
	found, why := s.look(ctx, d)
	if found == ProofUnknown && ctx.Err() == nil {
		s.log().WarnContext(ctx, "the DNS cannot be asked about a domain", "hostname", d.Hostname, "error", why)
	}
	if d.Status != StatusPending {
		if err := s.settle(ctx, actor, d, found); err != nil {
			return Domain{}, "", err
		}
	}
	d, err = s.Get(ctx, id)
	return d, found, err
}

// SetPrimary makes a verified domain the one that links are written with.
func (s *Service) SetPrimary(ctx context.Context, actor *audit.Actor, id uuid.UUID) (Domain, error) {
	return s.setPrimary(ctx, actor, id, true)
}

// UnsetPrimary gives that back to the tenant's name on the platform.
func (s *Service) UnsetPrimary(ctx context.Context, actor *audit.Actor, id uuid.UUID) (Domain, error) {
	return s.setPrimary(ctx, actor, id, false)
}

func (s *Service) setPrimary(ctx context.Context, actor *audit.Actor, id uuid.UUID, primary bool) (Domain, error) {
	d, err := s.Get(ctx, id)
	if err != nil || d.IsPrimary == primary {
		return d, err
	}
	err = s.change(ctx, d, func(tx pgx.Tx, locked Domain) error {
		if primary && locked.Status != StatusVerified {
			return fault.Conflict("The domain is " + string(locked.Status) + ": only one that is verified can be the primary domain. Verify it first.").
				Code("domain_" + string(locked.Status))
		}
		if err := s.q.UnsetPrimary(ctx, tx, d.TenantID); err != nil {
			return fmt.Errorf("take the primary domain back: %w", err)
		}
		action := "domain.unset_primary"
		if primary {
			action = "domain.primary"
			if err := s.q.SetPrimary(ctx, tx, id); err != nil {
				return fmt.Errorf("set the primary domain: %w", err)
			}
		}
		return audit.Record(ctx, tx, audit.Entry{
			Actor: actor, Action: action, EntityType: "domain", EntityID: id.String(),
			TenantID: d.TenantID, Detail: map[string]any{"hostname": d.Hostname},
		})
	})
	if err != nil {
		return Domain{}, err
	}
	return s.Get(ctx, id)
}

// Serves tells whether a name leads to a tenant: a verified domain, or a name
// below the platform's. It is one look at two indexes, whatever is asked.
func (s *Service) Serves(ctx context.Context, host string) (bool, error) {
	name, err := route.NormalizeHost(host)
	if err != nil || strings.Contains(host, ":") {
		return false, nil //nolint:nilerr // what is no name leads nowhere
	}
	slug, platform := strings.CutSuffix(name, "."+s.BaseDomain)
	if !platform {
		slug = ""
	}
	serves, err := s.q.Serves(ctx, s.DB, dbsqlc.ServesParams{Hostname: name, Slug: slug})
	if err != nil {
		return false, fmt.Errorf("look up a name: %w", err)
	}
	return serves, nil
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
		Challenge: r.Challenge, VerifiedAt: r.VerifiedAt, CheckedAt: r.CheckedAt, CreatedAt: r.CreatedAt,
		failures: r.Failures, failingSince: r.FailingSince,
	}
}
