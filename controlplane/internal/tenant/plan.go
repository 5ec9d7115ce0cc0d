package tenant

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
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

// OverQuota is what happens to a tenant that has more than its plan grants.
type OverQuota string

// LapseAction is what happens to a tenant that has not paid when the grace is over.
type LapseAction string

// Both are told to webhooks in any case.
const (
	OverQuotaNotify OverQuota   = "notify"
	OverQuotaRefuse OverQuota   = "refuse" // no more users, or nothing new where the database is too large
	LapseNotify     LapseAction = "notify"
	LapseSuspend    LapseAction = "suspend"
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
	MaxStorageMB       int32          // 0: no quota
	MaxUsers           int32          // 0: no quota
	OverQuota          OverQuota
	GraceDays          int32
	LapseAction        LapseAction
	RetentionDays      int32 // how long a deleted tenant can be undeleted
	CreatedAt          time.Time
	UpdatedAt          time.Time
}

func planOf(r dbsqlc.ControlPlan) (Plan, error) {
	p := Plan{
		ID: r.ID, Code: r.Code, Name: r.Name, MaxConnections: r.MaxConnections,
		StatementTimeoutMS: r.StatementTimeoutMs, TrialDays: r.TrialDays,
		MaxStorageMB: r.MaxStorageMb, MaxUsers: r.MaxUsers, OverQuota: OverQuota(r.OverQuota),
		GraceDays: r.GraceDays, LapseAction: LapseAction(r.LapseAction),
		RetentionDays: r.RetentionDays,
		CreatedAt:     r.CreatedAt, UpdatedAt: r.UpdatedAt,
	}
	if err := json.Unmarshal(r.Limits, &p.Limits); err != nil {
		return Plan{}, fmt.Errorf("decode the limits of plan %s: %w", r.Code, err)
	}
	delete(p.Limits, route.QuotaUsers) // MaxUsers, on its way to the nodes
	return p, nil
}

// routedLimits are the limits as routes carry them: with the quota of users, where
// the nodes have to keep it.
func (p Plan) routedLimits() ([]byte, error) {
	limits := maps.Clone(p.Limits)
	if p.MaxUsers > 0 && p.OverQuota == OverQuotaRefuse {
		limits[route.QuotaUsers] = int(p.MaxUsers)
	}
	return json.Marshal(limits)
}

// sameRoute tells whether routes need not be published after the change.
func (p Plan) sameRoute(o Plan) bool {
	a, errA := p.routedLimits()
	b, errB := o.routedLimits()
	return errors.Join(errA, errB) == nil && bytes.Equal(a, b) &&
		p.MaxConnections == o.MaxConnections && p.StatementTimeoutMS == o.StatementTimeoutMS && p.OverQuota == o.OverQuota
}

// PlanPatch changes what it names. In Limits, nil takes a default back.
type PlanPatch struct {
	Name               *string
	MaxConnections     *int32
	StatementTimeoutMS *int32
	TrialDays          *int32
	Limits             map[string]*int
	MaxStorageMB       *int32
	MaxUsers           *int32
	OverQuota          *OverQuota
	GraceDays          *int32
	LapseAction        *LapseAction
	RetentionDays      *int32
}

// planCode is a code that stands in addresses and command lines.
var planCode = regexp.MustCompile(`^[a-z][a-z0-9-]{0,48}[a-z0-9]$`)

