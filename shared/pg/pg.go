// Package pg is what both planes need of Postgres beyond pgx: pools opened
// with the same care, transactions, LISTEN that survives, SCRAM verifiers, and
// names for what went wrong.
package pg

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// OldestVersion is the lowest server_version_num that Ouvira runs on.
const OldestVersion = 150000

// Querier runs statements: a pool, a connection or a transaction. Generated
// queries take it, so that one set serves all three.
type Querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Beginner starts transactions: a pool, a connection or a lease.
type Beginner interface {
	BeginTx(ctx context.Context, opts pgx.TxOptions) (pgx.Tx, error)
}

// DB is both, as a pool is.
type DB interface {
	Querier
	Beginner
}

// InTx runs fn in a READ COMMITTED transaction: committed when fn returns nil,
// rolled back otherwise. fn runs a second time when a migration came in between
// (IsOutdatedPlan), after all that it did in the database was rolled back: what it
// leaves elsewhere must not add up.
func InTx(ctx context.Context, db Beginner, fn func(tx pgx.Tx) error) error {
	err := pgx.BeginTxFunc(ctx, db, pgx.TxOptions{}, fn)
	if IsOutdatedPlan(err) {
		err = pgx.BeginTxFunc(ctx, db, pgx.TxOptions{}, fn)
	}
	return err
}

// InTxValue is InTx for work that has a result.
func InTxValue[T any](ctx context.Context, db Beginner, fn func(tx pgx.Tx) (T, error)) (T, error) {
	var out T
	err := InTx(ctx, db, func(tx pgx.Tx) error {
		var err error
		out, err = fn(tx)
		return err
	})
	if err != nil {
		var zero T
		return zero, err
	}
	return out, nil
}

// Options of Open. The zero value is usable.
type Options struct {
	ApplicationName string        // shown in pg_stat_activity; at most 63 bytes count
	MaxConnections  int32         // default 10
	ConnectTimeout  time.Duration // default 5 s
	// Tracer sees the statements; nil: nobody does.
	Tracer pgx.QueryTracer
	// Role becomes the current role of every session (it survives RESET ROLE
	// and DISCARD ALL).
	Role string
}

// Open makes a pool for a postgres:// URL and proves that it works: the server
// answers, and its version is one we run on. Errors say what to do and never
// repeat the URL, which holds a password.
func Open(ctx context.Context, dsn string, o Options) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, errors.New("the database address is not a valid postgres:// URL")
	}
	config.MaxConns = 10
	if o.MaxConnections > 0 {
		config.MaxConns = o.MaxConnections
	}
	config.ConnConfig.ConnectTimeout = 5 * time.Second
	if o.ConnectTimeout > 0 {
		config.ConnConfig.ConnectTimeout = o.ConnectTimeout
	}
	if o.ApplicationName != "" {
		config.ConnConfig.RuntimeParams["application_name"] = o.ApplicationName
	}
	if o.Role != "" {
		config.ConnConfig.RuntimeParams["role"] = o.Role
	}
	config.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		SendUUIDs(conn.TypeMap())
		return nil
	}
	config.ConnConfig.Tracer = o.Tracer
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	if err := CheckVersion(ctx, pool); err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}

// CheckVersion refuses servers that are too old, and explains a connection
// that could not be made.
func CheckVersion(ctx context.Context, q Querier) error {
	var version int
	if err := q.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&version); err != nil {
		return fmt.Errorf("%s: %w", Explain(err), err)
	}
	if version < OldestVersion {
		return fmt.Errorf("Postgres %d is too old: Ouvira runs on 15 and later", version/10000)
	}
	return nil
}
