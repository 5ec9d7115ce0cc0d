package tenantpool

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// dialer finds dead peers of idle connections within a minute.
var dialer = net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
	Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3,
}}

// permit is the right to one open socket to a server. It is used by exactly
// one dial; from then on the socket answers for it.
type permit struct {
	pool   *pool
	used   atomic.Bool
	report func(error) // tells the breaker, once: nil when the server has answered

	instance string // of this process, as the connection will say
}

// newPermit is for a permit that was granted. A server whose breaker is open is
// not dialled.
func (e *pool) newPermit() (*permit, error) {
	report, err := e.server.dials().Allow()
	if err != nil {
		e.server.returned(e, nil)
		return nil, errNoAnswer
	}
	return &permit{pool: e, report: report, instance: e.server.budget.Instance()}, nil
}

// unused gives the permit back if nothing was dialled with it.
func (p *permit) unused() {
	if !p.used.Swap(true) {
		p.report(context.Canceled)
		p.pool.server.returned(p.pool, nil)
	}
}

// dial is the DialFunc of one connection. Its first call makes the connection;
// later ones carry requests to cancel a query, which are no backends.
func (p *permit) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if p.used.Swap(true) {
		return dialer.DialContext(ctx, network, address)
	}
	report := func(err error) {
		if err != nil && errors.Is(ctx.Err(), context.Canceled) {
			err = context.Canceled
		}
		p.report(err)
	}
	begun := time.Now()
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		report(err)
		p.pool.server.returned(p.pool, nil)
		return nil, err
	}
	return &socket{Conn: conn, pool: p.pool, look: looker(conn), report: report, instance: p.instance, dialed: begun}, nil
}

// socket is a connection that gives its permit back when it is closed: not
// when our end is, but when the server has closed its own, because only then
// is the backend gone.
type socket struct {
	net.Conn

	pool     *pool
	look     func() bool // see quiet
	report   func(error) // see permit
	answered atomic.Bool // the server has sent something
	closed   atomic.Bool
	dirty    atomic.Bool // the session is not as a new one is
	outdated atomic.Bool // a migration has changed what its statements return
	instance string      // see permit
	dialed   time.Time   // when the dial began

	// Of whoever uses the connection now.
	statement string    // the one that runs, and
	begun     time.Time // since when

	// Guarded by server.mu.
	connected bool // past the marker check
	leaving   bool // we are closing it; counted in server.closing
	gone      bool // the permit is back
}

// Read notices the server's first word.
func (s *socket) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if n > 0 && !s.answered.Load() && !s.answered.Swap(true) {
		s.report(nil)
	}
	return n, err
}

// Close ends our side and returns at once; the permit goes back when the
// server has closed too, or after closeWithin.
func (s *socket) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	if !s.answered.Swap(true) {
		s.report(errNoAnswer)
	}
	go func() {
		// A timer, not a read deadline: whoever still watches over the
		// connection may reset deadlines.
		giveUp := time.AfterFunc(closeWithin, func() { _ = s.Conn.Close() })
		defer giveUp.Stop()
		if half, ok := s.Conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
			_, _ = io.Copy(io.Discard, s.Conn)
		}
		_ = s.Conn.Close()
		s.pool.server.returned(s.pool, s)
	}()
	return nil
}

// quiet tells whether nothing has arrived on an idle connection: Postgres says
// why it ends one (a fence, a restart), and closes it.
func (s *socket) quiet() bool { return s.look() }

// socketOf finds the socket under a connection.
func socketOf(conn *pgx.Conn) *socket {
	switch c := conn.PgConn().Conn().(type) {
	case *socket:
		return c
	case *tls.Conn:
		s, _ := c.NetConn().(*socket)
		return s
	}
	return nil
}
