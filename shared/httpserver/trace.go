package httpserver

import (
	"net/http"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"

	"github.com/ouvira/ouvira/shared/telemetry"
	"github.com/ouvira/ouvira/shared/tracing"
)

// Trace makes the span of each request, below the caller's where the header
// traceparent names one, and puts the trace's id into the log line. It comes
// inside AccessLog, whose view of the answer it shares. Without traces it is
// not there at all.
func Trace(t *tracing.Tracing) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		if !t.On() {
			return next
		}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			method := methodLabel(r.Method)
			ctx, span := t.Server(r.Context(), r.Header, method)
			defer span.End()
			span.SetAttributes(attribute.String("http.request.method", method), attribute.String("ouvira.request_id", telemetry.RequestID(ctx)))
			telemetry.Annotate(ctx, "trace_id", tracing.ID(ctx))
			next.ServeHTTP(w, r.WithContext(ctx))

			pattern := routePattern(chi.RouteContext(ctx))
			span.SetName(method + " " + pattern)
			span.SetAttributes(attribute.String("http.route", pattern))
			if answer, ok := w.(middleware.WrapResponseWriter); ok {
				span.SetAttributes(attribute.Int("http.response.status_code", answer.Status()))
				if answer.Status() >= http.StatusInternalServerError {
					span.SetStatus(codes.Error, http.StatusText(answer.Status()))
				}
			}
		})
	}
}
