package replay

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ouvira/ouvira/shared/pg"
)

// DB is the control database as rooms have it: the pool, or within Do the
// transaction of the request. A transaction that is begun there is a part of it.
type DB struct{ Pool *pgxpool.Pool }

var _ pg.DB = DB{}

// Exec implements pg.Querier.
func (d DB) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	q, err := d.in(ctx)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	return q.Exec(ctx, sql, args...)
}

// Query implements pg.Querier.
func (d DB) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	q, err := d.in(ctx)
	if err != nil {
		return nil, err
	}
	return q.Query(ctx, sql, args...)
}

// QueryRow implements pg.Querier.
func (d DB) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	q, err := d.in(ctx)
	if err != nil {
		return failed{err}
	}
	return q.QueryRow(ctx, sql, args...)
}

// BeginTx implements pg.Beginner. Within Do, the options are those of the request's
// transaction.
func (d DB) BeginTx(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error) {
	w := withinOf(ctx)
	if w == nil {
		return d.Pool.BeginTx(ctx, o)
	}
	tx, err := w.begun(ctx)
	if err != nil {
		return nil, err
	}
	return tx.Begin(ctx)
}

func (d DB) in(ctx context.Context) (pg.Querier, error) {
	if w := withinOf(ctx); w != nil {
		return w.begun(ctx)
	}
	return d.Pool, nil
}

// failed is the row of a statement that could not be asked.
type failed struct{ err error }

// Scan implements pgx.Row.
func (f failed) Scan(...any) error { return f.err }
