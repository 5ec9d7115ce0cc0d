package provision

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
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// Target says how many databases are kept ready on a server for a plan, and how
// many are.
type Target struct {
	Server    string
	Plan      string
	Size      int
	Ready     int // of this release's schema
	Making    int
	Outdated  int // of another schema or of the plan as it was; they are replaced
	UpdatedAt time.Time
}

// maxWarm bounds a target.
const maxWarm = 1000

// SetTarget says how many databases are to be kept ready. Errors: fault.NotFound,
// fault.Invalid.
func (s *Service) SetTarget(ctx context.Context, actor *audit.Actor, serverName, plan string, size int) error {
	if size < 0 || size > maxWarm {
		return fault.Invalid("A warm pool holds 0 to 1000 databases.").OnField("size", "range", "Use a number from 0 to 1000.")
	}
	return pg.InTx(ctx, s.db, func(tx pgx.Tx) error {
		var server, planID uuid.UUID
		err := tx.QueryRow(ctx, `
			INSERT INTO control.warm_targets (server_id, plan_id, size)
			SELECT s.id, p.id, $3 FROM control.servers s, control.plans p WHERE $1 IN (s.name, s.id::text) AND p.code = $2
			ON CONFLICT (server_id, plan_id) DO UPDATE SET size = $3, updated_at = now()
			RETURNING server_id, plan_id`, serverName, plan, size).Scan(&server, &planID)
		if errors.Is(err, pgx.ErrNoRows) {
			return fault.NotFound("There is no such server, or no such plan. See GET /v1/servers and GET /v1/plans.")
		}
		if err != nil {
			return fmt.Errorf("set the size of the warm pool: %w", err)
		}
		return audit.Record(ctx, tx, audit.Entry{
			Actor: actor, Action: "warm_pool.resize", EntityType: "server", EntityID: server.String(),
			Detail: map[string]any{"plan": plan, "size": size},
		})
	})
}

