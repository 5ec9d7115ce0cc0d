package tenantpool

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ouvira/ouvira/shared/budget"
)

// What connections of all pools have in common.
const (
	statementCache = 64               // statements prepared per connection
	idleFor        = 5 * time.Minute  // an unused connection is closed after this
	lifetime       = time.Hour        // and any after this, and up to:
	lifetimeJitter = 10 * time.Minute // later
	healthCheck    = time.Minute      // every second, 10,000 pools would cost 5 % of a core
	lookAfter      = 10 * time.Millisecond
	pingAfter      = 30 * time.Second
	pingWithin     = 2 * time.Second
	cancelWithin   = 2 * time.Second // a cancelled query may take this long to admit it
)

// errWrongDatabase says that a connection came out somewhere else than its
// route says (invariant 4).
var errWrongDatabase = errors.New("the database belongs to another tenant or incarnation")

// markerError is a connection that could not prove where it is.
type markerError struct{ err error }

func (e *markerError) Error() string { return "read the marker of the database: " + e.err.Error() }
func (e *markerError) Unwrap() error { return e.err }

// baseConfig is parsed once; each pool's is a copy (51 µs against 226, and
// 1.7 KB less).
func baseConfig(o Options) (*pgxpool.Config, error) {
	// Every field that the environment (PGHOST, PGSERVICE, …) could fill is
	// given here or set below.
	config, err := pgxpool.ParseConfig("postgres://nobody@127.0.0.1:1/nobody?sslmode=disable&target_session_attrs=any")
	if err != nil {
		return nil, fmt.Errorf("the environment's PG* variables do not allow a connection: %w", err)
	}
	config.MinConns, config.MinIdleConns = 0, 0
	config.MaxConnIdleTime = idleFor
	config.MaxConnLifetime, config.MaxConnLifetimeJitter = lifetime, lifetimeJitter
	config.HealthCheckPeriod = healthCheck
	config.ShouldPing = shouldPing
	config.PingTimeout = pingWithin
	cc := config.ConnConfig
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
	// Names are resolved in the dial, so that an attempt that got a permit
	// always reaches the dial, which answers for the permit from there on.
	cc.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	return config, nil
}

// shouldPing spares warm connections a round trip: their socket is looked at
// instead, which finds those that a fence or a restart has ended.
func shouldPing(_ context.Context, p pgxpool.ShouldPingParams) bool {
	if p.IdleDuration < lookAfter {
		return false
	}
	s := socketOf(p.Conn)
	return s == nil || p.IdleDuration > pingAfter || !s.quiet()
}

// beforeConnect takes a permit, waiting for one as long as anybody waits for
// the connection.
func (e *pool) beforeConnect(ctx context.Context, cc *pgx.ConnConfig) error {
	pm, err := e.server.permit(ctx, e)
	if err != nil {
		return err
	}
	cc.DialFunc = pm.dial
	cc.RuntimeParams["application_name"] = budget.ApplicationName(e.owner.options.NodeID, pm.instance)
	return nil
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
	e.server.connected(e, s)
	return nil
}
