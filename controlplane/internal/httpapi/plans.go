package httpapi

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/tenant"
)

// Plan is what a tenant may use.
type Plan struct {
	ID                 uuid.UUID          `json:"id"`
	Code               string             `json:"code"`
	Name               string             `json:"name"`
	MaxConnections     int32              `json:"max_connections" doc:"Connections one tenant may hold, over all nodes."`
	StatementTimeoutMS int32              `json:"statement_timeout_ms" doc:"Milliseconds after which a query is ended."`
	TrialDays          int32              `json:"trial_days" doc:"0: no trial, and nothing is due before a first payment."`
	Limits             map[string]int     `json:"limits" doc:"How often something may be done in the period of the limit, where it differs from the default."`
	MaxStorageMB       int32              `json:"max_storage_mb" doc:"Megabytes of the database; 0: no quota."`
	MaxUsers           int32              `json:"max_users" doc:"0: no quota."`
	OverQuota          tenant.OverQuota   `json:"over_quota" enum:"notify,refuse" doc:"Refuse: no more users are made than the quota."`
	GraceDays          int32              `json:"grace_days" doc:"Days between the end of what is paid and the lapse."`
	LapseAction        tenant.LapseAction `json:"lapse_action" enum:"notify,suspend"`
	RetentionDays      int32              `json:"retention_days" doc:"How long a deleted tenant can be undeleted."`
	CreatedAt          time.Time          `json:"created_at"`
	UpdatedAt          time.Time          `json:"updated_at"`
}

// PlanValues are what can be said of a plan; what is absent stays as it is.
type PlanValues struct {
	Name               *string             `json:"name,omitempty"`
	MaxConnections     *int32              `json:"max_connections,omitempty" doc:"1 to 1000."`
	StatementTimeoutMS *int32              `json:"statement_timeout_ms,omitempty" doc:"100 to 600000."`
	TrialDays          *int32              `json:"trial_days,omitempty"`
	Limits             map[string]*int     `json:"limits,omitempty" doc:"Counts by the names of limits, in the period that each has; null takes the default back. A name that is unknown is refused with the list of those that are."`
	MaxStorageMB       *int32              `json:"max_storage_mb,omitempty"`
	MaxUsers           *int32              `json:"max_users,omitempty"`
	OverQuota          *tenant.OverQuota   `json:"over_quota,omitempty" enum:"notify,refuse"`
	GraceDays          *int32              `json:"grace_days,omitempty" doc:"0 to 365."`
	LapseAction        *tenant.LapseAction `json:"lapse_action,omitempty" enum:"notify,suspend"`
	RetentionDays      *int32              `json:"retention_days,omitempty"`
}

func (a *api) listPlans(ctx context.Context, _ *struct{}) (*body[List[Plan]], error) {
	found, err := a.Tenants.Plans(ctx)
	if err != nil {
		return nil, err
	}
	items := make([]Plan, 0, len(found))
	for _, p := range found {
		items = append(items, Plan(p))
	}
	return listed(items, ""), nil
}

// PlanPath is a plan in a path, by code.
type PlanPath struct {
	Code string `path:"code" maxLength:"100"`
}

func answerPlan(p tenant.Plan, err error) (*body[Plan], error) {
	if err != nil {
		return nil, err
	}
	return &body[Plan]{Plan(p)}, nil
}

func (a *api) showPlan(ctx context.Context, in *PlanPath) (*body[Plan], error) {
	return answerPlan(a.Tenants.Plan(ctx, in.Code))
}

type createPlanInput struct {
	Body struct {
		PlanValues

		Code string `json:"code" maxLength:"50" example:"team"`
	}
}

func (a *api) createPlan(ctx context.Context, in *createPlanInput) (*body[Plan], error) {
	return answerPlan(a.Tenants.CreatePlan(ctx, actorOf(ctx), in.Body.Code, tenant.PlanPatch(in.Body.PlanValues)))
}

type updatePlanInput struct {
	PlanPath

	Body PlanValues
}

func (a *api) updatePlan(ctx context.Context, in *updatePlanInput) (*body[Plan], error) {
	return answerPlan(a.Tenants.ChangePlan(ctx, actorOf(ctx), in.Code, tenant.PlanPatch(in.Body)))
}

func (a *api) deletePlan(ctx context.Context, in *PlanPath) (*struct{}, error) {
	return nil, a.Tenants.DeletePlan(ctx, actorOf(ctx), in.Code)
}
