package tenant

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

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
			return false, illegal(st, "changed", "")
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
		return p.Plan != nil || p.Settings != nil, audit.Record(ctx, tx, audit.Entry{
			Actor: actor, Action: "tenant.update", EntityType: "tenant", EntityID: id.String(), TenantID: id, Detail: detail,
		})
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
// new route. The fence in the tenant's database, which holds even against a
// node that hears of nothing, comes with the operation that deletes tenants.
func (s *Service) Suspend(ctx context.Context, actor *audit.Actor, id uuid.UUID, reason string) (Tenant, error) {
	reason = strings.TrimSpace(reason)
	if reason == "" || len(reason) > maxReason {
		return Tenant{}, fault.Invalid("Say why, in 1 to 500 characters: the tenant's people will ask.").
			OnField("reason", "length", "Expected 1 to 500 characters.")
	}
	return s.move(ctx, id, transition{
		from: StatusActive, to: StatusSuspended, reason: reason, verb: "suspended",
		actor: actor, action: "tenant.suspend", event: event.TenantSuspended,
	})
}

// Resume serves a suspended tenant again.
func (s *Service) Resume(ctx context.Context, actor *audit.Actor, id uuid.UUID) (Tenant, error) {
	return s.move(ctx, id, transition{
		from: StatusSuspended, to: StatusActive, verb: "resumed",
		actor: actor, action: "tenant.resume", event: event.TenantResumed,
	})
}

type transition struct {
	from, to Status
	reason   string
	verb     string
	actor    *audit.Actor
	action   string
	event    event.Type
}

func (s *Service) move(ctx context.Context, id uuid.UUID, t transition) (Tenant, error) {
	return s.change(ctx, id, func(tx pgx.Tx, locked dbsqlc.LockTenantRow) (bool, error) {
		if Status(locked.Status) != t.from {
			return false, illegal(Status(locked.Status), t.verb, t.from)
		}
		err := s.q.SetStatus(ctx, tx, dbsqlc.SetStatusParams{ID: id, Status: string(t.to), Reason: t.reason})
		if err != nil {
			return false, fmt.Errorf("set the status: %w", err)
		}
		detail := map[string]any{"from": t.from, "to": t.to}
		if t.reason != "" {
			detail["reason"] = t.reason
		}
		if err := event.Record(ctx, tx, t.event, id, map[string]any{"slug": locked.Slug}); err != nil {
			return false, err
		}
		return true, audit.Record(ctx, tx, audit.Entry{
			Actor: t.actor, Action: t.action, EntityType: "tenant", EntityID: id.String(), TenantID: id, Detail: detail,
		})
	})
}

// allowed says what can be done with a tenant of a status.
var allowed = map[Status]string{
	StatusProvisioning: "wait until it is active",
	StatusActive:       "suspend or change it",
	StatusSuspended:    "resume or change it",
	StatusFailed:       "read its operation's next action",
	StatusDeleted:      "undelete it until it is purged",
	StatusPurged:       "nothing: its data is gone",
}

// illegal names the status and what is allowed. want is the status that the
// move starts from, if there is one.
func illegal(is Status, verb string, want Status) error {
	message := "The tenant is " + string(is) + " and cannot be " + verb
	if want != "" {
		message += ": only a tenant that is " + string(want) + " can"
	}
	return fault.Conflict(message + ". Allowed now: " + allowed[is] + ".").Code("tenant_" + string(is))
}

// change runs fn with the tenant locked and, when fn says so, publishes the
// route as the last statement of the transaction.
func (s *Service) change(ctx context.Context, id uuid.UUID, fn func(pgx.Tx, dbsqlc.LockTenantRow) (publish bool, err error)) (Tenant, error) {
	var changed Tenant
	err := pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		locked, err := s.q.LockTenant(ctx, tx, id)
		if errors.Is(err, pgx.ErrNoRows) {
			return noTenant()
		}
		if err != nil {
			return fmt.Errorf("lock the tenant: %w", err)
		}
		publish, err := fn(tx, locked)
		if err != nil {
			return err
		}
		if changed, err = s.GetTx(ctx, tx, id); err != nil || !publish {
			return err
		}
		return s.publish(ctx, tx, id)
	})
	return changed, err
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
