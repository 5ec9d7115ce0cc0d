// Package lifecycle is what happens to the database and the role of a tenant
// that exists already when the tenant is suspended, resumed, deleted, undeleted
// and purged. Whether a tenant may go from one status to another is decided by
// package tenant; the operations here make the servers follow.
//
// The fence is put on the tenant's role, so that a node which hears of nothing any
// more cannot go on either. Whether the role should be fenced is said by the
// tenant's status and by nothing else: it should while the tenant is suspended or
// deleted. Where it is known to be fenced is written in tenants.fence.
//
// Invariants:
//   - a role's fence is put on and taken away only with the tenant's row locked,
//     by one session at a time, and the row is read after the lock was had: the
//     last one to change the row decides, whoever was slow on the way;
//   - a fence is taken away in the transaction that publishes the route, never
//     before; when that transaction fails, tenants.fence says that the fence is
//     not known to be there, and the sweep puts it on again;
//   - while an operation works on the tenant's database as a whole (a move, say,
//     with a fence of its own), nobody else takes the fence away;
//   - a tenant is deleted when it is fenced and backed up; before that the
//     deletion can fail, and leaves the tenant as it was;
//   - what is dropped is marked as the tenant's.
package lifecycle

import (
	"context"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/pg"
)

// The kinds of operations that this package runs.
const (
	KindFence    = "tenant.fence"
	KindDelete   = "tenant.delete"
	KindUndelete = "tenant.undelete"
	KindPurge    = "tenant.purge"
)

// The steps.
const (
	StepFence  = "fence"  // no session of the tenant's role is left, and none can begin
	StepBackup = "backup" // the last one, verified
	StepGrace  = "grace"  // from now on the tenant can be undeleted for so long
	StepSchema = "schema" // what was migrated meanwhile is caught up with
	StepServe  = "serve"  // the fence is taken away and the route published
	StepDetach = "detach" // from replication, which keeps a database from being dropped
	StepDrop   = "drop"   // databases and roles of all incarnations
	StepErase  = "erase"  // what the tenant's row knew of it
)

// steps of each kind, in their order, as people see them.
var steps = map[string][]string{
	KindFence:    {StepFence},
	KindDelete:   {StepFence, StepBackup, StepGrace},
	KindUndelete: {StepSchema, StepServe},
	KindPurge:    {StepFence, StepDetach, StepDrop, StepErase},
}

// Steps of the operations of a kind.
func Steps(kind string) []string { return steps[kind] }

// Failpoints are the names at which a failpoint build can stop the operations of a
// kind: after the work of each step and before it is recorded.
func Failpoints(kind string) []string {
	var points []string
	for _, step := range steps[kind] {
		points = append(points, failpointAfter(kind, step))
	}
	return points
}

// failpointAfter is "delete/backup" for the step "backup" of "tenant.delete".
func failpointAfter(kind, step string) string { return kind[len("tenant."):] + "/" + step }

// Backups makes the last backup of a tenant that is being deleted.
type Backups interface {
	// Take backs the database up, verifies the backup and returns its id. For
	// the same operation it does so once.
	Take(ctx context.Context, run *operation.Run, w *tenantdb.Work, d tenantdb.Database, reason string) (uuid.UUID, error)
}

// Options of NewService.
type Options struct {
	// Backups is asked for the last backup of a tenant that is deleted; without
	// it no tenant that has a database can be.
	Backups Backups
}

// Service starts and runs these operations. It may be used by several
// goroutines.
type Service struct {
	db         pg.DB
	operations *operation.Store
	servers    *server.Service
	log        *slog.Logger
	options    Options
}

// NewService makes the room.
func NewService(db pg.DB, operations *operation.Store, servers *server.Service, log *slog.Logger, o Options) *Service {
	return &Service{db: db, operations: operations, servers: servers, log: log, options: o}
}

// BackUpBy names who takes the last backups, where that is known later only.
func (s *Service) BackUpBy(b Backups) { s.options.Backups = b }

// Handlers are what the engine runs, by kind.
func (s *Service) Handlers() map[string]operation.Handler {
	return map[string]operation.Handler{KindFence: s, KindDelete: s, KindUndelete: s, KindPurge: s}
}

// Fence asks for the fence on the role of a tenant that the caller suspends or
// deletes in tx.
func (s *Service) Fence(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, createdBy string) (uuid.UUID, error) {
	return s.operations.Enqueue(ctx, tx, operation.Spec{
		Kind: KindFence, TenantID: tenant, Steps: steps[KindFence], CreatedBy: createdBy,
	})
}

// Delete asks for the rest of a deletion: the caller has written in tx that the
// tenant is deleted, and what it was before. Errors: fault.Conflict names the
// operation that is in the way.
func (s *Service) Delete(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, createdBy string) (uuid.UUID, error) {
	id, err := s.exclusive(ctx, tx, KindDelete, tenant, createdBy)
	if err != nil {
		return uuid.Nil, err
	}
	// The deletion waits in line with backups; the fence does not.
	_, err = s.Fence(ctx, tx, tenant, createdBy)
	return id, err
}

// Undelete asks for a deleted tenant to become what it was before. Errors as
// Delete.
func (s *Service) Undelete(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, createdBy string) (uuid.UUID, error) {
	return s.exclusive(ctx, tx, KindUndelete, tenant, createdBy)
}

// Purge asks for the end of a deleted tenant. Errors as Delete.
func (s *Service) Purge(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, createdBy string) (uuid.UUID, error) {
	return s.exclusive(ctx, tx, KindPurge, tenant, createdBy)
}

// Idle looks whether an operation works on the tenant's database as a whole. Errors:
// fault.Conflict, which says what it is and whose.
func (s *Service) Idle(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) error {
	return s.operations.Idle(ctx, tx, tenant)
}

func (s *Service) exclusive(ctx context.Context, tx pgx.Tx, kind string, tenant uuid.UUID, createdBy string) (uuid.UUID, error) {
	return s.operations.Enqueue(ctx, tx, operation.Spec{
		Kind: kind, TenantID: tenant, Steps: steps[kind], CreatedBy: createdBy, Exclusive: true,
		// An undeletion is waited for by people who are not served.
		Long: kind != KindUndelete,
	})
}

const (
	backupTimeout = 6 * time.Hour
	// dropTimeout has room for the checkpoint that the first DROP after many
	// changes waits for.
	dropTimeout   = 10 * time.Minute
	schemaTimeout = 30 * time.Minute
)

// Timeout implements operation.Patient.
func (s *Service) Timeout(step string) time.Duration {
	switch step {
	case StepBackup:
		return backupTimeout
	case StepDrop:
		return dropTimeout
	case StepSchema:
		return schemaTimeout
	}
	return 0
}
