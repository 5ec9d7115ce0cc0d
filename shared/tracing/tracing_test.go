package tracing_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ouvira/ouvira/shared/config"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/tracing"
	"github.com/ouvira/ouvira/shared/tracing/tracetest"
)

func always(endpoint string) tracing.Config {
	return tracing.Config{TelemetryEndpoint: endpoint, TracesSampler: "parentbased_always_on", TracesProtocol: "http/protobuf"}
}

func open(t *testing.T, c tracing.Config, log *slog.Logger) *tracing.Tracing {
	t.Helper()
	traces, err := tracing.Open(t.Context(), c, "test", "1", "test-1", log)
	if err != nil {
		t.Fatal(err)
	}
	return traces
}

func TestOff(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]tracing.Config{
		"no endpoint": {}, "disabled": {TelemetryEndpoint: "http://127.0.0.1:1", TelemetryDisabled: true},
	} {
		traces := open(t, c, slog.New(slog.DiscardHandler))
		ctx, span := traces.Root(t.Context(), "work")
		_, below := tracing.Start(ctx, "step")
		tracing.End(below, errors.New("failed"))
		span.End()
		if traces.On() || span.IsRecording() || below.IsRecording() || tracing.ID(ctx) != "" || ctx != t.Context() {
			t.Errorf("%s: there is a trace", name)
		}
		if err := traces.Shutdown(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What Postgres says of an error repeats values: not a word of it is sent, nor
// of a statement that is not the program's own.
func TestSec39ErrorsAndStatementsInTracesHoldNoValues(t *testing.T) {
	t.Parallel()
	s := tracetest.New(t)
	traces := open(t, always(s.URL), slog.New(slog.DiscardHandler))
	ctx, root := traces.Root(t.Context(), "work")
	for _, err := range []error{
		&pgconn.PgError{Code: "22P02", Message: `invalid input syntax for type integer: "canary"`, Detail: "canary"},
		fault.Conflict("canary").Code("email_taken").Because(errors.New("canary")),
		fmt.Errorf("canary: %w", context.DeadlineExceeded),
		errors.New("canary"),
	} {
		querying := tracing.StartQuery(ctx, "CREATE ROLE ov_1 PASSWORD 'canary'")
		tracing.Finish(querying, err)
	}
	tracing.Finish(tracing.StartQuery(ctx, "-- name: GetUser :one\nSELECT id FROM users"), nil)
	root.End()
	if err := traces.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"SQLSTATE 22P02", "email_taken", "deadline exceeded", "CREATE", "GetUser", "SELECT id FROM users", "test-1"} {
		if !s.Holds(want) {
			t.Errorf("%q was not sent", want)
		}
	}
	if s.Holds("canary") {
		t.Error("values were sent")
	}
}

// Calls to other services carry the trace on; without one they are left alone.
func TestCallsCarryTheTraceOn(t *testing.T) {
	t.Parallel()
	s := tracetest.New(t)
	var got []string
	service := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = append(got, r.Header.Get("Traceparent")) }))
	defer service.Close()
	traces := open(t, always(s.URL), slog.New(slog.DiscardHandler))
	client := &http.Client{Transport: tracing.Transport(http.DefaultTransport)}
	call := func(ctx context.Context) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, service.URL+"/accounts/canary", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
	}
	call(t.Context())
	header := http.Header{"Traceparent": {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}}
	ctx, span := traces.Server(t.Context(), header, "GET")
	if id := tracing.ID(ctx); id != "4bf92f3577b34da6a3ce929d0e0e4736" {
		t.Errorf("the trace is %q", id)
	}
	call(ctx)
	span.End()
	if err := traces.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0] != "" || !strings.HasPrefix(got[1], "00-4bf92f3577b34da6a3ce929d0e0e4736-") {
		t.Errorf("the service was told %q", got)
	}
	if !s.Holds("GET 127.0.0.1") || s.Holds("canary") {
		t.Error("the span of the call names no host, or the address")
	}
}

// A collector that is away costs the spans, one line in the log, and a bounded
// time at the end. It runs alone: whom OpenTelemetry tells of errors is the
// process's.
func TestACollectorThatIsAway(t *testing.T) {
	silent := httptest.NewServer(http.NotFoundHandler())
	silent.Close()
	var log bytes.Buffer
	traces := open(t, always(silent.URL), slog.New(slog.NewJSONHandler(&log, nil)))
	for range 10_000 { // more than may wait
		_, span := traces.Root(t.Context(), "work")
		span.End()
	}
	begun := time.Now()
	err := traces.Shutdown(t.Context())
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("the end took %s", took)
	}
	if err == nil && log.Len() == 0 {
		t.Error("nobody is told that the traces are lost")
	}
}

func TestSampling(t *testing.T) {
	t.Parallel()
	s := tracetest.New(t)
	for sampler, want := range map[string][2]bool{ // without a caller; a caller that keeps its trace
		"always_on": {true, true}, "always_off": {false, false}, "traceidratio": {false, false},
		"parentbased_always_off": {false, true}, "parentbased_traceidratio": {false, true}, "parentbased_always_on": {true, true},
	} {
		c := always(s.URL)
		c.TracesSampler, c.TracesSamplerArg = sampler, "0"
		traces := open(t, c, slog.New(slog.DiscardHandler))
		_, alone := traces.Server(t.Context(), http.Header{}, "GET")
		_, called := traces.Server(t.Context(), http.Header{"Traceparent": {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}}, "GET")
		if alone.IsRecording() != want[0] || called.IsRecording() != want[1] {
			t.Errorf("%s: recorded %t alone, %t when called", sampler, alone.IsRecording(), called.IsRecording())
		}
		_ = traces.Shutdown(t.Context())
	}
}

func TestWrongSettings(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*tracing.Config){
		"OUVIRA_TELEMETRY_ENDPOINT: must be an address":             func(c *tracing.Config) { c.TelemetryEndpoint = "collector:4318" },
		"OUVIRA_TELEMETRY_ENDPOINT: must not hold a password":       func(c *tracing.Config) { c.TelemetryEndpoint = "https://canary:canary@collector" },
		"OUVIRA_TELEMETRY_ENDPOINT: production wants https":         func(c *tracing.Config) { c.TelemetryEndpoint = "http://collector" },
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: must be":               func(c *tracing.Config) { c.TracesEndpoint = "canary" },
		"OTEL_TRACES_SAMPLER: must be":                              func(c *tracing.Config) { c.TracesSampler = "canary" },
		"OTEL_TRACES_SAMPLER_ARG: must be":                          func(c *tracing.Config) { c.TracesSamplerArg = "canary" },
		"OTEL_EXPORTER_OTLP_PROTOCOL: only http/protobuf is spoken": func(c *tracing.Config) { c.TracesProtocol = "grpc" },
	} {
		c := always("http://localhost:4318")
		change(&c)
		err := errors.Join(c.WrongTracing(config.Production)...)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	good := always("http://localhost:4318")
	if errs := good.WrongTracing(config.Production); errs != nil {
		t.Errorf("good settings: %v", errs)
	}
	nonsense := tracing.Config{TracesSampler: "nonsense"} // nobody asks for traces
	if errs := nonsense.WrongTracing(config.Local); errs != nil {
		t.Errorf("without an endpoint: %v", errs)
	}
}

func BenchmarkOff(b *testing.B) {
	b.ReportAllocs()
	ctx := b.Context()
	for b.Loop() {
		c, span := tracing.Start(ctx, "lease")
		tracing.Finish(tracing.StartQuery(c, "commit"), nil)
		tracing.End(span, nil)
	}
}
