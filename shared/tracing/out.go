package tracing

import (
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Transport makes a span of each call to another service, and tells the service
// in the header traceparent. The span says which host was asked, and not what:
// addresses hold account numbers.
func Transport(base http.RoundTripper) http.RoundTripper { return transport{base} }

type transport struct{ base http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, span := start(r.Context(), trace.SpanKindClient, r.Method+" "+r.URL.Hostname(),
		attribute.String("http.request.method", r.Method), attribute.String("server.address", r.URL.Hostname()))
	if !span.IsRecording() {
		return t.base.RoundTrip(r)
	}
	r = r.Clone(ctx)
	w3c.Inject(ctx, propagation.HeaderCarrier(r.Header))
	answer, err := t.base.RoundTrip(r)
	if err == nil {
		span.SetAttributes(attribute.Int("http.response.status_code", answer.StatusCode))
	}
	End(span, err)
	return answer, err
}

// CloseIdleConnections is how http.Client asks for it.
func (t transport) CloseIdleConnections() {
	if closer, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		closer.CloseIdleConnections()
	}
}
