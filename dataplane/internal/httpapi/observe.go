package httpapi

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/ouvira/ouvira/dataplane/internal/load"
	"github.com/ouvira/ouvira/dataplane/internal/timing"
	"github.com/ouvira/ouvira/dataplane/internal/usage"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/telemetry"
	"github.com/ouvira/ouvira/shared/tracing"
)

// find finds the tenant of a request, lets it in, and notes whose it is where
// the request is written down.
func (s *server) find(ctx context.Context, r *http.Request) (asked, admitted *route.Route, err error) {
	ctx, span := tracing.Start(ctx, "directory")
	defer func() { tracing.End(span, err) }()
	asked, err = s.lookup(r)
	if err != nil {
		return nil, nil, err
	}
	admitted, err = s.Routes.Admit(ctx, asked)
	return asked, admitted, err
}

// note writes down whose request it is. The clock is read when the line is
// written, at the end.
func note(ctx context.Context, clock *timing.Clock, tenant *route.Route) {
	id := tenant.TenantID.String()
	telemetry.Add(ctx, slog.String("tenant", tenant.Slug), slog.String("tenant_id", id), slog.Any("phases", clock))
	tracing.Annotate(ctx, "ouvira.tenant", tenant.Slug)
	tracing.Annotate(ctx, "ouvira.tenant_id", id)
}

// answered counts a request for its tenant, and tells of it when it was slow.
func (s *server) answered(w http.ResponseWriter, r *http.Request, clock *timing.Clock, tenant *route.Route) {
	took, phases, status := clock.Elapsed(), clock.Phases(), 0
	if answer, ok := w.(middleware.WrapResponseWriter); ok {
		status = answer.Status()
	}
	what := load.Sum{Requests: 1, Database: phases.Query}
	if status == 0 || status >= http.StatusInternalServerError { // 0: a panic comes by
		what.Errors = 1
	}
	s.Load.Add(tenant.TenantID, tenant.Slug, what)
	s.Usage.Add(tenant.TenantID, usage.Sum{Requests: 1, Errors: what.Errors})
	if s.Slow <= 0 || took < s.Slow {
		return
	}
	statement, longest := phases.Slowest()
	s.Log.LogAttrs(r.Context(), slog.LevelWarn, "slow request", telemetry.AppendAttrs(r.Context(), []slog.Attr{
		slog.String("method", r.Method),
		slog.String("route", chi.RouteContext(r.Context()).RoutePattern()),
		slog.Int("status", status),
		slog.Float64("duration_ms", float64(took.Microseconds())/1000),
		slog.String("slowest_statement", statement),
		slog.Float64("slowest_ms", float64(longest.Microseconds())/1000),
		slog.String("request_id", telemetry.RequestID(r.Context())),
	})...)
}
