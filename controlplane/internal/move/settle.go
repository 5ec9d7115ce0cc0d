package move

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/pause"
	"github.com/ouvira/ouvira/shared/pg"
)

// settle removes what the copy has needed. A source that is away does not keep the
// move from its end: the sweep clears it up when it is back.
func (a *attempt) settle(ctx context.Context) error {
	if err := a.unsubscribe(ctx); err != nil {
		return err
	}
	target, err := a.target.Inside(ctx, a.move.to)
	if err != nil {
		return err
	}
	if err := target.Exec(ctx, "DROP TABLE IF EXISTS "+marks); err != nil {
		return err
	}
	err = a.clearSource(ctx)
	if failure, ok := errors.AsType[*operation.Failure](err); ok && !failure.Final && ctx.Err() == nil {
		a.s.log.WarnContext(ctx, "the source of a move is cleared up later", "operation", a.run.ID, "tenant", a.run.TenantID, "error", err)
		return nil
	}
	if err == nil {
		err = cleared(ctx, a.s.db, a.run.ID)
	}
	return err
}

func cleared(ctx context.Context, db pg.DB, operationID uuid.UUID) error {
	if _, err := db.Exec(ctx, "UPDATE control.moves SET cleared_at = COALESCE(cleared_at, now()) WHERE operation_id = $1", operationID); err != nil {
		return fmt.Errorf("write that the source is cleared up: %w", err)
	}
	return nil
}

// clearSource removes slots, publication and marks from the source, and the
// mover's way into it. The target's subscription is gone by then, or cut off.
func (a *attempt) clearSource(ctx context.Context) error {
	return clearSource(ctx, a.s.db, a.source, a.move.from, a.move.targetID, a.name())
}

func clearSource(ctx context.Context, db pg.Querier, source *tenantdb.Work, d tenantdb.Database, target uuid.UUID, name string) error {
	if err := dropSlots(ctx, db, source, d, target, name); err != nil {
		return err
	}
	admin, err := source.Admin(ctx)
	if err != nil {
		return err
	}
	var there bool
	err = admin.Scan(ctx, []any{&there}, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1 AND datallowconn AND datconnlimit <> -2)", d.Name())
	if err != nil || !there {
		return err
	}
	inside, err := source.Inside(ctx, d)
	if err != nil {
		return err
	}
	if err := inside.ExecAll(ctx, "DROP PUBLICATION IF EXISTS "+name, "DROP TABLE IF EXISTS "+marks); err != nil {
		return err
	}
	return admin.Exec(ctx, "REVOKE CONNECT ON DATABASE "+d.Quoted()+" FROM "+migrations.MoverRole)
}

// slotTimeout bounds the wait for whoever streams from a slot to end.
const slotTimeout = 10 * time.Second

// dropSlots drops the move's slot, and those that the target's workers have made
// for single tables and could not drop themselves. Slots of others in the same
// database stay.
func dropSlots(ctx context.Context, db pg.Querier, source *tenantdb.Work, d tenantdb.Database, target uuid.UUID, name string) error {
	var system int64
	if err := db.QueryRow(ctx, "SELECT system_identifier FROM control.servers WHERE id = $1", target).Scan(&system); err != nil {
		return fmt.Errorf("read the target server: %w", err)
	}
	admin, err := source.Admin(ctx)
	if err != nil {
		return err
	}
	ours := fmt.Sprintf("database = $1 AND (slot_name = $2 OR slot_name ~ '^pg_[0-9]+_sync_[0-9]+_%d$')", uint64(system)) // Postgres writes it without a sign
	ctx, cancel := context.WithTimeout(ctx, slotTimeout)
	defer cancel()
	for {
		var left, ended int
		err := admin.Scan(ctx, []any{&left, &ended}, "SELECT count(*), count(pg_terminate_backend(active_pid)) FROM pg_replication_slots WHERE "+ours, d.Name(), name)
		if err != nil || left == 0 {
			return err
		}
		err = source.Visit(ctx, server.Target{Mover: true, Database: "postgres"}, func(mover *tenantdb.Session) error {
			return mover.Exec(ctx, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active AND "+ours, d.Name(), name)
		})
		if err != nil {
			return err
		}
		if !pause.For(ctx, lookEvery) {
			return operation.Later("slot_in_use", "A replication slot of the move stays in use on server "+admin.Server()+".", "It is tried again.")
		}
	}
}

const (
	sweepEvery = time.Minute // of one source
	sweepBatch = 5           // dropping databases makes the server write checkpoints
)

// Sweep clears up sources that were away at the end of their move, and drops those
// whose time is over. Any worker may call it as often as it likes; of several at
// once each takes others.
func (s *Service) Sweep(ctx context.Context) error {
	rows, err := s.db.Query(ctx, `
		UPDATE control.moves SET looked_at = now() WHERE operation_id IN (
			SELECT m.operation_id FROM control.moves m JOIN control.operations o ON o.id = m.operation_id
			WHERE m.switched_at IS NOT NULL AND m.dropped_at IS NULL AND (m.drop_at <= now() OR m.cleared_at IS NULL)
			  AND o.status NOT IN ('queued', 'running') AND (m.looked_at IS NULL OR m.looked_at < now() - $1::interval)
			ORDER BY m.drop_at LIMIT $2 FOR UPDATE OF m SKIP LOCKED)
		RETURNING operation_id, tenant_id, source_id, target_id, source_incarnation, drop_at <= now()`, sweepEvery, sweepBatch)
	if err != nil {
		return fmt.Errorf("look for sources to drop: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[kept])
	if err != nil {
		return fmt.Errorf("look for sources to drop: %w", err)
	}
	var failed []error
	for _, k := range all {
		failed = append(failed, s.drop(ctx, k))
	}
	return errors.Join(failed...)
}

// kept is a source that a tenant has left.
type kept struct {
	Operation, Tenant, Source, Target uuid.UUID
	Incarnation                       int
	Over                              bool
}

// dropPatience bounds what is done for one source: a server that does not answer stops
// nothing but its own.
const dropPatience = 5 * time.Minute

func (s *Service) drop(ctx context.Context, k kept) error {
	ctx, cancel := context.WithTimeout(ctx, dropPatience)
	defer cancel()
	d := tenantdb.Database{Tenant: k.Tenant, Incarnation: k.Incarnation}
	work := tenantdb.On(s.servers, k.Source, nil)
	defer work.Close()
	err := clearSource(ctx, s.db, work, d, k.Target, objectName(k.Operation))
	if err == nil {
		err = cleared(ctx, s.db, k.Operation)
	}
	if err != nil || !k.Over {
		return err
	}
	work.CloseInside()
	if err := work.Drop(ctx, d); err != nil {
		return fmt.Errorf("drop the source of move %s: %w", k.Operation, err)
	}
	return pg.InTx(ctx, s.db, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, "UPDATE control.moves SET dropped_at = now() WHERE operation_id = $1 AND dropped_at IS NULL", k.Operation)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		return audit.Record(ctx, tx, audit.Entry{
			Actor: audit.Worker(k.Operation.String()), Action: "tenant.move_source_dropped",
			EntityType: "tenant", EntityID: d.Tenant.String(), TenantID: d.Tenant, Detail: map[string]any{"operation_id": k.Operation},
		})
	})
}
