package tenantpool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"

	"github.com/ouvira/ouvira/shared/budget"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
)

// What connections of all pools have in common.
const (
	statementCache = 64               // statements prepared per connection
	lifetime       = time.Hour        // a connection is closed after this, and up to:
	lifetimeJitter = 10 * time.Minute // later
	cancelWithin   = 2 * time.Second  // a cancelled query may take this long to admit it
)

// errWrongDatabase says that a connection came out somewhere else than its
// route says (invariant 4).
var errWrongDatabase = errors.New("the database belongs to another tenant or incarnation")

// markerError is a connection that could not prove where it is.
type markerError struct{ err error }

func (e *markerError) Error() string { return "read the marker of the database: " + e.err.Error() }
func (e *markerError) Unwrap() error { return e.err }

// baseConfig is parsed once; each connection's is a copy (51 µs against 226, and
// 1.7 KB less).
func baseConfig(o Options) (*pgx.ConnConfig, error) {
	// Every field that the environment (PGHOST, PGSERVICE, …) could fill is
	// given here or set in config.
	cc, err := pgx.ParseConfig("postgres://nobody@127.0.0.1:1/nobody?sslmode=disable&target_session_attrs=any")
	if err != nil {
		return nil, fmt.Errorf("the environment's PG* variables do not allow a connection: %w", err)
	}
	cc.Fallbacks = nil
	cc.ConnectTimeout = o.ConnectTimeout
	cc.StatementCacheCapacity = statementCache
	cc.DescriptionCacheCapacity = 0
	// When this machine is lost without a word, the server notices within 20 s
	// that nobody is there, and the permits are free in truth.
	cc.RuntimeParams = map[string]string{"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "2"}
	cc.Tracer = sessionTracer{}
	cc.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: cancelWithin}
	}
	// Names are resolved in the dial, which answers for the permit.
	cc.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	return cc, nil
}

// config is that of one connection of the pool. The password is opened for each:
// that costs little beside the handshake, and an idle pool keeps none in memory.
func (e *pool) config() (*pgx.ConnConfig, error) {
	r := e.made
	password, err := e.owner.options.Key.Open(r.Credential, route.CredentialContext(r.TenantID, r.Incarnation))
	if err != nil {
		return nil, fmt.Errorf("the credential of tenant %s: %w", r.TenantID, err)
	}
	tlsConfig, err := e.server.tls(r.Server)
	if err != nil {
		return nil, err
	}
	cc := e.owner.base.Copy()
	cc.Host, cc.Port, cc.TLSConfig = r.Server.Host, r.Server.Port, tlsConfig
	cc.Database, cc.User, cc.Password = r.Database, r.Database, string(password)
	cc.RuntimeParams["statement_timeout"] = strconv.FormatInt(r.StatementTimeout.Milliseconds(), 10)
	return cc, nil
}

// dial makes a connection with a permit that the pool was granted. It outlives
// whoever asked for it, and serves the next one then; it ends when nothing can
// reach the pool any more.
func (e *pool) dial() {
	begun := time.Now()
	c, err := e.connect(e.life)
	e.connected(begun, err)
	e.server.dialled(e, c, err)
}

// connect answers for the permit: it goes back with the socket, or here when
// there was none.
func (e *pool) connect(ctx context.Context) (*conn, error) {
	pm, err := e.newPermit()
	if err != nil {
		return nil, err
	}
	defer pm.unused()
	cc, err := e.config()
	if err != nil {
		return nil, err
	}
	cc.DialFunc = pm.dial
	cc.RuntimeParams["application_name"] = budget.ApplicationName(e.owner.options.NodeID, pm.instance)
	raw, err := pgx.ConnectConfig(ctx, cc)
	if err != nil {
		return nil, err
	}
	if err := e.afterConnect(ctx, raw); err != nil {
		_ = raw.Close(ctx)
		return nil, err
	}
	now := time.Now()
	return &conn{
		raw: raw, pool: e, sock: socketOf(raw), made: now, idleSince: now,
		expires: now.Add(lifetime + rand.N(lifetimeJitter)), //nolint:gosec // spreads load, guards nothing
	}, nil
}

// afterConnect proves the place, and that this process may be there, and records
// it. One simple query, one round trip: session settings went with the startup
// packet.
func (e *pool) afterConnect(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, e.owner.options.ConnectTimeout)
	defer cancel()
	s := socketOf(conn)
	if s == nil {
		return errors.New("a connection was made without a permit")
	}
	var tenant uuid.UUID
	var incarnation int
	var expelled bool
	err := conn.QueryRow(ctx, "SELECT tenant_id, incarnation, "+budget.IsExpelled+" FROM ouvira.marker", pgx.QueryExecModeSimpleProtocol, s.instance).
		Scan(&tenant, &incarnation, &expelled)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return &markerError{errWrongDatabase}
	case err != nil:
		return &markerError{err}
	case tenant != e.made.TenantID || incarnation != e.made.Incarnation:
		return &markerError{errWrongDatabase}
	case expelled:
		e.server.budget.Expelled(s.instance)
		return errExpelled
	}
	pg.SendUUIDs(conn.TypeMap())
	e.server.connected(e, s)
	return nil
}
