// Package move takes tenants from one Postgres server to another while they are
// served: a copy that logical replication keeps up to date, a fence for the
// moment of the change, and a route that leads to the new database. The steps are
// run by package operation.
//
//	preflight → target → subscribe → copy → verify → switch → settle
//	                                                  │
//	     requests wait ─ hold ─ fence ─ mark arrives ─ sequences ─ recheck ─ flip ─ serve
//
// Invariants:
//   - the target is the tenant's next incarnation: names, marker and encryption
//     context of source and target differ, so that nothing that is meant for the
//     one is taken by the other, and a tenant may come back to a server where its
//     old database is still kept;
//   - the route leads to the source until one transaction leads it to the target;
//     before that everything can be taken back, after it nothing is;
//   - between the fence and that transaction nobody can write to the source, and
//     the transaction is made only when a row that was written after the fence has
//     arrived: whatever was acknowledged is in the target;
//   - that the source may be fenced is written down before it is; whoever takes
//     over opens it again first. Requests wait for no longer than the budget, and
//     if the worker dies, no longer than the nodes let them;
//   - the source stays closed and kept for a while; it is dropped by the sweep.
//
// Unlogged tables (the rate limits) begin anew, as after a crash.
package move

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/seal"
)

// Kind of the operations that move a tenant.
const Kind = "tenant.move"

// The steps, in their order.
const (
	StepPreflight = "preflight"
	StepTarget    = "target"
	StepSubscribe = "subscribe"
	StepCopy      = "copy"
	StepVerify    = "verify"
	StepSwitch    = "switch"
	StepSettle    = "settle"
)

// Steps of an operation, as people see them.
func Steps() []string {
	return []string{StepPreflight, StepTarget, StepSubscribe, StepCopy, StepVerify, StepSwitch, StepSettle}
}

// The places inside steps at which a failpoint build can be stopped.
const (
	failpointSlot      = "move/slot"      // the slot is there, the subscription is not
	failpointHeld      = "move/held"      // requests wait, the source is open
	failpointFenced    = "move/fenced"    // the source is fenced
	failpointMarked    = "move/marked"    // the mark has arrived
	failpointRechecked = "move/rechecked" // all is compared and the target open: nothing but the flip is missing
)

// Failpoints are the names at which a failpoint build can be stopped: after the
// work of each step and before it is recorded, and inside some.
func Failpoints() []string {
	points := []string{failpointSlot, failpointHeld, failpointFenced, failpointMarked, failpointRechecked}
	for _, step := range Steps() {
		points = append(points, failpointAfter(step))
	}
	return points
}

func failpointAfter(step string) string { return "move/" + step }

// Options of NewService; the zero value is usable.
type Options struct {
	// Budget is how long requests may wait for the change of servers before the
	// source serves them again; default 2 s.
	Budget time.Duration
	// Fences is how often the change is tried before the move is given up;
	// default 5.
	Fences int
	// Keep is how long the source stays after the change; default 24 h.
	Keep time.Duration
	// Chunk is how many rows are compared at once; default 5,000.
	Chunk int
	// EachServer is how many moves a drain has under way from a server, and to
	// each; default 2.
	EachServer int
}

// Service starts and runs moves.
type Service struct {
	db         pg.DB
	operations *operation.Store
	servers    *server.Service
	data       *seal.PublicKey
	log        *slog.Logger
	options    Options
}

// NewService makes the room.
func NewService(db pg.DB, operations *operation.Store, servers *server.Service, data *seal.PublicKey, log *slog.Logger, o Options) *Service {
	o.Budget = cmp.Or(o.Budget, 2*time.Second)
	o.Fences = cmp.Or(o.Fences, 5)
	o.Keep = cmp.Or(o.Keep, 24*time.Hour)
	o.Chunk = cmp.Or(o.Chunk, 5000)
	o.EachServer = cmp.Or(o.EachServer, 2)
	return &Service{db: db, operations: operations, servers: servers, data: data, log: log, options: o}
}

// Start asks for a move of the tenant to a server (id or name) and returns the
// operation's id. It works in the caller's transaction and records the audit row.
// Errors: fault.NotFound, fault.Invalid naming the field server, fault.Conflict
// for a tenant, a server or an operation in the way.
func (s *Service) Start(ctx context.Context, tx pgx.Tx, actor *audit.Actor, tenant uuid.UUID, target string) (uuid.UUID, error) {
	return s.start(ctx, tx, actor, tenant, target, uuid.NullUUID{})
}

// Ask is Start in a transaction of its own.
func (s *Service) Ask(ctx context.Context, actor *audit.Actor, tenant uuid.UUID, target string) (uuid.UUID, error) {
	return pg.InTxValue(ctx, s.db, func(tx pgx.Tx) (uuid.UUID, error) {
		return s.Start(ctx, tx, actor, tenant, target)
	})
}

