package httpapi_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/access"
	"github.com/ouvira/ouvira/dataplane/internal/httpapi"
	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/tracing"
	"github.com/ouvira/ouvira/shared/tracing/tracetest"
)

// BenchmarkAccountMeHandler: what a node itself adds to an authenticated
// request: neither the network nor the database has a part in it. Its
// allocations are the same on every machine.
func BenchmarkAccountMeHandler(b *testing.B) { accountMe(b, func(*httpapi.Options) {}) }

// BenchmarkAccountMeHandlerTraced: the same where each request is a trace, and
// where traces are made of none.
func BenchmarkAccountMeHandlerTraced(b *testing.B) {
	for _, sampler := range []string{"always_off", "always_on"} {
		b.Run(sampler, func(b *testing.B) {
			collector := tracetest.New(b)
			config := tracing.Config{TelemetryEndpoint: collector.URL, TracesSampler: sampler}
			traces, err := tracing.Open(b.Context(), config, "bench", "1", "bench", slog.New(slog.DiscardHandler))
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = traces.Shutdown(context.Background()) })
			accountMe(b, func(o *httpapi.Options) { o.Tracing = traces })
		})
	}
}

func accountMe(b *testing.B, change func(*httpapi.Options)) {
	b.Helper()
	f := tenanttest.New(b)
	tokens, err := identity.NewAccessTokens("https", "localhost", "")
	if err != nil {
		b.Fatal(err)
	}
	node := newRouting(b, f, f.A, f.B)
	options := nodeOptions(f, node, tokens, access.New())
	var replayed *replay
	options.Lease = func(ctx context.Context, r *route.Route) (httpapi.Lease, error) {
		if replayed != nil {
			return replayed, nil
		}
		return node.pools.Lease(ctx, r)
	}
	change(&options)
	handler, err := httpapi.New(options)
	if err != nil {
		b.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, "/account/me", http.NoBody)
	r.Host = hostOf(f.A)
	r.Header.Set("Authorization", "Bearer "+signIn(b, handler, f.A))
	lease, err := node.pools.Lease(b.Context(), f.A.Route)
	if err != nil {
		b.Fatal(err)
	}
	replayed = &replay{Lease: lease}
	b.Cleanup(func() { lease.Release() })

	w := &discard{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		clear(w.header)
		handler.ServeHTTP(w, r.Clone(b.Context()))
		if w.status != http.StatusOK {
			b.Fatalf("status %d", w.status)
		}
	}
}

// replay asks the database once, and gives that row for ever.
type replay struct {
	httpapi.Lease

	row pgx.Row
	was []reflect.Value
}

func (*replay) Release() {}

func (l *replay) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if l.was == nil {
		l.row = l.Lease.QueryRow(ctx, sql, args...)
	}
	return l
}

func (l *replay) Scan(into ...any) error {
	if l.was != nil {
		for i, value := range l.was {
			reflect.ValueOf(into[i]).Elem().Set(value)
		}
		return nil
	}
	err := l.row.Scan(into...)
	for _, at := range into {
		l.was = append(l.was, reflect.ValueOf(reflect.ValueOf(at).Elem().Interface()))
	}
	return err
}

// discard is a response that nobody reads.
type discard struct {
	header http.Header
	status int
}

func (w *discard) Header() http.Header         { return w.header }
func (w *discard) WriteHeader(status int)      { w.status = status }
func (w *discard) Write(b []byte) (int, error) { return len(b), nil }