// Targets lists what was asked for, and what there is.
func (s *Service) Targets(ctx context.Context) ([]Target, error) {
	fingerprint, err := migrations.Tenant.Fingerprint()
	if err != nil {
		return nil, err
	}
	rows, err := s.db.Query(ctx, `
		SELECT s.name, p.code, t.size,
		       count(w.id) FILTER (WHERE w.status = 'ready' AND w.fingerprint = $1 AND w.max_connections = p.max_connections),
		       count(w.id) FILTER (WHERE w.status = 'making'),
		       count(w.id) FILTER (WHERE w.status = 'dropping' OR w.status = 'ready' AND (w.fingerprint <> $1 OR w.max_connections <> p.max_connections)),
		       t.updated_at
		FROM control.warm_targets t
		JOIN control.servers s ON s.id = t.server_id
		JOIN control.plans p ON p.id = t.plan_id
		LEFT JOIN control.warm_databases w ON w.server_id = t.server_id AND w.plan_id = t.plan_id
		GROUP BY s.name, p.code, t.size, t.updated_at
		ORDER BY s.name, p.code`, fingerprint)
	if err != nil {
		return nil, fmt.Errorf("list the warm pools: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Target])
}

const (
	// makingAtOnce bounds what is in the making on one server, so that a pool that
	// is filled does not keep sign-ups waiting.
	makingAtOnce = 2
	// afterFailure is how long no new entry is begun on a server where one has
	// failed.
	afterFailure = time.Minute
)

// Fill has as many entries made as are wanted, and those removed that are of no
// use: of an older schema, of a plan that has changed, or more than are wanted. It
// is called again and again, by every worker.
func (s *Service) Fill(ctx context.Context) error {
	fingerprint, err := migrations.Tenant.Fingerprint()
	if err != nil {
		return err
	}
	latest, err := migrations.Tenant.Latest()
	if err != nil {
		return err
	}
	return pg.InTx(ctx, s.db, func(tx pgx.Tx) error {
		var mine bool
		if err := tx.QueryRow(ctx, "SELECT pg_try_advisory_xact_lock(hashtextextended('control.warm_pool', 0))").Scan(&mine); err != nil {
			return fmt.Errorf("lock the warm pool: %w", err)
		}
		if !mine {
			return nil
		}
		if err := s.discard(ctx, tx, fingerprint, int64(latest)); err != nil {
			return err
		}
		return s.refill(ctx, tx, fingerprint, int64(latest))
	})
}

// discard asks for the removal of ready entries that are of no use. What a newer
// release has made stays: during an upgrade both are at work.
func (s *Service) discard(ctx context.Context, tx pgx.Tx, fingerprint string, latest int64) error {
	rows, err := tx.Query(ctx, `
		UPDATE control.warm_databases SET status = 'dropping'
		WHERE id IN (
			SELECT w.id
			FROM (SELECT w.id, w.server_id, w.plan_id, w.fingerprint, w.schema_version, w.max_connections,
			             row_number() OVER (PARTITION BY w.server_id, w.plan_id, w.fingerprint ORDER BY w.ready_at) AS n
			      FROM control.warm_databases w WHERE w.status = 'ready') w
			JOIN control.servers s ON s.id = w.server_id
			JOIN control.plans p ON p.id = w.plan_id
			LEFT JOIN control.warm_targets t ON t.server_id = w.server_id AND t.plan_id = w.plan_id
			WHERE s.status <> 'offline' AND w.schema_version <= $2
			  AND (w.fingerprint <> $1 OR w.max_connections <> p.max_connections OR s.status <> 'active' OR w.n > COALESCE(t.size, 0))
			LIMIT 10)
		AND status = 'ready'
		RETURNING id`, fingerprint, latest)
	if err != nil {
		return fmt.Errorf("look for useless entries of the warm pool: %w", err)
	}
	entries, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return fmt.Errorf("look for useless entries of the warm pool: %w", err)
	}
	for _, entry := range entries {
		if err := s.ask(ctx, tx, KindWarmOff, entry, []string{stepDrop}); err != nil {
			return err
		}
	}
	return nil
}

// refill begins new entries where there are too few.
func (s *Service) refill(ctx context.Context, tx pgx.Tx, fingerprint string, latest int64) error {
	rows, err := tx.Query(ctx, `
		SELECT t.server_id, t.plan_id, p.max_connections,
		       least(t.size - count(w.id) FILTER (WHERE w.fingerprint = $1 AND w.status <> 'dropping'),
		             $3 - count(w.id) FILTER (WHERE w.status = 'making'))
		FROM control.warm_targets t
		JOIN control.servers s ON s.id = t.server_id AND s.status = 'active'
		JOIN control.plans p ON p.id = t.plan_id
		LEFT JOIN control.warm_databases w ON w.server_id = t.server_id AND w.plan_id = t.plan_id
		WHERE NOT EXISTS (SELECT FROM control.warm_databases n WHERE n.schema_version > $2)
		  AND NOT EXISTS (SELECT FROM control.operations o WHERE o.kind = $4 AND o.status = 'failed'
		                  AND o.params ->> 'server' = t.server_id::text AND o.finished_at > now() - $5::interval)
		GROUP BY t.server_id, t.plan_id, t.size, p.max_connections`, fingerprint, latest, makingAtOnce, KindWarm, afterFailure)
	if err != nil {
		return fmt.Errorf("look how full the warm pool is: %w", err)
	}
	type lack struct {
		Server, Plan   uuid.UUID
		MaxConnections int
		Missing        int
	}
	lacks, err := pgx.CollectRows(rows, pgx.RowToStructByPos[lack])
	if err != nil {
		return fmt.Errorf("look how full the warm pool is: %w", err)
	}
	for _, l := range lacks {
		for range l.Missing {
			_, err := s.servers.Place(ctx, tx, l.Server.String(), 0)
			if errors.Is(err, server.ErrNoCapacity) {
				break
			}
			if err != nil {
				return err
			}
			if err := s.begin(ctx, tx, l.Server, l.Plan, l.MaxConnections, fingerprint, latest); err != nil {
				return err
			}
		}
	}
	return nil
}

// begin writes an entry, under the names that its database will have, and asks
// for it to be made.
func (s *Service) begin(ctx context.Context, tx pgx.Tx, server, plan uuid.UUID, maxConnections int, fingerprint string, latest int64) error {
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("make an id: %w", err)
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO control.warm_databases (id, server_id, plan_id, database_name, fingerprint, schema_version, max_connections)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`, id, server, plan, tenantdb.Name(id, 1), fingerprint, latest, maxConnections)
	if err != nil {
		return fmt.Errorf("begin an entry of the warm pool: %w", err)
	}
	return s.ask(ctx, tx, KindWarm, id, WarmSteps())
}

func (s *Service) ask(ctx context.Context, tx pgx.Tx, kind string, entry uuid.UUID, steps []string) error {
	var server uuid.UUID
	if err := tx.QueryRow(ctx, "SELECT server_id FROM control.warm_databases WHERE id = $1", entry).Scan(&server); err != nil {
		return fmt.Errorf("read the entry of the warm pool: %w", err)
	}
	_, err := s.operations.Enqueue(ctx, tx, operation.Spec{
		Kind: kind, Params: entryParams{Entry: entry, Server: server}, Steps: steps, CreatedBy: "warm_pool",
	})
	return err
}
