// Package tracing makes the traces of a process: OpenTelemetry's spans, sent
// to a collector by OTLP over HTTP.
//
// It promises:
//
//   - Off unless an endpoint is set. Off, nothing is made, and Start is one
//     load of a flag.
//   - A collector that is slow or away costs spans, never requests: they wait in
//     a bounded queue and are dropped when it is full.
//   - Spans hold names, of routes, statements, steps, servers and tenants, and
//     no values: no parameters of statements, no messages of errors (those of
//     Postgres repeat values), no addresses of people, no headers.
//   - Shutdown sends what waits, within its bound.
package tracing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

const (
	instrumentation = "github.com/ouvira/ouvira"
	// shutdownTimeout bounds the last sending.
	shutdownTimeout = 5 * time.Second
	// complainEvery bounds what a collector that is away adds to the log.
	complainEvery = time.Minute
)

// on spares processes without traces the search for a span in each context.
var on atomic.Bool

// w3c reads and writes the header traceparent. Baggage is not carried: it would
// take what strangers write to wherever we call.
var w3c = propagation.TraceContext{}

// Tracing begins traces. A nil one is off.
type Tracing struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
}

// Open begins to trace when the settings ask for it; else it returns nil.
// Nothing is contacted yet.
func Open(ctx context.Context, c Config, service, version, instance string, log *slog.Logger) (*Tracing, error) {
	endpoint := c.endpoint()
	if endpoint == "" {
		return nil, nil
	}
	sampler, err := c.sampler()
	if err != nil {
		return nil, err
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(endpoint))
	if err != nil {
		return nil, fmt.Errorf("prepare to send traces: %w", err)
	}
	described, err := resource.New(
		ctx,
		resource.WithAttributes(
			attribute.String("service.namespace", "ouvira"), attribute.String("service.name", service),
			attribute.String("service.version", version), attribute.String("service.instance.id", instance),
		),
		resource.WithFromEnv(), resource.WithTelemetrySDK(),
	)
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(complainer(log)))
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithSampler(sampler), sdktrace.WithResource(described))
	on.Store(true)
	return &Tracing{provider: provider, tracer: provider.Tracer(instrumentation)}, nil
}

// complainer logs what goes wrong with sending, once in a while.
func complainer(log *slog.Logger) func(error) {
	var last atomic.Int64
	return func(err error) {
		now := time.Now().UnixNano()
		if before := last.Load(); now-before < complainEvery.Nanoseconds() || !last.CompareAndSwap(before, now) {
			return
		}
		log.Warn("traces are lost: the collector does not take them", "error", err)
	}
}

// On tells whether traces are made.
func (t *Tracing) On() bool { return t != nil }

// Shutdown sends what waits, for a bounded time, and ends.
func (t *Tracing) Shutdown(ctx context.Context) error {
	if t == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("send the last traces: %w", err)
	}
	return nil
}

// Server begins the span of a request: below the caller's, if the header of the
// request names one.
func (t *Tracing) Server(ctx context.Context, header http.Header, name string) (context.Context, trace.Span) {
	if t == nil {
		return ctx, silent
	}
	ctx = w3c.Extract(ctx, propagation.HeaderCarrier(header))
	return t.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer)) //nolint:spancheck // the caller ends it
}

// Root begins the span of work that no request waits for.
func (t *Tracing) Root(ctx context.Context, name string) (context.Context, trace.Span) {
	if t == nil {
		return ctx, silent
	}
	return t.tracer.Start(ctx, name, trace.WithNewRoot()) //nolint:spancheck // the caller ends it
}

// Start begins a span below the one in ctx. Where none is recorded it does
// nothing, so rooms need not know whether there are traces.
func Start(ctx context.Context, name string) (context.Context, trace.Span) {
	return start(ctx, trace.SpanKindInternal, name)
}

func start(ctx context.Context, kind trace.SpanKind, name string, attributes ...attribute.KeyValue) (context.Context, trace.Span) {
	if !on.Load() {
		return ctx, silent
	}
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, silent
	}
	return parent.TracerProvider().Tracer(instrumentation).Start(ctx, name, trace.WithSpanKind(kind), trace.WithAttributes(attributes...)) //nolint:spancheck // the caller ends it
}

// Past adds a span that has ended already.
func Past(ctx context.Context, name string, from, to time.Time) {
	if !on.Load() {
		return
	}
	if parent := trace.SpanFromContext(ctx); parent.IsRecording() {
		_, span := parent.TracerProvider().Tracer(instrumentation).Start(ctx, name, trace.WithTimestamp(from))
		span.End(trace.WithTimestamp(to))
	}
}

// silent is the span that does nothing.
var silent = trace.SpanFromContext(context.Background())

// End ends a span that Start has begun, as failed when err is not nil.
func End(span trace.Span, err error) {
	if err != nil && span.IsRecording() {
		Fail(span, err)
	}
	span.End()
}

// Fail says by what kind of error a span has failed, and never its message.
func Fail(span trace.Span, err error) {
	kind := kindOf(err)
	span.SetAttributes(attribute.String("error.type", kind))
	span.SetStatus(codes.Error, kind)
}

func kindOf(err error) string {
	if code := pg.Code(err); code != "" {
		return "SQLSTATE " + code
	}
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f.EffectiveCode()
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "deadline exceeded"
	case errors.Is(err, context.Canceled):
		return "canceled"
	case pg.IsConnect(err):
		return "connect"
	}
	return fmt.Sprintf("%T", err)
}

// Annotate adds to the span in ctx.
func Annotate(ctx context.Context, key, value string) {
	if on.Load() {
		trace.SpanFromContext(ctx).SetAttributes(attribute.String(key, value))
	}
}

// ID is the trace that ctx belongs to, or "".
func ID(ctx context.Context) string {
	if !on.Load() {
		return ""
	}
	if span := trace.SpanContextFromContext(ctx); span.HasTraceID() {
		return span.TraceID().String()
	}
	return ""
}
