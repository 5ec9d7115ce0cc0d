package tenantpool

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// conn is a connection that has proven where it is. Its fields are guarded by
// server.mu, except while it is leased: then made, expires and what follows
// belong to the lease.
type conn struct {
	raw     *pgx.Conn
	pool    *pool
	sock    *socket
	made    time.Time
	expires time.Time

	background bool      // leased for background work
	warm       bool      // a request has used it
	idleSince  time.Time // when a request used it last

	colder, warmer *conn // in the server's idleList
}

// idleList is the idle connections of a server's pools in the order in which
// requests used them last. Those of one pool are in the same order in pool.idle.
//
// When somebody needs room, the coldest connection goes. What counts is the
// connection and not its pool: a pool leases the connection that it used last,
// so what it does not need any more after a busy time grows cold one by one,
// though the pool itself is in use. A tenant's only connection is as cold as the
// tenant. To close one costs about 10 ms when it is wanted again, whosever it
// is; the longer it was not, the less likely that is.
type idleList struct {
	coldest, warmest *conn
	count            int
}

// add puts a connection where its last use belongs: at the warm end, unless
// background work has used it since.
func (l *idleList) add(c *conn) {
	l.count++
	after := l.warmest
	for after != nil && after.idleSince.After(c.idleSince) {
		after = after.colder
	}
	c.colder = after
	if after == nil {
		c.warmer, l.coldest = l.coldest, c
	} else {
		c.warmer, after.warmer = after.warmer, c
	}
	if c.warmer == nil {
		l.warmest = c
	} else {
		c.warmer.colder = c
	}
	e := c.pool
	at := len(e.idle)
	for at > 0 && e.idle[at-1].idleSince.After(c.idleSince) {
		at--
	}
	e.idle = slices.Insert(e.idle, at, c)
}

// remove takes a connection out, and returns it.
func (l *idleList) remove(c *conn) *conn {
	l.count--
	if c.colder == nil {
		l.coldest = c.warmer
	} else {
		c.colder.warmer = c.warmer
	}
	if c.warmer == nil {
		l.warmest = c.colder
	} else {
		c.warmer.colder = c.colder
	}
	c.colder, c.warmer = nil, nil
	e := c.pool
	at := len(e.idle) - 1
	for e.idle[at] != c {
		at--
	}
	e.idle = slices.Delete(e.idle, at, at+1)
	return c
}

const (
	lookAfter = 10 * time.Millisecond
	pingAfter = 30 * time.Second
	// pingWithin bounds what a connection may take to show that it lives.
	pingWithin = 2 * time.Second
)

// alive tells whether a connection that was idle may be leased. Warm ones are
// spared a round trip: their socket is looked at instead, which finds those that
// a fence or a restart has ended.
func (c *conn) alive(ctx context.Context) bool {
	switch now := time.Now(); {
	case now.After(c.expires):
		return false
	case now.Sub(c.idleSince) < lookAfter:
		return true
	case !c.sock.quiet():
		return false
	case now.Sub(c.idleSince) < pingAfter:
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, pingWithin)
	defer cancel()
	return c.raw.Ping(ctx) == nil
}

// fit tells whether the session is as a new one's.
func (c *conn) fit() bool {
	return !c.raw.IsClosed() && !c.raw.PgConn().IsBusy() && c.raw.PgConn().TxStatus() == 'I' && !c.sock.dirty.Load() && !c.sock.outdated.Load()
}

// closeWithin bounds the polite end of a connection: Terminate is written, and
// the server's own close waited for.
const closeWithin = 2 * time.Second

// endConn ends a connection in the background. The socket holds Pools.open until
// it is closed, so this needs no count of its own.
func endConn(c *conn) {
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeWithin)
		defer cancel()
		_ = c.raw.Close(ctx)
	}()
}
