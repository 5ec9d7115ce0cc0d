package tracing

import (
	"context"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/ouvira/ouvira/shared/pg"
)

// StartQuery begins the span of a statement. Its text is told when it is a
// constant of the program, and of others the verb and the table alone.
func StartQuery(ctx context.Context, sql string) context.Context {
	if !on.Load() || !trace.SpanFromContext(ctx).IsRecording() {
		return ctx
	}
	name := pg.StatementName(sql)
	attributes := []attribute.KeyValue{attribute.String("db.system.name", "postgresql"), attribute.String("db.query.summary", name)}
	if pg.Named(sql) {
		attributes = append(attributes, attribute.String("db.query.text", sql))
	}
	ctx, _ = start(ctx, trace.SpanKindClient, name, attributes...)
	return ctx
}

// Finish ends the span that ctx is of: what StartQuery gave, or Start.
func Finish(ctx context.Context, err error) {
	if on.Load() {
		End(trace.SpanFromContext(ctx), err)
	}
}

// Queries is a tracer for connections of pgx. Its spans are parts of others:
// statements outside of a trace make none.
type Queries struct{}

var _ pgx.QueryTracer = Queries{}

// TraceQueryStart implements pgx.QueryTracer.
func (Queries) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	return StartQuery(ctx, data.SQL)
}

// TraceQueryEnd implements pgx.QueryTracer.
func (Queries) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	Finish(ctx, data.Err)
}
