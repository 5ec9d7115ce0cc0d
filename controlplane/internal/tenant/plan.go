package tenant

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/tenant/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
)

// Plan is what a tenant may use.
type Plan struct {
	ID                 uuid.UUID
	Code               string
	Name               string
	MaxConnections     int32
	StatementTimeoutMS int32
	TrialDays          int32
	Limits             map[string]int // counts by name, where they differ from the defaults
	CreatedAt          time.Time
	UpdatedAt          time.Time
}

func planOf(r dbsqlc.ControlPlan) (Plan, error) {
	p := Plan{
		ID: r.ID, Code: r.Code, Name: r.Name, MaxConnections: r.MaxConnections,
		StatementTimeoutMS: r.StatementTimeoutMs, TrialDays: r.TrialDays, CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt,
	}
	if err := json.Unmarshal(r.Limits, &p.Limits); err != nil {
		return Plan{}, fmt.Errorf("decode the limits of plan %s: %w", r.Code, err)
	}
	return p, nil
}

// Plans lists the plans.
func (s *Service) Plans(ctx context.Context) ([]Plan, error) {
	rows, err := s.q.ListPlans(ctx, s.DB)
	if err != nil {
		return nil, fmt.Errorf("list the plans: %w", err)
	}
	plans := make([]Plan, 0, len(rows))
	for _, r := range rows {
		p, err := planOf(r)
		if err != nil {
			return nil, err
		}
		plans = append(plans, p)
	}
	return plans, nil
}

// ChangeLimits sets the counts that are named; nil takes a default back. The
// routes of all tenants of the plan carry them from then on.
func (s *Service) ChangeLimits(ctx context.Context, actor *audit.Actor, code string, change map[string]*int) (Plan, error) {
	if err := checkLimits(change); err != nil {
		return Plan{}, err
	}
	return pg.InTxValue(ctx, s.DB, func(tx pgx.Tx) (Plan, error) {
		row, err := s.q.LockPlan(ctx, tx, code)
		if errors.Is(err, pgx.ErrNoRows) {
			return Plan{}, fault.NotFound("There is no plan of this code. See GET /v1/plans.")
		}
		if err != nil {
			return Plan{}, fmt.Errorf("lock the plan: %w", err)
		}
		p, err := planOf(row)
		if err != nil {
			return Plan{}, err
		}
		for name, count := range change {
			if count == nil {
				delete(p.Limits, name)
			} else {
				p.Limits[name] = *count
			}
		}
		limits, err := json.Marshal(p.Limits)
		if err != nil {
			return Plan{}, err
		}
		if p.UpdatedAt, err = s.q.SetPlanLimits(ctx, tx, dbsqlc.SetPlanLimitsParams{Limits: limits, ID: p.ID}); err != nil {
			return Plan{}, fmt.Errorf("change the plan: %w", err)
		}
		err = audit.Record(ctx, tx, audit.Entry{
			Actor: actor, Action: "plan.update", EntityType: "plan", EntityID: p.ID.String(), Detail: map[string]any{"plan": p.Code, "limits": p.Limits},
		})
		if err != nil {
			return Plan{}, err
		}
		tenants, err := s.q.RoutedTenantsOfPlan(ctx, tx, p.ID)
		if err != nil {
			return Plan{}, fmt.Errorf("list the tenants of the plan: %w", err)
		}
		for _, id := range tenants {
			if _, err := s.q.PublishRoute(ctx, tx, id); err != nil {
				return Plan{}, fmt.Errorf("publish the route: %w", err)
			}
		}
		return p, nil
	})
}

func checkLimits(change map[string]*int) error {
	known := make([]string, 0, len(route.Limits()))
	for _, l := range route.Limits() {
		known = append(known, l.Name)
	}
	f := fault.Invalid("Some limits are not right. See errors for each of them.")
	for _, name := range slices.Sorted(maps.Keys(change)) {
		switch count := change[name]; {
		case !slices.Contains(known, name):
			f.OnField("limits", "unknown", "There is no such limit. There are: "+strings.Join(known, ", ")+".")
		case count != nil && (*count < 1 || *count > route.MaxLimit):
			f.OnField("limits."+name, "range", fmt.Sprintf("A count is between 1 and %d.", route.MaxLimit))
		}
	}
	if len(f.Fields) > 0 {
		return f
	}
	return nil
}
