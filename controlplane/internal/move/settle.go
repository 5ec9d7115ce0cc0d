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
// move from its end: the sweep clears it up when it drops it.
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
	return err
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
	ours := fmt.Sprintf("database = $1 AND (slot_name = $2 OR slot_name ~ '^pg_[0-9]+_sync_[0-9]+_%d$')", uint64(system)) //nolint:gosec // Postgres writes it without a sign
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

// Sweep drops sources whose time is over. Any worker may call it as often as it
// likes; of several at once each takes others.
func (s *Service) Sweep(ctx context.Context) error {
	rows, err := s.db.Query(ctx, `
		UPDATE control.moves SET looked_at = now() WHERE operation_id IN (
			SELECT m.operation_id FROM control.moves m
			WHERE m.switched_at IS NOT NULL AND m.dropped_at IS NULL AND m.drop_at <= now()
			  AND (m.looked_at IS NULL OR m.looked_at < now() - $1::interval)
			ORDER BY m.drop_at LIMIT $2 FOR UPDATE SKIP LOCKED)
		RETURNING operation_id, tenant_id, source_id, target_id, source_incarnation`, sweepEvery, sweepBatch)
	if err != nil {
		return fmt.Errorf("look for sources to drop: %w", err)
	}
	type kept struct {
		Operation, Tenant, Source, Target uuid.UUID
		Incarnation                       int
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[kept])
	if err != nil {
		return fmt.Errorf("look for sources to drop: %w", err)
	}
	var failed []error
	for _, k := range all {
		d := tenantdb.Database{Tenant: k.Tenant, Incarnation: k.Incarnation}
		failed = append(failed, s.drop(ctx, d, k.Source, k.Target, k.Operation))
	}
	return errors.Join(failed...)
}

func (s *Service) drop(ctx context.Context, d tenantdb.Database, source, target, operationID uuid.UUID) error {
	work := tenantdb.On(s.servers, source, nil)
	defer work.Close()
	if err := clearSource(ctx, s.db, work, d, target, objectName(operationID)); err != nil {
		return fmt.Errorf("clear up the source of move %s: %w", operationID, err)
	}
	work.CloseInside()
	if err := work.Drop(ctx, d); err != nil {
		return fmt.Errorf("drop the source of move %s: %w", operationID, err)
	}
	return pg.InTx(ctx, s.db, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, "UPDATE control.moves SET dropped_at = now() WHERE operation_id = $1 AND dropped_at IS NULL", operationID)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		return audit.Record(ctx, tx, audit.Entry{
			Actor: audit.Worker(operationID.String()), Action: "tenant.move_source_dropped",
			EntityType: "tenant", EntityID: d.Tenant.String(), TenantID: d.Tenant, Detail: map[string]any{"operation_id": operationID},
		})
	})
}
