package tenant

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/event"
	"github.com/ouvira/ouvira/controlplane/internal/tenant/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
)

// Patch changes what it names.
type Patch struct {
	Name     *string
	Plan     *string
	Settings *SettingsPatch
}

// Update changes a tenant. What nodes must know of is published.
func (s *Service) Update(ctx context.Context, actor *audit.Actor, id uuid.UUID, p Patch) (Tenant, error) {
	change := dbsqlc.UpdateTenantParams{ID: id}
	detail := map[string]any{}
	if p.Name != nil {
		name, err := CheckName(*p.Name, "name")
		if err != nil {
			return Tenant{}, err
		}
		change.Name, detail["name"] = &name, name
	}
	return s.change(ctx, id, func(tx pgx.Tx, locked dbsqlc.LockTenantRow) (publish bool, err error) {
		if st := Status(locked.Status); st == StatusDeleted || st == StatusPurged {
			return false, illegal(st, "changed")
		}
		if p.Plan != nil {
			plan, err := s.q.PlanByCode(ctx, tx, *p.Plan)
			if errors.Is(err, pgx.ErrNoRows) {
				return false, noPlan()
			}
			if err != nil {
				return false, fmt.Errorf("look up the plan: %w", err)
			}
			change.PlanID, detail["plan"] = uuid.NullUUID{UUID: plan.ID, Valid: true}, plan.Code
		}
		if p.Settings != nil {
			if change.Settings, err = patched(locked.Settings, *p.Settings); err != nil {
				return false, err
			}
			detail["settings"] = json.RawMessage(change.Settings)
		}
		if err := s.q.UpdateTenant(ctx, tx, change); err != nil {
			return false, fmt.Errorf("update the tenant: %w", err)
		}
		return p.Plan != nil || p.Settings != nil, record(ctx, tx, actor, "tenant.update", id, detail)
	})
}

func patched(stored []byte, p SettingsPatch) ([]byte, error) {
	var settings route.Settings
	if err := json.Unmarshal(stored, &settings); err != nil {
		return nil, fmt.Errorf("decode the settings: %w", err)
	}
	settings, err := p.apply(settings)
	if err != nil {
		return nil, err
	}
	return json.Marshal(settings)
}

// maxReason bounds a reason, in bytes.
const maxReason = 500

// Suspend stops serving the tenant: nodes answer 403 as soon as they have the
// new route. The same transaction asks for the fence on the tenant's role, which
// holds also against a node that hears of nothing.
func (s *Service) Suspend(ctx context.Context, actor *audit.Actor, id uuid.UUID, reason string) (Tenant, error) {
	reason = strings.TrimSpace(reason)
	if reason == "" || len(reason) > maxReason {
		return Tenant{}, fault.Invalid("Say why, in 1 to 500 characters: the tenant's people will ask.").
			OnField("reason", "length", "Expected 1 to 500 characters.")
	}
	t := transition{
		from: StatusActive, to: StatusSuspended, reason: reason, verb: "suspended",
		actor: actor, action: "tenant.suspend", event: event.TenantSuspended,
	}
	return s.change(ctx, id, func(tx pgx.Tx, locked dbsqlc.LockTenantRow) (bool, error) {
		if err := s.may(ctx, tx, locked, t.verb, t.from); err != nil {
			return false, err
		}
		if _, err := s.Lifecycle.Fence(ctx, tx, id, actor.String()); err != nil {
			return false, fmt.Errorf("ask for the fence: %w", err)
		}
		return true, s.move(ctx, tx, locked, t)
	})
}

// Resume serves a suspended tenant again, once the fence on its role is taken
// away. Errors: fault.Unavailable when it cannot be taken away now.
func (s *Service) Resume(ctx context.Context, actor *audit.Actor, id uuid.UUID) (Tenant, error) {
	t := transition{
		from: StatusSuspended, to: StatusActive, verb: "resumed",
		actor: actor, action: "tenant.resume", event: event.TenantResumed,
	}
	var resumed Tenant
	err := s.Lifecycle.Resume(ctx, id,
		func(ctx context.Context, tx pgx.Tx) error {
			locked, err := s.lock(ctx, tx, id)
			if err != nil {
				return err
			}
			return s.may(ctx, tx, locked, t.verb, t.from)
		},
		func(ctx context.Context, tx pgx.Tx) (err error) {
			resumed, err = s.changeTx(ctx, tx, id, func(tx pgx.Tx, locked dbsqlc.LockTenantRow) (bool, error) {
				return true, s.move(ctx, tx, locked, t)
			})
			return err
		})
	return resumed, err
}

type transition struct {
	from, to Status
	reason   string
	verb     string
	actor    *audit.Actor
	action   string
	event    event.Type
}