func (s *Service) start(ctx context.Context, tx pgx.Tx, actor *audit.Actor, tenant uuid.UUID, target string, drain uuid.NullUUID) (uuid.UUID, error) {
	var status string
	var source *uuid.UUID
	var incarnation int
	err := tx.QueryRow(ctx, "SELECT status, server_id, incarnation FROM control.tenants WHERE id = $1 FOR UPDATE", tenant).
		Scan(&status, &source, &incarnation)
	if errors.Is(err, pgx.ErrNoRows) {
		return uuid.Nil, fault.NotFound("There is no such tenant.")
	}
	if err != nil {
		return uuid.Nil, fmt.Errorf("lock the tenant: %w", err)
	}
	if !movable(status) || source == nil {
		return uuid.Nil, fault.Conflict("The tenant is " + status + " and cannot be moved: only one that is active, suspended or deleted has a database that can.").
			Code("tenant_" + status)
	}
	bytes, err := server.Seen(ctx, tx, tenant)
	if err != nil {
		return uuid.Nil, err
	}
	place, err := s.place(ctx, tx, *source, target, bytes)
	if err != nil {
		return uuid.Nil, err
	}
	if drain.Valid {
		if err := s.spare(ctx, tx, place.ID); err != nil {
			return uuid.Nil, err
		}
	}
	id, err := s.operations.Enqueue(ctx, tx, operation.Spec{
		Kind: Kind, TenantID: tenant, Params: map[string]any{"server": place.Name}, Steps: Steps(),
		CreatedBy: actor.String(), Exclusive: true, Long: true,
	})
	if err != nil {
		return uuid.Nil, err
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO control.moves (operation_id, tenant_id, drain_id, source_id, target_id, source_incarnation, target_incarnation)
		VALUES ($1, $2, $3, $4, $5, $6, $6 + 1)`, id, tenant, drain, *source, place.ID, incarnation)
	if err != nil {
		return uuid.Nil, fmt.Errorf("write the move: %w", err)
	}
	return id, audit.Record(ctx, tx, audit.Entry{
		Actor: actor, Action: "tenant.move", EntityType: "tenant", EntityID: tenant.String(), TenantID: tenant,
		Detail: map[string]any{"operation_id": id, "server": place.Name},
	})
}

// movable tells whether a tenant of the status has a database that can be moved.
// Those that are not served need no hold, and stay fenced.
func movable(status string) bool {
	return status == "active" || status == "suspended" || status == "deleted"
}

// place takes the place on the target, or says why there is none.
func (s *Service) place(ctx context.Context, tx pgx.Tx, source uuid.UUID, wanted string, bytes int64) (server.Server, error) {
	refuse := func(code, message string) error {
		return fault.Conflict(message).Code(code).OnField("server", code, message)
	}
	id, err := s.servers.Place(ctx, tx, wanted, bytes)
	switch {
	case errors.Is(err, server.ErrUnknown):
		return server.Server{}, fault.Invalid("There is no such server. See: ouvira server list.").OnField("server", "unknown", "There is no such server.")
	case errors.Is(err, server.ErrNoCapacity) && wanted == "":
		return server.Server{}, refuse("no_capacity", "No other server that is active has room for the tenant. Add one, or raise a capacity.")
	case err != nil && !errors.Is(err, server.ErrNoCapacity):
		return server.Server{}, err
	}
	if err == nil {
		wanted = id.String()
	}
	found, unknown := s.servers.FindTx(ctx, tx, wanted)
	switch {
	case unknown != nil:
		return server.Server{}, unknown
	case found.ID == source:
		return server.Server{}, refuse("same_server", "The tenant is on server "+found.Name+" already. Choose another one.")
	case found.Status != "active":
		return server.Server{}, refuse("server_not_active", "Server "+found.Name+" is "+found.Status+": tenants move to active servers only. Choose another one, or activate it.")
	case err != nil && found.Lacks(bytes) != "":
		return server.Server{}, refuse("storage_full", found.Lacks(bytes)+" Choose another one, or raise its capacity.")
	case err != nil:
		return server.Server{}, refuse("server_full", fmt.Sprintf("Server %s is full: it holds %d databases of %d. Choose another one, or raise its capacity.", found.Name, found.Databases, found.Capacity.Databases))
	}
	return found, nil
}

// Timeout implements operation.Patient: copying takes as long as there is data.
func (s *Service) Timeout(step string) time.Duration {
	switch step {
	case StepCopy, StepVerify, StepSwitch: // a switch verifies again after another run
		return 24 * time.Hour
	}
	return 0
}

// objectName is that of the publication, the slot and the subscription.
func objectName(operationID uuid.UUID) string {
	return "ouvira_move_" + strings.ReplaceAll(operationID.String(), "-", "")
}
