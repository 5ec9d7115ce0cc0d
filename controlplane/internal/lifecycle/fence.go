package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// tenant is what the steps need of the control database's row.
type tenant struct {
	id                   uuid.UUID
	slug, status, before string
	incarnation          int
	server               *uuid.UUID
	fence                string
	maxConnections       int
}

// fenced tells whether the role should be.
func (t *tenant) fenced() bool { return t.status == statusSuspended || t.status == statusDeleted }

// place is how tenants.fence names where the tenant is.
func (t *tenant) place() string {
	if t.server == nil {
		return ""
	}
	return fmt.Sprintf("%s/%d", t.server, t.incarnation)
}

func (t *tenant) database() tenantdb.Database {
	return tenantdb.Database{Tenant: t.id, Incarnation: t.incarnation}
}

// The statuses of a tenant that are spoken of here.
const (
	statusActive    = "active"
	statusSuspended = "suspended"
	statusDeleted   = "deleted"
	statusPurged    = "purged"
)

const selectTenant = `
	SELECT t.slug, t.status, t.status_before, t.incarnation, t.server_id, t.fence, p.max_connections
	FROM control.tenants t JOIN control.plans p ON p.id = t.plan_id
	WHERE t.id = $1`

func read(ctx context.Context, q pg.Querier, id uuid.UUID, lock string) (*tenant, error) {
	t := tenant{id: id}
	err := q.QueryRow(ctx, selectTenant+lock, id).
		Scan(&t.slug, &t.status, &t.before, &t.incarnation, &t.server, &t.fence, &t.maxConnections)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fault.NotFound("There is no such tenant.")
	}
	if err != nil {
		return nil, fmt.Errorf("read the tenant: %w", err)
	}
	return &t, nil
}

// How the row is locked. With the second one no operation on the tenant can be
// asked for either: it refers to the row.
const (
	lockRow = " FOR NO KEY UPDATE OF t"
	lockAll = " FOR UPDATE OF t"
)

// errMoved says that the tenant is not where it was a moment ago.
var errMoved = operation.Later("tenant_moved", "The tenant has just been moved.", "It is tried again where it is now.")

// holding runs fn in a transaction that holds the tenant's row while fn works on
// a server. A process that stands still in the middle loses the lock in time.
func (s *Service) holding(ctx context.Context, id uuid.UUID, lock string, fn func(tx pgx.Tx, t *tenant) error) error {
	return pg.InTx(ctx, s.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL idle_in_transaction_session_timeout = '20s'"); err != nil {
			return fmt.Errorf("bound the time of the lock: %w", err)
		}
		t, err := read(ctx, tx, id, lock)
		if err != nil {
			return err
		}
		return fn(tx, t)
	})
}

// alone calls act while nobody else changes the fence of the tenant's role. The
// caller's transaction holds the row; a caller that has lost it without knowing
// finds out here, and its session on the server is ended by whoever has it now.
func alone(ctx context.Context, tx pgx.Tx, w *tenantdb.Work, d tenantdb.Database, act func(context.Context, tenantdb.Database) error) error {
	still := func(ctx context.Context) error {
		if _, err := tx.Exec(ctx, "SELECT"); err != nil {
			return fmt.Errorf("the lock on the tenant is lost: %w", err)
		}
		return w.Check(ctx)
	}
	return w.Alone(ctx, d, still, func() error { return act(ctx, d) })
}

// fence puts the fence on the tenant's role, if its status still asks for one.
func (s *Service) fence(ctx context.Context, run *operation.Run) error {
	before, err := read(ctx, s.db, run.TenantID, "")
	if err != nil || !before.fenced() || before.server == nil {
		return err
	}
	w := tenantdb.On(s.servers, *before.server, run)
	defer w.Close()
	// Connected before the row is locked: a server that does not answer must not
	// keep others from the row.
	if _, err := w.Admin(ctx); err != nil {
		return err
	}
	return s.holding(ctx, run.TenantID, lockRow, func(tx pgx.Tx, t *tenant) error {
		if !t.fenced() {
			return nil
		}
		if t.place() != before.place() {
			return errMoved
		}
		if err := alone(ctx, tx, w, t.database(), w.Fence); err != nil {
			return err
		}
		return mark(ctx, tx, t.id, t.place())
	})
}