// apply checks the patch and lays it over the plan.
func (p PlanPatch) apply(plan Plan) (Plan, error) {
	f := fault.Invalid("Some values of the plan are not right. See errors for each of them.")
	set := func(field string, into, value *int32, least, most int32) {
		switch {
		case value == nil:
		case *value < least || *value > most:
			f.OnField(field, "range", fmt.Sprintf("Expected a number between %d and %d.", least, most))
		default:
			*into = *value
		}
	}
	if p.Name != nil {
		name, err := CheckName(*p.Name, "name")
		if err != nil {
			f.Fields = append(f.Fields, fault.From(err).Fields...)
		}
		plan.Name = name
	}
	set("max_connections", &plan.MaxConnections, p.MaxConnections, 1, 1000)
	set("statement_timeout_ms", &plan.StatementTimeoutMS, p.StatementTimeoutMS, 100, 600_000)
	set("trial_days", &plan.TrialDays, p.TrialDays, 0, 3650)
	set("grace_days", &plan.GraceDays, p.GraceDays, 0, 365)
	set("retention_days", &plan.RetentionDays, p.RetentionDays, 1, 3650)
	set("max_storage_mb", &plan.MaxStorageMB, p.MaxStorageMB, 0, 1<<30)
	set("max_users", &plan.MaxUsers, p.MaxUsers, 0, route.MaxLimit)
	if p.OverQuota != nil {
		if *p.OverQuota != OverQuotaNotify && *p.OverQuota != OverQuotaRefuse {
			f.OnField("over_quota", "choice", "Expected notify or refuse.")
		}
		plan.OverQuota = *p.OverQuota
	}
	if p.LapseAction != nil {
		if *p.LapseAction != LapseNotify && *p.LapseAction != LapseSuspend {
			f.OnField("lapse_action", "choice", "Expected notify or suspend.")
		}
		plan.LapseAction = *p.LapseAction
	}
	checkLimits(p.Limits, f)
	if len(f.Fields) > 0 {
		return Plan{}, f
	}
	plan.Limits = maps.Clone(plan.Limits)
	for name, count := range p.Limits {
		if count == nil {
			delete(plan.Limits, name)
		} else {
			plan.Limits[name] = *count
		}
	}
	return plan, nil
}

