package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/ouvira/ouvira/migrations"
)

// grants lets the control plane work with River's tables without owning them.
// Functions are named because the owner gives PUBLIC no EXECUTE (see the first
// control migration).
const grants = `
GRANT USAGE ON SCHEMA river TO ouvira_control;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA river TO ouvira_control;
GRANT USAGE, SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA river TO ouvira_control;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA river TO ouvira_control;
`

// Migrate brings River's schema in the control database to the version of the
// library, owned by ouvira_control_owner, and grants it to ouvira_control. dsn
// is the control database's URL of a role that may become the owner. It may be
// called by several processes at once.
func Migrate(ctx context.Context, dsn string) error {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return errors.New("the control database's address is not a valid postgres:// URL")
	}
	config.MaxConns = 3
	config.ConnConfig.RuntimeParams["role"] = migrations.ControlOwnerRole
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("open the control database: %w", err)
	}
	defer pool.Close()

	// The lock lives as long as its session.
	guard, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		return fmt.Errorf("connect to migrate River: %w", err)
	}
	defer guard.Close(context.WithoutCancel(ctx))
	if _, err := guard.Exec(ctx, "SELECT pg_advisory_lock(hashtextextended('ouvira.river', 0))"); err != nil {
		return fmt.Errorf("lock River's migrations: %w", err)
	}
	// IF NOT EXISTS would want the right to create it even when it is there.
	var there bool
	err = pool.QueryRow(ctx, "SELECT to_regnamespace($1) IS NOT NULL", Schema).Scan(&there)
	if err == nil && !there {
		_, err = pool.Exec(ctx, "CREATE SCHEMA "+Schema)
	}
	if err != nil {
		return fmt.Errorf("make River's schema: %w", err)
	}
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{
		Schema: Schema, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return fmt.Errorf("prepare River's migrations: %w", err)
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return fmt.Errorf("migrate River: %w", err)
	}
	if _, err := pool.Exec(ctx, grants); err != nil {
		return fmt.Errorf("grant River's tables: %w", err)
	}
	return nil
}
