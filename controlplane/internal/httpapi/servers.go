package httpapi

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/reconcile"
	"github.com/ouvira/ouvira/controlplane/internal/server"
)

func (a *api) listServers(ctx context.Context, _ *struct{}) (*body[List[server.Server]], error) {
	found, err := a.Servers.List(ctx)
	if err != nil {
		return nil, err
	}
	if found == nil {
		found = []server.Server{}
	}
	return listed(found, ""), nil
}

type addServerInput struct {
	Body struct {
		Name     string `json:"name" maxLength:"63" example:"a"`
		URL      string `json:"url" maxLength:"2048" doc:"postgres:// address of a superuser: the server is prepared with it, and the credential is not kept. Or of ouvira_provisioner, on a prepared server."`
		Region   string `json:"region,omitempty" maxLength:"100"`
		Capacity struct {
			Databases   int `json:"databases" minimum:"1" maximum:"100000" doc:"How many tenants may live there."`
			Connections int `json:"connections" minimum:"1" maximum:"100000" doc:"How many connections all processes together may hold."`
		} `json:"capacity"`
		TLS struct {
			Mode string `json:"mode,omitempty" enum:"disable,require,verify-ca,verify-full"`
			CA   string `json:"ca,omitempty" maxLength:"65536" doc:"PEM; the system's roots if absent."`
		} `json:"tls,omitzero"`
	}
}

func (a *api) addServer(ctx context.Context, in *addServerInput) (*body[server.Server], error) {
	actor := actorOf(ctx)
	s, err := a.Servers.Add(ctx, server.New{
		Name: in.Body.Name, URL: in.Body.URL, Region: in.Body.Region,
		Capacity: server.Capacity{Databases: in.Body.Capacity.Databases, Connections: in.Body.Capacity.Connections},
		TLS:      server.TLS{Mode: in.Body.TLS.Mode, CA: in.Body.TLS.CA},
	}, func(tx pgx.Tx, s server.Server) error {
		return audit.Record(ctx, tx, audit.Entry{
			Actor: actor, Action: "server.add", EntityType: "server", EntityID: s.ID.String(),
			Detail: map[string]any{"name": s.Name, "host": s.Host, "port": s.Port, "capacity": s.Capacity},
		})
	})
	if err != nil {
		return nil, err
	}
	return &body[server.Server]{s}, nil
}

// Plan is what a tenant may use.
type Plan struct {
	ID                 uuid.UUID `json:"id"`
	Code               string    `json:"code"`
	Name               string    `json:"name"`
	MaxConnections     int32     `json:"max_connections" doc:"Connections one tenant may hold, over all nodes."`
	StatementTimeoutMS int32     `json:"statement_timeout_ms"`
	TrialDays          int32     `json:"trial_days"`

	Limits map[string]int `json:"limits" doc:"How often something may be done, where it differs from the defaults. See update-plan for the names."`

	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
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

type updatePlanInput struct {
	Code string `path:"code" maxLength:"100"`
	Body struct {
		Limits map[string]*int `json:"limits" doc:"Counts by the names of limits, in the period that each has; what is absent stays, and null takes the default back. A name that is unknown is refused with the list of those that are."`
	}
}

func (a *api) updatePlan(ctx context.Context, in *updatePlanInput) (*body[Plan], error) {
	p, err := a.Tenants.ChangeLimits(ctx, actorOf(ctx), in.Code, in.Body.Limits)
	if err != nil {
		return nil, err
	}
	return &body[Plan]{Plan(p)}, nil
}

func (a *api) reconcile(ctx context.Context, _ *struct{}) (*body[reconcile.Report], error) {
	report, err := a.Reconcile.Look(ctx)
	if err != nil {
		return nil, err
	}
	return &body[reconcile.Report]{report}, nil
}

// Repairs are the operations that mend what the look has found.
type Repairs struct {
	Operations []Operation `json:"operations" nullable:"false"`
}

func (a *api) repair(ctx context.Context, _ *struct{}) (*body[Repairs], error) {
	ids, err := a.Repairer.Repair(ctx, actorOf(ctx))
	if err != nil {
		return nil, err
	}
	begun := make([]Operation, 0, len(ids))
	for _, id := range ids {
		o, err := a.Operations.Get(ctx, id)
		if err != nil {
			return nil, err
		}
		begun = append(begun, operationOf(o))
	}
	return &body[Repairs]{Repairs{begun}}, nil
}