// errNotServed says that the tenant is none whose role may be let in.
var errNotServed = errors.New("the tenant is not active")

// Mend gives the tenant's role what its status asks for, whatever it finds: the fence,
// or all that the role of a tenant that is served has. The status is that of the locked
// row; a suspension that comes in between waits for it, and fences again.
func (s *Service) Mend(ctx context.Context, run *operation.Run) error {
	if err := s.fence(ctx, run); err != nil {
		return err
	}
	err := s.lift(ctx, run, run.TenantID,
		func(_ pgx.Tx, t *tenant) error {
			if t.status != statusActive {
				return errNotServed
			}
			return nil
		},
		func(pgx.Tx, *tenant) error { return nil })
	if errors.Is(err, errNotServed) {
		return nil
	}
	return err
}

func mark(ctx context.Context, q pg.Querier, id uuid.UUID, place string) error {
	if _, err := q.Exec(ctx, "UPDATE control.tenants SET fence = $2 WHERE id = $1", id, place); err != nil {
		return fmt.Errorf("write where the tenant is fenced: %w", err)
	}
	return nil
}

// lift takes the fence away and calls serve in the same transaction, which makes
// the tenant active and publishes its route. check looks at the locked row first
// and refuses what must not be.
func (s *Service) lift(ctx context.Context, run *operation.Run, id uuid.UUID, check, serve func(tx pgx.Tx, t *tenant) error) error {
	// From here on the fence is not known to be there, whatever becomes of this.
	var before *tenant
	err := s.holding(ctx, id, lockAll, func(tx pgx.Tx, t *tenant) error {
		before = t
		if err := check(tx, t); err != nil {
			return err
		}
		return mark(ctx, tx, id, "")
	})
	if err != nil {
		return err
	}
	if before.server == nil {
		return s.holding(ctx, id, lockAll, func(tx pgx.Tx, t *tenant) error {
			if err := check(tx, t); err != nil {
				return err
			}
			return serve(tx, t)
		})
	}
	w := tenantdb.On(s.servers, *before.server, run)
	defer w.Close()
	if _, err := w.Admin(ctx); err != nil {
		return err
	}
	return s.holding(ctx, id, lockAll, func(tx pgx.Tx, t *tenant) error {
		if err := check(tx, t); err != nil {
			return err
		}
		if t.place() != before.place() {
			return errMoved
		}
		err := alone(ctx, tx, w, t.database(), func(ctx context.Context, d tenantdb.Database) error {
			return w.Unfence(ctx, d, t.maxConnections)
		})
		if err != nil {
			return err
		}
		if err := mark(ctx, tx, id, ""); err != nil { // a fence may have come in between
			return err
		}
		return serve(tx, t)
	})
}

// resumeTimeout is how long a person waits for the fence to be taken away.
const resumeTimeout = 6 * time.Second

// Resume takes the fence off the role of a suspended tenant and calls serve in the
// same transaction. check, with the row locked, refuses what is not suspended.
// A suspension that comes in between waits for the row, and wins. Errors: those
// of both functions; fault.Conflict names an operation that works on the tenant's
// database; fault.Unavailable when the server cannot be asked, and then the tenant
// stays suspended.
func (s *Service) Resume(ctx context.Context, id uuid.UUID, check, serve func(ctx context.Context, tx pgx.Tx) error) error {
	waiting, cancel := context.WithTimeout(ctx, resumeTimeout)
	defer cancel()
	err := s.lift(waiting, nil, id,
		func(tx pgx.Tx, _ *tenant) error {
			if err := check(waiting, tx); err != nil {
				return err
			}
			return s.operations.Idle(waiting, tx, id)
		},
		func(tx pgx.Tx, _ *tenant) error { return serve(waiting, tx) })
	if failure, ok := errors.AsType[*operation.Failure](err); ok {
		return stays(failure.Message).Code(failure.Code).Because(err)
	}
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return stays("Its server, or somebody else who works on the tenant, does not give way in time.").Code("fence_busy").Because(err)
	}
	return err
}

// stays is why a tenant could not be resumed.
func stays(why string) *fault.Error {
	return fault.Unavailable("The fence on the tenant's role could not be taken away, so the tenant stays suspended. " + why +
		" Resume it again when that has changed.").RetryAfter(5 * time.Second)
}
