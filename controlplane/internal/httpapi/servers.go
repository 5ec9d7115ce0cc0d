package httpapi

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
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
			StorageMB   int `json:"storage_mb,omitempty" minimum:"0" maximum:"1000000000" doc:"How many megabytes all databases together may take; 0: nothing is said."`
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
		Capacity: server.Capacity{Databases: in.Body.Capacity.Databases, Connections: in.Body.Capacity.Connections, StorageMB: in.Body.Capacity.StorageMB},
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

// lookPatience is how long a look at the servers may take: it visits every database.
const lookPatience = 10 * time.Minute

type lookInput struct {
	Server string `query:"server" maxLength:"63" doc:"Id or name of the one to look at; all that are not offline if absent. Ask for one after the other where there are many."`
}

// Resolve implements huma.Resolver: the answer has longer than others.
func (*lookInput) Resolve(hctx huma.Context) []error {
	_, w := humachi.Unwrap(hctx)
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{}) // nothing more is read; the deadline would end ctx
	_ = control.SetWriteDeadline(time.Now().Add(lookPatience))
	return nil
}

func (a *api) look(ctx context.Context, in *lookInput) (reconcile.Report, error) {
	if in.Server != "" {
		return a.Reconcile.LookAt(ctx, in.Server)
	}
	return a.Reconcile.Look(ctx)
}

func (a *api) reconcile(ctx context.Context, in *lookInput) (*body[reconcile.Report], error) {
	report, err := a.look(ctx, in)
	if err != nil {
		return nil, err
	}
	return &body[reconcile.Report]{report}, nil
}

// AdoptTenant says what to take in.
type AdoptTenant struct {
	TenantID uuid.UUID `json:"tenant_id" format:"uuid" doc:"As the database is marked: see GET /v1/reconcile."`
	Slug     string    `json:"slug,omitempty" maxLength:"63" example:"acme" doc:"First part of the tenant's address; needed for a tenant that is not known."`
	Name     string    `json:"name,omitempty" maxLength:"200" example:"Acme Ltd." doc:"Of a tenant that is not known; the slug if absent."`
	Plan     string    `json:"plan,omitempty" maxLength:"100" example:"standard" doc:"Code, of a tenant that is not known; the standard one if absent."`
}

type adoptInput struct {
	ServerPath

	Body AdoptTenant
}

func (a *api) adoptTenant(ctx context.Context, in *adoptInput) (*body[OperationOnly], error) {
	id, err := a.Adopter.Adopt(ctx, actorOf(ctx), in.Server, reconcile.Adoption{Tenant: in.Body.TenantID, Slug: in.Body.Slug, Name: in.Body.Name, Plan: in.Body.Plan})
	if err != nil {
		return nil, err
	}
	return a.operationOnly(ctx, id)
}

// Repairs are the operations that mend what the look has found.
type Repairs struct {
	Operations []Operation `json:"operations" nullable:"false"`
}

func (a *api) repair(ctx context.Context, in *lookInput) (*body[Repairs], error) {
	report, err := a.look(ctx, in)
	if err != nil {
		return nil, err
	}
	ids, err := a.Repairer.Repair(ctx, actorOf(ctx), report)
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

func (a *api) removeServer(ctx context.Context, in *ServerPath) (*struct{}, error) {
	found, err := a.Servers.Find(ctx, in.Server)
	if err != nil {
		return nil, err
	}
	return nil, a.Servers.Remove(ctx, found.ID, func(tx pgx.Tx, removed server.Server, left int) error {
		return audit.Record(ctx, tx, audit.Entry{
			Actor: actorOf(ctx), Action: "server.remove", EntityType: "server", EntityID: removed.ID.String(),
			Detail: map[string]any{"name": removed.Name, "databases_left": left},
		})
	})
}
