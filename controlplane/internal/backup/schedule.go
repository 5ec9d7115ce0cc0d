package backup

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// askedBySchedule is who asks for the backups that nobody asked for.
const askedBySchedule = "schedule:backup"

const (
	// dueBatch bounds what one tick asks for: the rest is due at the next.
	dueBatch = 50
	// busyPause is how long a tenant that another operation works on is left alone.
	busyPause = 10 * time.Minute
)

// Schedule asks for the backups that are due, and plans those that were never
// planned: spread over the plan's interval, so that a thousand tenants of one day do
// not come at once. Every worker may call it at any time.
func (s *Service) Schedule(ctx context.Context) error {
	if s.store == nil {
		return nil
	}
	_, err := s.db.Exec(ctx, `
		UPDATE control.tenants t SET next_backup_at = now() + random() * make_interval(hours => r.interval_hours)
		FROM control.backup_rules_in_force r
		WHERE r.plan_id = t.plan_id AND r.interval_hours > 0 AND t.status IN ('active', 'suspended') AND t.next_backup_at IS NULL`)
	if err != nil {
		return fmt.Errorf("plan backups: %w", err)
	}
	return pg.InTx(ctx, s.db, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT t.id, make_interval(hours => r.interval_hours)
			FROM control.tenants t JOIN control.backup_rules_in_force r ON r.plan_id = t.plan_id
			WHERE t.status IN ('active', 'suspended') AND t.next_backup_at <= now() AND r.interval_hours > 0
			ORDER BY t.next_backup_at LIMIT $1 FOR UPDATE OF t SKIP LOCKED`, dueBatch)
		if err != nil {
			return fmt.Errorf("look for backups that are due: %w", err)
		}
		type due struct {
			Tenant uuid.UUID
			Every  time.Duration
		}
		all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[due])
		if err != nil {
			return fmt.Errorf("look for backups that are due: %w", err)
		}
		for _, d := range all {
			next := d.Every
			_, err := s.enqueueTake(ctx, tx, d.Tenant, KindTake, askedBySchedule)
			switch {
			case fault.Is(err, fault.KindConflict):
				next = min(busyPause, d.Every)
			case err != nil:
				return err
			}
			if _, err := tx.Exec(ctx, "UPDATE control.tenants SET next_backup_at = now() + $2::interval WHERE id = $1", d.Tenant, next); err != nil {
				return fmt.Errorf("plan the next backup: %w", err)
			}
		}
		return nil
	})
}

// transient is how long archives are kept that serve one purpose: a clone that may be
// tried again, an export until it was fetched.
const transient = 7 * 24 * time.Hour

// Sweep forgets what is kept long enough: backups by their tenant's plan, archives
// that count nowhere, databases that were replaced. Every worker may call it at any
// time.
func (s *Service) Sweep(ctx context.Context) error {
	err := s.dropRetired(ctx)
	if s.store == nil {
		return err
	}
	return errors.Join(err, s.expire(ctx), s.strays(ctx))
}

// expireBatch is how many backups are taken off the list at once: which they are is
// looked up among all that there are.
const expireBatch = 500

// expire removes backups. Of a tenant that lives the newest stays, however old; of one
// that is deleted all stay, until it is purged; what an operation works with stays.
func (s *Service) expire(ctx context.Context) error {
	for {
		// The row first: a backup that counts is there.
		rows, err := s.db.Query(ctx, `
			WITH ranked AS (
				SELECT b.id, b.reason, b.created_at, t.status, r.keep, r.keep_days,
				       b.reason = ANY ($1) AS transient,
				       row_number() OVER (PARTITION BY b.tenant_id, b.reason = ANY ($1) ORDER BY b.id DESC) AS n
				FROM control.backups b
				JOIN control.tenants t ON t.id = b.tenant_id
				JOIN control.backup_rules_in_force r ON r.plan_id = t.plan_id
				WHERE b.status = 'complete')
			UPDATE control.backups SET status = 'removed', removed_at = now() WHERE id IN (
				SELECT b.id FROM control.backups b JOIN ranked r ON r.id = b.id
				WHERE b.status = 'complete' AND r.status <> 'deleted'
				  AND CASE WHEN r.transient THEN r.created_at < now() - $2::interval
				           ELSE r.n > r.keep
				             OR r.created_at < now() - make_interval(days => r.keep_days) AND (r.n > 1 OR r.status = 'purged') END
				  AND NOT EXISTS (SELECT FROM control.operations o
				                  WHERE o.status IN ('queued', 'running') AND (o.id = b.operation_id OR o.params ->> 'backup_id' = b.id::text))
				ORDER BY b.id LIMIT $3 FOR UPDATE OF b SKIP LOCKED)
			RETURNING object`,
			[]string{ReasonClone, ReasonExport, ReasonImport}, transient, expireBatch)
		if err != nil {
			return fmt.Errorf("look for backups to remove: %w", err)
		}
		objects, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("look for backups to remove: %w", err)
		}
		for _, object := range objects {
			s.discard(ctx, object)
		}
		if len(objects) < expireBatch {
			return nil
		}
	}
}

// strayAge is how long an archive that no row names is left alone: it may be under
// way.
const strayAge = 24 * time.Hour

// strays removes archives that no row counts: of runs that were killed or overtaken.
func (s *Service) strays(ctx context.Context) error {
	objects, err := s.store.List(ctx, "tenants")
	if err != nil {
		return err
	}
	var old []string
	for _, o := range objects {
		if time.Since(o.Written) > strayAge {
			old = append(old, o.Name)
		}
	}
	if len(old) == 0 {
		return nil
	}
	rows, err := s.db.Query(ctx, "SELECT object FROM control.backups WHERE status IN ('complete', 'running') AND object = ANY ($1)", trimmed(old))
	if err != nil {
		return fmt.Errorf("look for strays: %w", err)
	}
	counted := map[string]bool{}
	var object string
	if _, err := pgx.ForEachRow(rows, []any{&object}, func() error { counted[object] = true; return nil }); err != nil {
		return fmt.Errorf("look for strays: %w", err)
	}
	for _, name := range old {
		if counted[strings.TrimSuffix(name, ".json")] {
			continue
		}
		if err := s.store.Remove(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func trimmed(names []string) []string {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = strings.TrimSuffix(name, ".json")
	}
	return out
}

// dropPatience bounds the drop of one database, the wait for a connection included.
const dropPatience = 5 * time.Minute

// dropRetired drops databases whose time is up, one at a time. A server on which one
// cannot be dropped is left alone for this time: the others do not wait for it.
func (s *Service) dropRetired(ctx context.Context) error {
	var failed error
	for away := []uuid.UUID{}; ; {
		server, err := s.dropOne(ctx, away)
		switch {
		case ctx.Err() != nil:
			return errors.Join(failed, err)
		case err == nil && server == uuid.Nil:
			return failed
		case err == nil:
			continue
		case server == uuid.Nil: // the control database
			return errors.Join(failed, err)
		}
		failed = errors.Join(failed, err)
		away = append(away, server)
	}
}

// dropOne drops a database that is due and on none of the servers that are away. It tells
// the server; uuid.Nil when there is none.
func (s *Service) dropOne(ctx context.Context, away []uuid.UUID) (server uuid.UUID, err error) {
	err = pg.InTx(ctx, s.db, func(tx pgx.Tx) error {
		var d tenantdb.Database
		err := tx.QueryRow(ctx, `
			SELECT tenant_id, incarnation, server_id FROM control.retired_databases
			WHERE dropped_at IS NULL AND drop_at <= now() AND server_id <> ALL ($1) ORDER BY drop_at LIMIT 1 FOR UPDATE SKIP LOCKED`, away).
			Scan(&d.Tenant, &d.Incarnation, &server)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look for databases to drop: %w", err)
		}
		work := tenantdb.On(s.servers, server, nil)
		defer work.Close()
		bounded, cancel := context.WithTimeout(ctx, dropPatience)
		defer cancel()
		if err := work.Drop(bounded, d); err != nil {
			return fmt.Errorf("drop a database that was replaced: %w", err)
		}
		_, err = tx.Exec(ctx, "UPDATE control.retired_databases SET dropped_at = now() WHERE tenant_id = $1 AND incarnation = $2", d.Tenant, d.Incarnation)
		return err
	})
	return server, err
}
