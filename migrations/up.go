package migrations

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5"
)

// lockTimeout bounds every wait for a table lock while migrating; the caller
// tries again later rather than queueing in front of the tenant's own queries.
const lockTimeout = "5s"

// Up brings the database at dsn (a postgres:// URL) to the latest version of
// the set and returns that version. It may be called by several processes at
// once and after a crash. The role of dsn (or its "role" parameter) becomes
// the owner of what is created.
//
// Errors: what Postgres said about the failing file; the context's error when
// the lock could not be had in time; a refusal when the database is at a
// version this binary does not know.
func Up(ctx context.Context, dsn string, set Set) (uint, error) {
	return up(ctx, dsn, set, (*migrate.Migrate).Up)
}

// UpTo is Up as far as a version, for what was dumped at that one.
func UpTo(ctx context.Context, dsn string, set Set, version uint) error {
	_, err := up(ctx, dsn, set, func(m *migrate.Migrate) error { return m.Migrate(version) })
	return err
}

func up(ctx context.Context, dsn string, set Set, how func(*migrate.Migrate) error) (uint, error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return 0, fmt.Errorf("connect to migrate: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))

	if err := lock(ctx, conn); err != nil {
		return 0, err
	}
	if err := prepareLedger(ctx, conn, set); err != nil {
		return 0, err
	}
	m, err := open(dsn, set)
	if err != nil {
		return 0, err
	}
	defer m.Close()
	if err := repair(ctx, conn, m, set); err != nil {
		return 0, err
	}
	return run(ctx, conn, m, set, how)
}

// lock takes the runner's advisory lock by polling: a session that waits
// inside pg_advisory_lock holds a snapshot, and CREATE INDEX CONCURRENTLY of
// the session that has the lock would wait for it for ever. The lock goes when
// conn closes.
func lock(ctx context.Context, conn *pgx.Conn) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		var got bool
		err := conn.QueryRow(ctx, "SELECT pg_try_advisory_lock(hashtextextended('ouvira.migrations', 0))").Scan(&got)
		if err != nil {
			return fmt.Errorf("lock the migrations: %w", err)
		}
		if got {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("another process is migrating this database: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// prepareLedger makes the bookkeeping tables, which come before any file.
func prepareLedger(ctx context.Context, conn *pgx.Conn, set Set) error {
	statements := fmt.Sprintf(`
		CREATE SCHEMA IF NOT EXISTS %[1]s;
		CREATE TABLE IF NOT EXISTS %[1]s.schema_migrations (version bigint NOT NULL PRIMARY KEY, dirty boolean NOT NULL);
		CREATE TABLE IF NOT EXISTS %[1]s.migration_ledger (
			version    bigint PRIMARY KEY,
			name       text NOT NULL,
			sha256     text NOT NULL,
			applied_at timestamptz NOT NULL DEFAULT now()
		)`, set.schema)
	var exists bool
	err := conn.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", set.schema+".migration_ledger").Scan(&exists)
	if err == nil && !exists {
		_, err = conn.Exec(ctx, statements)
	}
	if err != nil {
		return fmt.Errorf("prepare the migration ledger: %w", err)
	}
	return nil
}

// open wires golang-migrate to the set. Its own lock is a second one, never
// contended, because ours is held.
func open(dsn string, set Set) (*migrate.Migrate, error) {
	files, err := iofs.New(set.files, set.name)
	if err != nil {
		return nil, fmt.Errorf("open the %s migrations: %w", set.name, err)
	}
	src, err := newLedgerSource(files, set)
	if err != nil {
		return nil, err
	}
	db, err := openDatabase(dsn, set)
	if err != nil {
		return nil, err
	}
	m, err := migrate.NewWithInstance("iofs", src, "pgx5", db)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the %s migrations: %w", set.name, err), db.Close())
	}
	return m, nil
}

func openDatabase(dsn string, set Set) (database.Driver, error) {
	u, err := url.Parse(dsn)
	if err != nil {
		// url.Error repeats the address, password included.
		return nil, errors.New("the database address is not a postgres:// URL")
	}
	q := u.Query()
	q.Set("x-migrations-table", fmt.Sprintf(`"%s"."schema_migrations"`, set.schema))
	q.Set("x-migrations-table-quoted", "1")
	q.Set("lock_timeout", lockTimeout)
	u.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20")
	u.Scheme = "pgx5"
	db, err := new(migratepgx.Postgres).Open(u.String())
	if err != nil {
		return nil, fmt.Errorf("connect to migrate: %w", err)
	}
	return db, nil
}

// repair settles a dirty flag by what the ledger proves: the file's row is
// there, so it has committed; or it is not, so it was rolled back.
func repair(ctx context.Context, conn *pgx.Conn, m *migrate.Migrate, set Set) error {
	version, dirty, err := m.Version()
	if errors.Is(err, migrate.ErrNilVersion) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the schema version: %w", err)
	}
	latest, err := set.Latest()
	if err != nil {
		return err
	}
	if version > latest {
		return fmt.Errorf("the database is at schema version %d, this release knows %d: run the release that migrated it, or a later one", version, latest)
	}
	if !dirty {
		return nil
	}
	var committed bool
	err = conn.QueryRow(ctx, fmt.Sprintf("SELECT EXISTS (SELECT FROM %s.migration_ledger WHERE version = $1)", set.schema), version).Scan(&committed)
	if err != nil {
		return fmt.Errorf("read the migration ledger: %w", err)
	}
	settled := int(version)
	if !committed {
		settled, err = set.before(version)
		if err != nil {
			return err
		}
	}
	if err := m.Force(settled); err != nil {
		return fmt.Errorf("settle the interrupted migration %d: %w", version, err)
	}
	return nil
}

// before is the version of the set that precedes v, or -1 (golang-migrate's
// word for "none").
func (s Set) before(v uint) (int, error) {
	files, err := s.list()
	if err != nil {
		return 0, err
	}
	previous := -1
	for _, f := range files {
		if f.version >= v {
			break
		}
		previous = int(f.version)
	}
	return previous, nil
}

func run(ctx context.Context, conn *pgx.Conn, m *migrate.Migrate, set Set, how func(*migrate.Migrate) error) (uint, error) {
	stop := context.AfterFunc(ctx, func() { m.GracefulStop <- true })
	defer stop()
	if err := how(m); err != nil && !errors.Is(err, migrate.ErrNoChange) {
		return 0, fmt.Errorf("migrate the %s schema: %w", set.name, err)
	}
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("migrate the %s schema: %w", set.name, err)
	}
	version, _, err := m.Version()
	if err != nil {
		return 0, fmt.Errorf("read the schema version: %w", err)
	}
	return version, recordUntransacted(ctx, conn, set, version)
}

// recordUntransacted completes the ledger with the files that ran outside a
// transaction and so could not record themselves.
func recordUntransacted(ctx context.Context, conn *pgx.Conn, set Set, upTo uint) error {
	files, err := set.list()
	if err != nil {
		return err
	}
	for _, f := range files {
		if f.version > upTo {
			break
		}
		if _, err := conn.Exec(ctx, set.recordSQL(f)); err != nil {
			return fmt.Errorf("record migration %d: %w", f.version, err)
		}
	}
	return nil
}
