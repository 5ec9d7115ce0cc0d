package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/event"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/pg"
)

const (
	// ScanEvery is between two looks into a tenant's database.
	ScanEvery = 24 * time.Hour
	// A worker that is started has all of them looked at again that were not within
	// this time.
	scanFresh = time.Hour
	// scanAgain is when a database is tried again that could not be looked at, and when
	// another worker takes what one has not come back from.
	scanAgain   = 5 * time.Minute
	scanTimeout = 10 * time.Second
	// ScanAtOnce bounds a turn of Scan, in which one database is visited after the
	// other, with a connection of the worker's share: with a turn a second five thousand
	// tenants take less than an hour.
	ScanAtOnce = 2
)

// Scan looks into a few of the tenants' databases that are due: those at which nobody has
// looked since they are where they are, and each once a day. It writes down what is there
// and not ours, and tells of it once; and with which keys what is sealed there is sealed.
func (s *Service) Scan(ctx context.Context) error {
	if err := s.plan(ctx); err != nil {
		return err
	}
	due, err := s.due(ctx)
	if err != nil {
		return err
	}
	var failed []error
	for _, d := range due {
		if err := s.scan(ctx, d); err != nil {
			failed = append(failed, fmt.Errorf("look into %s: %w", d.Database.Name(), err))
		}
	}
	return errors.Join(failed...)
}

// Rescan has all databases looked at that were not within the last hour: for a worker
// that is started.
func (s *Service) Rescan(ctx context.Context) error {
	if _, err := s.db.Exec(ctx, "UPDATE control.database_looks SET due_at = now() WHERE due_at > now() AND looked_at < now() - $1::interval", scanFresh); err != nil {
		return fmt.Errorf("have the databases looked at: %w", err)
	}
	return nil
}

// scannable are the tenants whose databases are looked into.
const scannable = "t.status IN ('active', 'suspended', 'deleted') AND t.server_id IS NOT NULL AND t.database_name IS NOT NULL"

// plan notes the databases that are new: of a new tenant, or after a move or a restore.
func (s *Service) plan(ctx context.Context) error {
	_, err := s.db.Exec(ctx, `
		INSERT INTO control.database_looks (tenant_id, incarnation)
		SELECT t.id, t.incarnation FROM control.tenants t
		WHERE `+scannable+` AND NOT EXISTS (SELECT FROM control.database_looks l WHERE l.tenant_id = t.id AND l.incarnation = t.incarnation)
		ON CONFLICT (tenant_id) DO UPDATE
		SET incarnation = excluded.incarnation, due_at = now(), looked_at = NULL, foreign_code = '{}', signing_keys = '{}', secrets = '{}', resealing_until = NULL`)
	if err != nil {
		return fmt.Errorf("note the databases to look at: %w", err)
	}
	return nil
}

type scanned struct {
	Database tenantdb.Database
	server   uuid.UUID
	dueAt    time.Time // as it was taken
}

// due takes some of the databases to look at: nobody else has them for a while.
func (s *Service) due(ctx context.Context) ([]scanned, error) {
	rows, err := s.db.Query(ctx, `
		UPDATE control.database_looks l SET due_at = now() + $2::interval
		FROM (SELECT l.tenant_id, t.server_id FROM control.database_looks l
		      JOIN control.tenants t ON t.id = l.tenant_id AND t.incarnation = l.incarnation
		      JOIN control.servers s ON s.id = t.server_id AND s.status <> 'offline'
		      WHERE l.due_at <= now() AND `+scannable+`
		      ORDER BY l.due_at LIMIT $1 FOR UPDATE OF l SKIP LOCKED) d
		WHERE l.tenant_id = d.tenant_id
		RETURNING l.tenant_id, l.incarnation, d.server_id, l.due_at`, ScanAtOnce, scanAgain)
	if err != nil {
		return nil, fmt.Errorf("take the databases to look at: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (scanned, error) {
		var d scanned
		return d, row.Scan(&d.Database.Tenant, &d.Database.Incarnation, &d.server, &d.dueAt)
	})
	if err != nil {
		return nil, fmt.Errorf("take the databases to look at: %w", err)
	}
	return all, nil
}

