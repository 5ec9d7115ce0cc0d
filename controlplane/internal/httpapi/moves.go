package httpapi

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/server"
)

type moveTenantInput struct {
	TenantPath

	Body struct {
		Server string `json:"server" minLength:"1" maxLength:"63" doc:"Where to: name or id." example:"b"`
	}
}

func (a *api) moveTenant(ctx context.Context, in *moveTenantInput) (*body[OperationOnly], error) {
	t, err := a.find(ctx, in.TenantPath)
	if err != nil {
		return nil, err
	}
	id, err := a.Moves.Ask(ctx, actorOf(ctx), t.ID, in.Body.Server)
	if err != nil {
		return nil, err
	}
	return a.operationOnly(ctx, id)
}

func (a *api) operationOnly(ctx context.Context, id uuid.UUID) (*body[OperationOnly], error) {
	o, err := a.Operations.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	return &body[OperationOnly]{OperationOnly{operationOf(o)}}, nil
}

// ServerPath is a server in a path, by id or name.
type ServerPath struct {
	Server string `path:"server" maxLength:"63" doc:"Id or name."`
}

func (a *api) showServer(ctx context.Context, in *ServerPath) (*body[server.Server], error) {
	return answerServer(a.Servers.Find(ctx, in.Server))
}

func answerServer(s server.Server, err error) (*body[server.Server], error) {
	if err != nil {
		return nil, err
	}
	return &body[server.Server]{s}, nil
}

// CapacityChange changes what it names.
type CapacityChange struct {
	Databases   *int `json:"databases,omitempty" minimum:"1" maximum:"100000"`
	Connections *int `json:"connections,omitempty" minimum:"1" maximum:"100000"`
	StorageMB   *int `json:"storage_mb,omitempty" minimum:"0" maximum:"1000000000" doc:"0: nothing is said any more."`
}

// ServerAddress is where a server answers.
type ServerAddress struct {
	Host string `json:"host" minLength:"1" maxLength:"253" example:"pg-a-2.internal"`
	Port int    `json:"port" minimum:"1" maximum:"65535" example:"5432"`
}

type updateServerInput struct {
	ServerPath

	Body struct {
		Status   *string         `json:"status,omitempty" enum:"active,draining,offline" doc:"Tenants are placed on active servers. Draining alone moves nobody: see drain-server."`
		Region   *string         `json:"region,omitempty" maxLength:"100"`
		Capacity *CapacityChange `json:"capacity,omitempty"`
		Address  *ServerAddress  `json:"address,omitempty" doc:"After a failover: where the same Postgres server answers now, or the replica that has taken its place."`
	}
}

func (a *api) updateServer(ctx context.Context, in *updateServerInput) (*body[server.Server], error) {
	found, err := a.Servers.Find(ctx, in.Server)
	if err != nil {
		return nil, err
	}
	p := server.Patch{Status: in.Body.Status, Region: in.Body.Region}
	if c := in.Body.Capacity; c != nil {
		p.Databases, p.Connections, p.StorageMB = c.Databases, c.Connections, c.StorageMB
	}
	if to := in.Body.Address; to != nil {
		p.Address = (*server.Address)(to)
	}
	actor := actorOf(ctx)
	return answerServer(a.Servers.Update(ctx, found.ID, p, func(tx pgx.Tx, s server.Server) error {
		return audit.Record(ctx, tx, audit.Entry{
			Actor: actor, Action: "server.update", EntityType: "server", EntityID: s.ID.String(),
			Detail: map[string]any{"name": s.Name, "status": s.Status, "host": s.Host, "port": s.Port, "capacity": s.Capacity},
		})
	}))
}

type prepareServerInput struct {
	ServerPath

	Body struct {
		URL string `json:"url" maxLength:"2048" doc:"postgres:// address of a superuser of the server; it is not kept. Its TLS settings are those that are known of the server."`
	}
}

func (a *api) prepareServer(ctx context.Context, in *prepareServerInput) (*body[server.Server], error) {
	found, err := a.Servers.Find(ctx, in.Server)
	if err != nil {
		return nil, err
	}
	actor := actorOf(ctx)
	return answerServer(a.Servers.Prepare(ctx, found.ID, in.Body.URL, func(tx pgx.Tx, s server.Server) error {
		return audit.Record(ctx, tx, audit.Entry{
			Actor: actor, Action: "server.prepare", EntityType: "server", EntityID: s.ID.String(), Detail: map[string]any{"name": s.Name},
		})
	}))
}

func (a *api) drainServer(ctx context.Context, in *ServerPath) (*body[OperationOnly], error) {
	id, err := a.Moves.Drain(ctx, actorOf(ctx), in.Server)
	if err != nil {
		return nil, err
	}
	return a.operationOnly(ctx, id)
}

func (a *api) activateServer(ctx context.Context, in *ServerPath) (*body[server.Server], error) {
	found, err := a.Servers.Find(ctx, in.Server)
	if err != nil {
		return nil, err
	}
	actor := actorOf(ctx)
	return answerServer(a.Servers.SetStatus(ctx, found.ID, "active", func(tx pgx.Tx, s server.Server) error {
		return audit.Record(ctx, tx, audit.Entry{
			Actor: actor, Action: "server.activate", EntityType: "server", EntityID: s.ID.String(), Detail: map[string]any{"name": s.Name},
		})
	}))
}
