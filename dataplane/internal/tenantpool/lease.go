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

// maxTries is how often a statement is run whose plan turns out to be outdated: a
// second migration may come between its being prepared anew and run.
const maxTries = 3

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
func (l *Lease) Exec(ctx context.Context, sql string, args ...any) (tag pgconn.CommandTag, err error) {
	for tries := 0; tries == 0 || tries < maxTries && l.mayRepeat(); tries++ {
		if err := l.ready(ctx); err != nil {
			return pgconn.CommandTag{}, err
		}
		tag, err = l.conn.raw.Exec(ctx, sql, args...)
	}
	return tag, err
}

// Query runs a query.
func (l *Lease) Query(ctx context.Context, sql string, args ...any) (rows pgx.Rows, err error) {
	for tries := 0; tries == 0 || tries < maxTries && l.mayRepeat(); tries++ {
		if err := l.ready(ctx); err != nil {
			return nil, err
		}
		rows, err = l.conn.raw.Query(ctx, sql, args...)
		if err == nil && len(rows.FieldDescriptions()) == 0 {
			rows.Next() // there are no columns, hence no rows: this reads the end, or why it failed
		}
	}
	return rows, err
}

// QueryRow runs a query for at most one row.
func (l *Lease) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, err := l.Query(ctx, sql, args...)
	return row{rows, err}
}

// BeginTx begins a transaction. One that is still open at Release costs the
// connection.
func (l *Lease) BeginTx(ctx context.Context, opts pgx.TxOptions) (pgx.Tx, error) {
	if err := l.ready(ctx); err != nil {
		return nil, err
	}
	return l.conn.raw.BeginTx(ctx, opts)
}

// ready has the connection forget its prepared statements if one was found to be
// outdated. It then leads the tenant's next requests to new connections: all
// those from before the migration would say the same.
func (l *Lease) ready(ctx context.Context) error {
	if l.conn == nil {
		return errReleased
	}
	if l.conn.sock.outdated.Load() && l.conn.raw.PgConn().TxStatus() == 'I' {
		l.pool.owner.outdate(l.pool)
		if err := l.conn.raw.DeallocateAll(ctx); err != nil {
			return err
		}
		l.conn.sock.outdated.Store(false)
	}
	return nil
}

// mayRepeat tells whether the last statement was refused for an outdated plan,
// outside of a transaction: it has done nothing, and can be run again. In a
// transaction all of it must be: see pg.InTx.
func (l *Lease) mayRepeat() bool {
	return l.conn.sock.outdated.Load() && l.conn.raw.PgConn().TxStatus() == 'I'
}

// row is the first of rows.
type row struct {
	rows pgx.Rows
	err  error
}

// Scan implements pgx.Row.
func (r row) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	defer r.rows.Close()
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err
	}
	r.rows.Close()
	return r.rows.Err()
}

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
