package tenantpool

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/timing"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/tracing"
)

// sessionTracer marks connections whose session a statement may have changed
// beyond its transaction: SET, LISTEN, PREPARE, DECLARE, set_config(…, false)
// and all it does not know to be harmless. A marked connection is closed at
// the end of its lease (invariant 12). Resetting it instead (DISCARD ALL) would
// cost every lease a round trip, and the code has no need to change sessions:
// SET LOCAL and set_config(…, true) end with their transaction.
//
// What else could leak is refused by the database: temporary tables, session
// advisory locks. An open transaction or unread rows close the connection too.
//
// On the way it takes the time of statements, for the clock of the request and
// for its trace.
type sessionTracer struct{}

var (
	_ pgx.QueryTracer = sessionTracer{}
	_ pgx.BatchTracer = sessionTracer{}
)

func (sessionTracer) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if s := socketOf(conn); s != nil {
		s.begin(data.SQL)
		s.mark(data.SQL)
	}
	return tracing.StartQuery(ctx, data.SQL)
}

// TraceQueryEnd takes the time, and notices that the connection's prepared
// statements are outdated.
func (sessionTracer) TraceQueryEnd(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryEndData) {
	if s := socketOf(conn); s != nil {
		s.end(ctx)
		if data.Err != nil && pg.IsOutdatedPlan(data.Err) {
			s.outdated.Store(true)
		}
	}
	tracing.Finish(ctx, data.Err)
}

func (sessionTracer) TraceBatchStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	if s := socketOf(conn); s != nil {
		s.begin("batch")
		for _, q := range data.Batch.QueuedQueries {
			s.mark(q.SQL)
		}
	}
	return tracing.StartQuery(ctx, "batch")
}

func (sessionTracer) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

func (sessionTracer) TraceBatchEnd(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchEndData) {
	if s := socketOf(conn); s != nil {
		s.end(ctx)
	}
	tracing.Finish(ctx, data.Err)
}

// ping is the statement by which pgx probes a connection that was idle for long:
// part of leasing it.
const ping = "-- ping"

// begin and end take the time of a statement. A connection runs one at a time.
func (s *socket) begin(sql string) { s.statement, s.begun = sql, time.Now() }

func (s *socket) end(ctx context.Context) {
	if s.statement != ping {
		timing.Of(ctx).Queried(s.statement, time.Since(s.begun))
	}
}

func (s *socket) mark(sql string) {
	if !harmless(sql) {
		s.dirty.Store(true)
	}
}

// verdicts remembers the statements of the program: there are some hundred of
// them. Lists with optional filters make more, hence the bound.
var (
	verdicts      sync.Map // SQL → bool
	verdictCount  atomic.Int64
	verdictsBound = int64(4096)
)

func harmless(sql string) bool {
	if v, ok := verdicts.Load(sql); ok {
		known, _ := v.(bool)
		return known
	}
	ok := judge(sql)
	if verdictCount.Add(1) <= verdictsBound {
		verdicts.Store(strings.Clone(sql), ok)
	}
	return ok
}

// harmlessWords begin statements that end with their transaction.
var harmlessWords = map[string]bool{
	"SELECT": true, "INSERT": true, "UPDATE": true, "DELETE": true, "MERGE": true, "WITH": true, "VALUES": true,
	"TABLE": true, "BEGIN": true, "START": true, "COMMIT": true, "END": true, "ROLLBACK": true, "ABORT": true,
	"SAVEPOINT": true, "RELEASE": true, "COPY": true, "EXPLAIN": true, "SHOW": true, "LOCK": true, "NOTIFY": true,
	"FETCH": true, "MOVE": true, "CLOSE": true,
}

// judge looks at the first words of each statement. It does not parse: a
// semicolon or a comment inside a literal can only make it more careful.
func judge(sql string) bool {
	upper := strings.ToUpper(sql)
	if strings.Contains(upper, "SET_CONFIG") && !strings.Contains(upper, "TRUE)") {
		return false
	}
	for statement := range strings.SplitSeq(upper, ";") {
		words := strings.FieldsFunc(uncomment(statement), func(r rune) bool { return r == ' ' || r == '\n' || r == '\t' || r == '\r' || r == '(' })
		switch {
		case len(words) == 0, harmlessWords[words[0]]:
		case words[0] == "SET" && len(words) > 1 && (words[1] == "LOCAL" || words[1] == "TRANSACTION" || words[1] == "CONSTRAINTS"):
		default:
			return false
		}
	}
	return true
}

// uncomment takes away leading comments, such as sqlc's "-- name: …".
func uncomment(statement string) string {
	for {
		statement = strings.TrimSpace(statement)
		switch {
		case strings.HasPrefix(statement, "--"):
			_, statement, _ = strings.Cut(statement, "\n")
		case strings.HasPrefix(statement, "/*"):
			_, statement, _ = strings.Cut(statement, "*/")
		default:
			return statement
		}
	}
}
