// Package problem puts faults on the wire: RFC 9457 problem documents, the
// same from huma operations and from plain handlers.
//
// It promises: a problem never contains a value or a body that was refused,
// nor anything of a cause; the cause is on the request's log line.
package problem

import (
	"context"
	"encoding/json"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/telemetry"
)

// MediaType of a problem document.
const MediaType = "application/problem+json"

// Problem is the document. Its Go name is the name of the schema in the
// OpenAPI documents.
type Problem struct {
	Title     string       `json:"title" doc:"The status in words." example:"Conflict"`
	Status    int          `json:"status" doc:"The HTTP status." example:"409"`
	Detail    string       `json:"detail" doc:"What is wrong and what to do next, for people." example:"This name is taken. Choose another one."`
	Code      string       `json:"code" doc:"What is wrong, for programs." example:"slug_taken"`
	RequestID string       `json:"request_id,omitempty" doc:"Quote it to support."`
	Errors    []FieldError `json:"errors,omitempty" doc:"What is wrong with single fields."`
}

// FieldError says what is wrong with one field.
type FieldError struct {
	Field   string `json:"field" doc:"The field, as a dotted path." example:"email"`
	Code    string `json:"code" doc:"What is wrong, for programs." example:"required"`
	Message string `json:"message" doc:"What is wrong, for people." example:"This field is required."`
}

// Error is the detail; it makes a Problem what huma calls a status error.
func (p *Problem) Error() string { return p.Detail }

// GetStatus is the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType replaces JSON by the media type of problems.
func (p *Problem) ContentType(string) string { return MediaType }

var statusOf = map[fault.Kind]int{
	fault.KindInternal:        http.StatusInternalServerError,
	fault.KindMalformed:       http.StatusBadRequest,
	fault.KindUnauthenticated: http.StatusUnauthorized,
	fault.KindForbidden:       http.StatusForbidden,
	fault.KindNotFound:        http.StatusNotFound,
	fault.KindConflict:        http.StatusConflict,
	fault.KindPrecondition:    http.StatusPreconditionFailed,
	fault.KindTooLarge:        http.StatusRequestEntityTooLarge,
	fault.KindInvalid:         http.StatusUnprocessableEntity,
	fault.KindRateLimited:     http.StatusTooManyRequests,
	fault.KindUnavailable:     http.StatusServiceUnavailable,
}

// Status is the HTTP status of a fault.
func Status(f *fault.Error) int { return statusOf[f.Kind] }

// From makes the document of any error.
func From(ctx context.Context, err error) *Problem {
	f := fault.From(err)
	status := Status(f)
	p := &Problem{
		Title:     http.StatusText(status),
		Status:    status,
		Detail:    f.Message,
		Code:      f.EffectiveCode(),
		RequestID: telemetry.RequestID(ctx),
	}
	for _, e := range f.Fields {
		p.Errors = append(p.Errors, FieldError(e))
	}
	return p
}

// Write answers with the problem document of err and logs its cause.
func Write(w http.ResponseWriter, r *http.Request, err error) {
	WriteStatus(w, r, Status(fault.From(err)), err)
}

// WriteStatus is Write with a status that no kind of fault stands for (405).
func WriteStatus(w http.ResponseWriter, r *http.Request, status int, err error) {
	f := fault.From(err)
	record(r.Context(), f)
	setHeaders(w.Header().Set, f)
	p := From(r.Context(), f)
	p.Status, p.Title = status, http.StatusText(status)
	w.Header().Set("Content-Type", MediaType)
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // a client that has gone cannot be told
}

// setHeaders says when to come back, and how to sign in.
func setHeaders(set func(name, value string), f *fault.Error) {
	if f.Wait > 0 {
		set("Retry-After", strconv.Itoa(retrySeconds(f.Wait)))
	}
	if f.Kind == fault.KindUnauthenticated {
		set("WWW-Authenticate", "Bearer")
	}
}

// retrySeconds rounds up: never "0", which would invite a storm.
func retrySeconds(d time.Duration) int { return max(1, int(math.Ceil(d.Seconds()))) }

// record puts the code, and the cause where there is one, on the request's
// canonical line; without a request an internal fault gets a line of its own.
func record(ctx context.Context, f *fault.Error) {
	telemetry.Annotate(ctx, "code", f.EffectiveCode())
	if f.Cause == nil {
		return
	}
	if !telemetry.Annotate(ctx, "error", f.Cause.Error()) && f.Kind == fault.KindInternal {
		slog.ErrorContext(ctx, "internal fault", slog.String("error", f.Cause.Error()))
	}
}
