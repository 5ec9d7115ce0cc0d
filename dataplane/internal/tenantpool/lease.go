package tenantpool

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ouvira/ouvira/shared/route"
)

// errReleased is a mistake of ours: a lease was used after its release.
var errReleased = errors.New("the lease of a tenant's connection was used after its release")

// Lease is one connection to one tenant's database, for one goroutine, until
// Release. It runs statements (pg.Querier) and begins transactions
// (pg.Beginner).
type Lease struct {
	pool  *pool
	conn  *conn // nil after Release
	route *route.Route
}

// Route is the one that the lease was made by: not older than the one that
// was asked with.
func (l *Lease) Route() *route.Route { return l.route }

// Exec runs a statement.
func (l *Lease) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if l.conn == nil {
		return pgconn.CommandTag{}, errReleased
	}
	return l.conn.raw.Exec(ctx, sql, args...)
}

// Query runs a query.
func (l *Lease) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if l.conn == nil {
		return nil, errReleased
	}
	return l.conn.raw.Query(ctx, sql, args...)
}

// QueryRow runs a query for at most one row.
func (l *Lease) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if l.conn == nil {
		return releasedRow{}
	}
	return l.conn.raw.QueryRow(ctx, sql, args...)
}

// BeginTx begins a transaction. One that is still open at Release costs the
// connection.
func (l *Lease) BeginTx(ctx context.Context, opts pgx.TxOptions) (pgx.Tx, error) {
	if l.conn == nil {
		return nil, errReleased
	}
	return l.conn.raw.BeginTx(ctx, opts)
}

type releasedRow struct{}

func (releasedRow) Scan(...any) error { return errReleased }

// Release gives the connection back; it may be called more than once. It waits
// for nothing. What the lease left in the session does not reach the next one.
func (l *Lease) Release() {
	if l.conn == nil {
		return
	}
	c := l.conn
	l.conn = nil
	l.pool.server.give(c, c.fit())
	l.pool.unref()
}
