package tenantpool

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ouvira/ouvira/shared/route"
)

// pool is one tenant's connections by one set of connection facts.
type pool struct {
	owner  *Pools
	server *server
	made   *route.Route // by which it was made
	key    route.PoolKey

	route *route.Route // the newest of the same key; guarded by Pools.mu

	built    sync.Once
	builtErr error
	pgx      *pgxpool.Pool // set by build

	refs      atomic.Int64  // leases and attempts
	used      atomic.Uint64 // Pools.tick of the last lease
	acquiring atomic.Int64  // attempts that wait for a connection now
	leased    atomic.Int64  // leases out
	retired   atomic.Bool   // has left the LRU
	stale     atomic.Bool   // … because its route is not the tenant's any more
	closing   sync.Once
}

// closeWithin bounds the polite end of a connection: Terminate is written, and
// the server's own close waited for.
const closeWithin = 2 * time.Second

// capAgain is the pause before a connection is tried again that the tenant's own
// limit at the server has refused.
const capAgain = 50 * time.Millisecond

// cap is this process's part of the tenant's cap, which all nodes share. The
// role's own limit at the server stands behind it.
func (e *pool) cap() int {
	return max(1, e.made.MaxConnections/max(1, int(e.owner.nodes.Load())))
}

// build makes pgx's pool: the credential is opened and the configuration
// copied once, however many requests come first at the same time.
func (e *pool) build() error {
	e.built.Do(func() { e.pgx, e.builtErr = e.owner.openPool(e) })
	return e.builtErr
}

// acquire waits for a connection until waiting ends, which is ctx with the
// bound of the option Wait.
func (e *pool) acquire(ctx, waiting context.Context) (*pgxpool.Conn, error) {
	e.acquiring.Add(1)
	defer e.acquiring.Add(-1)
	for {
		conn, err := e.pgx.Acquire(waiting)
		switch {
		case err == nil:
			e.leased.Add(1)
			return conn, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case waiting.Err() != nil:
			return nil, e.server.overflow(e)
		case errors.Is(err, errTryAgain):
			// An idle connection of this very pool can be had instead.
		case isTenantCap(err) && sleep(waiting, capAgain):
			// Other nodes hold what is the tenant's, perhaps only until they know
			// that this one serves it too.
		case isTenantCap(err):
			return nil, err
		default:
			return nil, err
		}
	}
}

// give takes a lease's connection back. Nothing of it is waited for.
func (e *pool) give(conn *pgxpool.Conn) {
	raw := conn.Conn()
	s := socketOf(raw)
	switch {
	case raw.IsClosed(), raw.PgConn().IsBusy(), raw.PgConn().TxStatus() != 'I', s == nil, s.dirty.Load(), e.retired.Load():
		e.drop(conn)
	case e.server.yields(e, s):
		e.drop(conn)
	default:
		conn.Release()
	}
	e.leased.Add(-1)
	e.server.settleIfPressed()
}

// drop ends a connection in the background.
func (e *pool) drop(conn *pgxpool.Conn) {
	raw := conn.Hijack()
	// The socket holds Pools.open until it is closed, so this needs no count of
	// its own.
	go closeConn(raw)
}

func closeConn(raw *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), closeWithin)
	defer cancel()
	_ = raw.Close(ctx)
}

// dropIdle ends up to n idle connections and returns how many; their sockets
// are marked as leaving.
func (e *pool) dropIdle(n int) int {
	if e.pgx == nil {
		return 0
	}
	dropped := 0
	for _, conn := range e.pgx.AcquireAllIdle(context.Background()) {
		if dropped == n {
			conn.Release()
			continue
		}
		if s := socketOf(conn.Conn()); s != nil && e.server.leave(s) {
			dropped++
		}
		e.drop(conn)
	}
	return dropped
}

// idle is how many connections could be leased at once. The pool is built.
func (e *pool) idle() int { return int(e.pgx.Stat().IdleConns()) }

// retire is called when the pool has left the LRU. Idle connections go now;
// the rest when their leases end.
func (e *pool) retire() {
	e.retired.Store(true)
	e.refs.Add(1) // so that build and Reset below do not meet a closed pool
	if err := e.build(); err == nil {
		e.pgx.Reset()
	}
	e.unref()
}

// unref lets go of a reference; the last one of a retired pool closes it.
func (e *pool) unref() {
	if e.refs.Add(-1) == 0 && e.retired.Load() {
		e.closing.Do(func() {
			go func() {
				defer e.owner.open.Done()
				if e.pgx != nil {
					e.pgx.Close()
				}
			}()
		})
	}
}

// openPool makes pgx's pool from the base configuration.
func (p *Pools) openPool(e *pool) (*pgxpool.Pool, error) {
	r := e.made
	password, err := p.options.Key.Open(r.Credential, route.CredentialContext(r.TenantID, r.Incarnation))
	if err != nil {
		return nil, fmt.Errorf("the credential of tenant %s: %w", r.TenantID, err)
	}
	tlsConfig, err := e.server.tls(r.Server)
	if err != nil {
		return nil, err
	}
	config := p.base.Copy()
	config.MaxConns = int32(min(r.MaxConnections, 1<<15)) // cap moves below it
	cc := config.ConnConfig
	cc.Host, cc.Port, cc.TLSConfig = r.Server.Host, r.Server.Port, tlsConfig
	cc.Database, cc.User, cc.Password = r.Database, r.Database, string(password)
	cc.RuntimeParams["statement_timeout"] = fmt.Sprint(r.StatementTimeout.Milliseconds())
	config.BeforeConnect = e.beforeConnect
	config.AfterConnect = e.afterConnect
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		return nil, fmt.Errorf("make a pool: %w", err)
	}
	return pool, nil
}
