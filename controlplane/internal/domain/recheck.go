package domain

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/domain/dbsqlc"
	"github.com/ouvira/ouvira/controlplane/internal/event"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// How verified domains are looked at again. A name is lost after several answers
// without its proof that lie days apart: zones are edited by hand, and moved.
const (
	recheckEvery   = 12 * time.Hour // verified, and found
	recheckFailing = time.Hour      // verified, and not found lately, or not answered
	recheckLost    = 6 * time.Hour
	// GraceFailures in GracePeriod are needed to lose a name.
	GraceFailures = 4
	GracePeriod   = 72 * time.Hour
	// ClaimLifetime is how long a claim waits for its proof.
	ClaimLifetime = 14 * 24 * time.Hour
)

const (
	recheckMost     = 200             // in one sweep
	recheckTogether = 8               // questions to the DNS
	recheckPatience = 5 * time.Minute // then another worker may take them
	claimsMost      = 500
)

// outcome is what a look at the DNS changes of a domain that is verified or lost.
type outcome struct {
	status       Status
	failures     int32
	failingSince *time.Time
	next         time.Time
}

// judge decides; it does no I/O.
func judge(d Domain, found Proof, now time.Time) outcome {
	o := outcome{status: d.Status, failures: d.failures, failingSince: d.failingSince}
	switch {
	case found == ProofFound:
		return outcome{status: StatusVerified, next: now.Add(recheckEvery)}
	case found == ProofUnknown: // says nothing
		o.next = now.Add(recheckFailing)
	case d.Status == StatusLost:
		o.next = now.Add(recheckLost)
	default:
		o.failures++
		if o.failingSince == nil {
			o.failingSince = &now
		}
		o.next = now.Add(recheckFailing)
		if o.failures >= GraceFailures && now.Sub(*o.failingSince) >= GracePeriod {
			o.status, o.next = StatusLost, now.Add(recheckLost)
		}
	}
	return o
}

// Recheck looks at the domains whose time has come again. One that cannot be
// settled is tried again later; only the control database's errors are returned.
func (s *Service) Recheck(ctx context.Context, actor *audit.Actor) error {
	now := s.now()
	rows, err := s.q.TakeDue(ctx, s.DB, dbsqlc.TakeDueParams{Now: now, RetryAt: now.Add(recheckPatience), Most: recheckMost})
	if err != nil {
		return fmt.Errorf("take the domains to look at: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(recheckTogether)
	for _, row := range rows {
		group.Go(func() error {
			d := domainOf(row)
			found, why := s.look(ctx, d)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if found == ProofUnknown {
				s.log().WarnContext(ctx, "the DNS cannot be asked about a domain", "hostname", d.Hostname, "error", why)
			}
			err := s.settle(ctx, actor, d, found)
			if fault.Is(err, fault.KindNotFound) || fault.Is(err, fault.KindConflict) {
				return nil // the domain or its tenant went meanwhile
			}
			return err
		})
	}
	return group.Wait()
}

// settle writes down what the DNS has said about a domain that is verified or
// lost. Only what changes the route locks the tenant.
func (s *Service) settle(ctx context.Context, actor *audit.Actor, d Domain, found Proof) error {
	now := s.now()
	o := judge(d, found, now)
	// Names that were verified together shall not stay together.
	next := o.next.Add(rand.N(o.next.Sub(now)/4 + 1)) //nolint:gosec // spreads load, keeps no secret
	if found == ProofUnknown {
		if err := s.q.Postpone(ctx, s.DB, dbsqlc.PostponeParams{ID: d.ID, NextCheckAt: next}); err != nil {
			return fmt.Errorf("postpone the look at a domain: %w", err)
		}
		return nil
	}
	change := dbsqlc.SetCheckedParams{
		ID: d.ID, Challenge: d.Challenge, OldStatus: string(d.Status), NewStatus: string(o.status),
		CheckedAt: now, NextCheckAt: next, Failures: o.failures, FailingSince: o.failingSince,
	}
	if o.status == d.Status {
		if _, err := s.q.SetChecked(ctx, s.DB, change); err != nil {
			return fmt.Errorf("write down a look at a domain: %w", err)
		}
		return nil
	}
	return s.change(ctx, d, func(tx pgx.Tx, _ Domain) error {
		changed, err := s.q.SetChecked(ctx, tx, change)
		if err != nil || changed == 0 {
			return err // 0: it was changed meanwhile
		}
		kind, action := event.DomainVerified, "domain.verify"
		if o.status == StatusLost {
			kind, action = event.DomainLost, "domain.lose"
			s.log().WarnContext(ctx, "a domain is lost: its proof is gone from the DNS", "hostname", d.Hostname, "tenant", d.TenantID)
		}
		return s.record(ctx, tx, actor, d, kind, action)
	})
}

// record tells of a domain's change, for webhooks and for the audit.
func (s *Service) record(ctx context.Context, tx pgx.Tx, actor *audit.Actor, d Domain, kind event.Type, action string) error {
	detail := map[string]any{"hostname": d.Hostname}
	if err := event.Record(ctx, tx, kind, d.TenantID, detail); err != nil {
		return err
	}
	return audit.Record(ctx, tx, audit.Entry{
		Actor: actor, Action: action, EntityType: "domain", EntityID: d.ID.String(), TenantID: d.TenantID, Detail: detail,
	})
}

// Expire releases names whose claim was never proven, and those of purged tenants.
// Neither is routed.
func (s *Service) Expire(ctx context.Context, actor *audit.Actor) error {
	return pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		gone, err := s.q.TakeUnproven(ctx, tx, dbsqlc.TakeUnprovenParams{ClaimedBefore: s.now().Add(-ClaimLifetime), Most: claimsMost})
		if err != nil {
			return fmt.Errorf("release claims that were never proven: %w", err)
		}
		for _, d := range gone {
			err := audit.Record(ctx, tx, audit.Entry{
				Actor: actor, Action: "domain.expire", EntityType: "domain", EntityID: d.ID.String(), TenantID: d.TenantID,
				Detail: map[string]any{"hostname": d.Hostname, "status": d.Status},
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *Service) log() *slog.Logger {
	if s.Log == nil {
		return slog.Default()
	}
	return s.Log
}

func (s *Service) now() time.Time {
	now := time.Now
	if s.Now != nil {
		now = s.Now
	}
	return now().UTC().Truncate(time.Microsecond)
}