func (s *Service) move(ctx context.Context, tx pgx.Tx, locked dbsqlc.LockTenantRow, t transition) error {
	err := s.q.SetStatus(ctx, tx, dbsqlc.SetStatusParams{ID: locked.ID, Status: string(t.to), Reason: t.reason})
	if err != nil {
		return fmt.Errorf("set the status: %w", err)
	}
	detail := map[string]any{"from": t.from, "to": t.to}
	if t.reason != "" {
		detail["reason"] = t.reason
	}
	if err := event.Record(ctx, tx, t.event, locked.ID, map[string]any{"slug": locked.Slug}); err != nil {
		return err
	}
	return record(ctx, tx, t.actor, t.action, locked.ID, detail)
}

func record(ctx context.Context, tx pgx.Tx, actor *audit.Actor, action string, id uuid.UUID, detail map[string]any) error {
	return audit.Record(ctx, tx, audit.Entry{
		Actor: actor, Action: action, EntityType: "tenant", EntityID: id.String(), TenantID: id, Detail: detail,
	})
}

// allowed says what can be done with a tenant of a status.
var allowed = map[Status]string{
	StatusProvisioning: "wait until it is active",
	StatusActive:       "suspend, change or delete it",
	StatusSuspended:    "resume, change or delete it",
	StatusFailed:       "read its operation's next action, retry or delete it",
	StatusDeleted:      "undelete it until its grace is over, or purge it",
	StatusPurged:       "nothing: its data is gone",
}

// may refuses a move that the tenant's status does not allow. It names the status,
// what is allowed, and whoever is at work on the tenant, or has made it what it is.
func (s *Service) may(ctx context.Context, tx pgx.Tx, locked dbsqlc.LockTenantRow, verb string, from ...Status) error {
	is := Status(locked.Status)
	if slices.Contains(from, is) {
		return nil
	}
	refused := illegal(is, verb, from...)
	err := s.Lifecycle.Idle(ctx, tx, locked.ID)
	busy, ok := errors.AsType[*fault.Error](err)
	if err != nil && !ok {
		return err
	}
	if ok {
		refused.Message += " " + busy.Message
		return refused
	}
	last, err := audit.Last(ctx, tx, locked.ID, "tenant.suspend", "tenant.resume", "tenant.delete", "tenant.undelete", "tenant.purge")
	if err != nil {
		return err
	}
	if last != nil {
		refused.Message += " Last change: " + last.Action + " by " + cmp.Or(last.ActorName, last.ActorID) + " at " + last.CreatedAt.UTC().Format(time.RFC3339) + "."
	}
	return refused
}

// illegal names the status and what is allowed. from are the statuses that the
// move starts from, if it is bound to some.
func illegal(is Status, verb string, from ...Status) *fault.Error {
	message := "The tenant is " + string(is) + " and cannot be " + verb
	if n := len(from); n > 0 {
		names := make([]string, n)
		for i, want := range from {
			names[i] = string(want)
		}
		which := names[n-1]
		if n > 1 {
			which = strings.Join(names[:n-1], ", ") + " or " + which
		}
		message += ": only a tenant that is " + which + " can"
	}
	return fault.Conflict(message + ". Allowed now: " + allowed[is] + ".").Code("tenant_" + string(is))
}

// change runs fn with the tenant locked and, when fn says so, publishes the
// route as the last statement of the transaction.
func (s *Service) change(ctx context.Context, id uuid.UUID, fn func(pgx.Tx, dbsqlc.LockTenantRow) (publish bool, err error)) (Tenant, error) {
	return pg.InTxValue(ctx, s.DB, func(tx pgx.Tx) (Tenant, error) { return s.changeTx(ctx, tx, id, fn) })
}

func (s *Service) changeTx(ctx context.Context, tx pgx.Tx, id uuid.UUID, fn func(pgx.Tx, dbsqlc.LockTenantRow) (publish bool, err error)) (Tenant, error) {
	locked, err := s.lock(ctx, tx, id)
	if err != nil {
		return Tenant{}, err
	}
	publish, err := fn(tx, locked)
	if err != nil {
		return Tenant{}, err
	}
	changed, err := s.GetTx(ctx, tx, id)
	if err != nil || !publish {
		return changed, err
	}
	return changed, s.publish(ctx, tx, id)
}

func (s *Service) lock(ctx context.Context, tx pgx.Tx, id uuid.UUID) (dbsqlc.LockTenantRow, error) {
	locked, err := s.q.LockTenant(ctx, tx, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return locked, noTenant()
	}
	if err != nil {
		return locked, fmt.Errorf("lock the tenant: %w", err)
	}
	return locked, nil
}

// publish gives the tenant's route its new version, if it has one yet: the
// activation publishes the first.
func (s *Service) publish(ctx context.Context, tx pgx.Tx, id uuid.UUID) error {
	routed, err := s.q.IsRouted(ctx, tx, id)
	if err != nil {
		return fmt.Errorf("look up the route: %w", err)
	}
	if !routed {
		return nil
	}
	if _, err := s.q.PublishRoute(ctx, tx, id); err != nil {
		return fmt.Errorf("publish the route: %w", err)
	}
	return nil
}