func checkLimits(change map[string]*int, f *fault.Error) {
	known := make([]string, 0, len(route.Limits()))
	for _, l := range route.Limits() {
		known = append(known, l.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(change)) {
		switch count := change[name]; {
		case !slices.Contains(known, name):
			f.OnField("limits", "unknown", "There is no such limit. There are: "+strings.Join(known, ", ")+".")
		case count != nil && (*count < 1 || *count > route.MaxLimit):
			f.OnField("limits."+name, "range", fmt.Sprintf("A count is between 1 and %d.", route.MaxLimit))
		}
	}
}

// Plans lists the plans.
func (s *Service) Plans(ctx context.Context) ([]Plan, error) {
	rows, err := s.q.ListPlans(ctx, s.DB)
	if err != nil {
		return nil, fmt.Errorf("list the plans: %w", err)
	}
	plans := make([]Plan, 0, len(rows))
	for _, r := range rows {
		p, err := planOf(r.ControlPlan)
		if err != nil {
			return nil, err
		}
		plans = append(plans, p)
	}
	return plans, nil
}

// Plan finds a plan by its code.
func (s *Service) Plan(ctx context.Context, code string) (Plan, error) {
	return s.plan(ctx, s.DB, code)
}

func (s *Service) plan(ctx context.Context, db pg.Querier, code string) (Plan, error) {
	row, err := s.q.GetPlan(ctx, db, code)
	if errors.Is(err, pgx.ErrNoRows) {
		return Plan{}, unknownPlan()
	}
	if err != nil {
		return Plan{}, fmt.Errorf("read the plan: %w", err)
	}
	return planOf(row.ControlPlan)
}

func unknownPlan() error {
	return fault.NotFound("There is no plan of this code. See GET /v1/plans.")
}

// CreatePlan makes a plan; what the patch does not name is as in a new database.
func (s *Service) CreatePlan(ctx context.Context, actor *audit.Actor, code string, p PlanPatch) (Plan, error) {
	if !planCode.MatchString(code) {
		const message = "A code begins with a letter and has 2 to 50 lower-case letters, digits and hyphens."
		return Plan{}, fault.Invalid(message).OnField("code", "code", message)
	}
	if p.Name == nil {
		p.Name = &code
	}
	id, err := uuid.NewV7()
	if err != nil {
		return Plan{}, fmt.Errorf("make an id: %w", err)
	}
	return pg.InTxValue(ctx, s.DB, func(tx pgx.Tx) (Plan, error) {
		err := s.q.InsertPlan(ctx, tx, dbsqlc.InsertPlanParams{
			ID: id, Code: code, Name: code, MaxConnections: defaultConnections, StatementTimeoutMs: defaultStatementTimeoutMS,
		})
		if pg.Constraint(err) == "plans_code_key" {
			return Plan{}, fault.Conflict("There is a plan of this code. Choose another one, or change it.").Code("plan_taken").
				OnField("code", "taken", "This code is taken.").Because(err)
		}
		if err != nil {
			return Plan{}, fmt.Errorf("store the plan: %w", err)
		}
		made, err := s.plan(ctx, tx, code)
		if err != nil {
			return Plan{}, err
		}
		return s.savePlan(ctx, tx, actor, "plan.create", made, p)
	})
}

// What a new plan grants unless it is told otherwise.
const (
	defaultConnections        = 10
	defaultStatementTimeoutMS = 30_000
)

// ChangePlan changes a plan. The routes of all its tenants carry what is new from
// then on.
func (s *Service) ChangePlan(ctx context.Context, actor *audit.Actor, code string, p PlanPatch) (Plan, error) {
	return pg.InTxValue(ctx, s.DB, func(tx pgx.Tx) (Plan, error) {
		row, err := s.q.LockPlan(ctx, tx, code)
		if errors.Is(err, pgx.ErrNoRows) {
			return Plan{}, unknownPlan()
		}
		if err != nil {
			return Plan{}, fmt.Errorf("lock the plan: %w", err)
		}
		before, err := planOf(row.ControlPlan)
		if err != nil {
			return Plan{}, err
		}
		after, err := s.savePlan(ctx, tx, actor, "plan.update", before, p)
		if err != nil || after.sameRoute(before) {
			return after, err
		}
		tenants, err := s.q.RoutedTenantsOfPlan(ctx, tx, after.ID)
		if err != nil {
			return Plan{}, fmt.Errorf("list the tenants of the plan: %w", err)
		}
		for _, id := range tenants {
			if _, err := s.q.PublishRoute(ctx, tx, id); err != nil {
				return Plan{}, fmt.Errorf("publish the route: %w", err)
			}
		}
		return after, nil
	})
}

func (s *Service) savePlan(ctx context.Context, tx pgx.Tx, actor *audit.Actor, action string, plan Plan, change PlanPatch) (Plan, error) {
	plan, err := change.apply(plan)
	if err != nil {
		return Plan{}, err
	}
	limits, err := plan.routedLimits()
	if err != nil {
		return Plan{}, fmt.Errorf("encode the limits: %w", err)
	}
	err = s.q.SavePlan(ctx, tx, dbsqlc.SavePlanParams{
		ID: plan.ID, Name: plan.Name, MaxConnections: plan.MaxConnections, StatementTimeoutMs: plan.StatementTimeoutMS,
		TrialDays: plan.TrialDays, Limits: limits, MaxStorageMb: plan.MaxStorageMB, MaxUsers: plan.MaxUsers,
		OverQuota: string(plan.OverQuota), GraceDays: plan.GraceDays, LapseAction: string(plan.LapseAction),
		RetentionDays: plan.RetentionDays,
	})
	if err != nil {
		return Plan{}, fmt.Errorf("change the plan: %w", err)
	}
	err = audit.Record(ctx, tx, audit.Entry{
		Actor: actor, Action: action, EntityType: "plan", EntityID: plan.ID.String(), Detail: plan.detail(),
	})
	if err != nil {
		return Plan{}, err
	}
	return s.plan(ctx, tx, plan.Code)
}

// detail is the plan as the audit keeps it.
func (p Plan) detail() map[string]any {
	return map[string]any{
		"plan": p.Code, "name": p.Name, "max_connections": p.MaxConnections, "statement_timeout_ms": p.StatementTimeoutMS,
		"trial_days": p.TrialDays, "limits": p.Limits, "max_storage_mb": p.MaxStorageMB, "max_users": p.MaxUsers,
		"over_quota": p.OverQuota, "grace_days": p.GraceDays, "lapse_action": p.LapseAction,
		"retention_days": p.RetentionDays,
	}
}

// DeletePlan removes a plan that no tenant has, or had when it was purged.
func (s *Service) DeletePlan(ctx context.Context, actor *audit.Actor, code string) error {
	if code == DefaultPlan {
		return fault.Conflict("This is the plan of those who choose none. Change it instead.").Code("plan_default")
	}
	return pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		plan, err := s.plan(ctx, tx, code)
		if err != nil {
			return err
		}
		gone, err := s.q.DeletePlan(ctx, tx, code)
		if pg.Constraint(err) == "tenants_plan_id_fkey" {
			return fault.Conflict("Tenants have this plan, or had it when they were purged. Give those that live another plan; one that was ever used to the end stays.").
				Code("plan_in_use").Because(err)
		}
		if err != nil {
			return fmt.Errorf("delete the plan: %w", err)
		}
		if gone == 0 {
			return unknownPlan()
		}
		return audit.Record(ctx, tx, audit.Entry{
			Actor: actor, Action: "plan.delete", EntityType: "plan", EntityID: plan.ID.String(), Detail: plan.detail(),
		})
	})
}