func (s *Service) scan(ctx context.Context, d scanned) error {
	visiting, cancel := context.WithTimeout(ctx, scanTimeout)
	defer cancel()
	access, err := s.servers.Open(visiting, d.server, 1)
	if err != nil {
		return err
	}
	defer access.Close()
	conn, err := access.Connect(visiting, server.Target{Database: d.Database.Name(), Role: migrations.OwnerRole, ApplicationName: "ouvira/scan"})
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	alien, err := collect[string](visiting, conn, pgx.RowTo[string], foreign)
	if err != nil {
		return err
	}
	signingKeys, err := tenantdb.SigningKeyKeys(visiting, conn)
	if err != nil {
		return err
	}
	secrets, err := tenantdb.SecretKeys(visiting, conn)
	if err != nil {
		return err
	}
	return s.found(ctx, d, alien, signingKeys, secrets)
}

// found writes down what was in a database when it was taken. Of what was not there before,
// operators are told. Who wants it looked at again meanwhile is heard.
func (s *Service) found(ctx context.Context, d scanned, alien []string, signingKeys, secrets []int64) error {
	alien = append([]string{}, alien...)
	return pg.InTx(ctx, s.db, func(tx pgx.Tx) error {
		var before []string
		err := tx.QueryRow(ctx, "SELECT foreign_code FROM control.database_looks WHERE tenant_id = $1 AND incarnation = $2 FOR UPDATE", d.Database.Tenant, d.Database.Incarnation).
			Scan(&before)
		if errors.Is(err, pgx.ErrNoRows) { // the tenant has another database now
			return nil
		}
		if err != nil {
			return fmt.Errorf("lock what is known of the database: %w", err)
		}
		_, err = tx.Exec(ctx, `
			UPDATE control.database_looks
			SET looked_at = $3::timestamptz - $8::interval, due_at = CASE WHEN due_at = $3 THEN now() + $4::interval ELSE due_at END,
			    foreign_code = $5, signing_keys = $6, secrets = $7, resealing_until = NULL
			WHERE tenant_id = $1 AND incarnation = $2`,
			d.Database.Tenant, d.Database.Incarnation, d.dueAt, ScanEvery, alien, signingKeys, secrets, scanAgain)
		if err != nil {
			return fmt.Errorf("write down what is in the database: %w", err)
		}
		fresh := slices.DeleteFunc(slices.Clone(alien), func(what string) bool { return slices.Contains(before, what) })
		if len(fresh) == 0 {
			return nil
		}
		s.log.ErrorContext(ctx, "a tenant's database has what no tenant's database has", "tenant", d.Database.Tenant, "database", d.Database.Name(), "found", strings.Join(fresh, ", "))
		return event.Record(ctx, tx, event.ForeignCode, d.Database.Tenant, map[string]any{"database": d.Database.Name(), "found": fresh})
	})
}

// Scanned is how far the looks into databases are.
type Scanned struct {
	Foreign int           // databases with what is not ours
	Overdue time.Duration // since when the one that is due the longest is
}

// Scanned tells it.
func (s *Service) Scanned(ctx context.Context) (Scanned, error) {
	var sc Scanned
	err := s.db.QueryRow(ctx, `
		SELECT count(*) FILTER (WHERE l.foreign_code <> '{}'), COALESCE(greatest(now() - min(COALESCE(l.looked_at + $1::interval, t.updated_at)), '0'), '0')
		FROM control.tenants t LEFT JOIN control.database_looks l ON l.tenant_id = t.id AND l.incarnation = t.incarnation
		WHERE `+scannable, ScanEvery).Scan(&sc.Foreign, &sc.Overdue)
	if err != nil {
		return sc, fmt.Errorf("count what was found in databases: %w", err)
	}
	return sc, nil
}
