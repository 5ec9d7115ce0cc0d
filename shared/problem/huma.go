package problem

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/ouvira/ouvira/shared/fault"
)

// Refusal is what a JSON body can be refused for before its fields are looked
// at. Formats return these and nothing else: huma keeps only the text of an
// error, by which it is recognised again here.
type Refusal struct {
	Code    string
	Message string
}

// Error is the message.
func (r *Refusal) Error() string { return r.Message }

// The refusals.
var (
	NotJSON      = &Refusal{"not_json", "The body is not valid JSON."}
	DuplicateKey = &Refusal{"duplicate_key", "The body names the same key twice in one object."}
	TooDeep      = &Refusal{"too_deep", "The body is nested more than 32 levels deep."}
	NotText      = &Refusal{"not_text", "The body contains a character that is not text (invalid UTF-8, or NUL)."}
	WrongType    = &Refusal{"wrong_type", "A value in the body is not of the expected type, or out of its range."}
)

func refusalOf(message string) *Refusal {
	for _, r := range []*Refusal{NotJSON, DuplicateKey, TooDeep, NotText, WrongType} {
		if r.Message == message {
			return r
		}
	}
	return nil
}

// Install makes huma answer with problems of this package, and compare field
// names exactly: encoding/json folds case, so that {"a":1,"A":2} would
// otherwise set one field twice. It changes huma's package variables, once.
var Install = sync.OnceFunc(func() {
	huma.ValidateStrictCasing = true
	huma.DefaultArrayNullable = false // a list is a list; nothing in it is []
	huma.NewErrorWithContext = fromHuma
	huma.NewError = func(status int, message string, errs ...error) huma.StatusError {
		return fromHuma(nil, status, message, errs...)
	}
})

// fromHuma is huma's constructor of errors. It drops huma's message and what
// it says about values.
func fromHuma(hctx huma.Context, status int, _ string, errs ...error) huma.StatusError {
	f, status := faultOf(status, errs)
	if hctx == nil { // huma wants an example, to make the schema of
		p := From(context.Background(), f)
		p.Status, p.Title = status, http.StatusText(status)
		return p
	}
	record(hctx.Context(), f)
	setHeaders(hctx.SetHeader, f)
	p := From(hctx.Context(), f)
	p.Status, p.Title = status, http.StatusText(status)
	return p
}

// faultOf makes a fault of what huma has to say, and the status to answer.
func faultOf(status int, errs []error) (*fault.Error, int) {
	all := errors.Join(errs...)
	var f *fault.Error
	if errors.As(all, &f) {
		return f, Status(f)
	}
	if _, ok := errors.AsType[*http.MaxBytesError](all); ok {
		status = http.StatusRequestEntityTooLarge
	}
	switch status {
	case http.StatusBadRequest:
		return malformed(errs), status
	case http.StatusUnprocessableEntity:
		return invalid(errs), status
	case http.StatusRequestEntityTooLarge:
		return fault.TooLarge("The body is larger than 1 MiB. Send less at once."), status
	case http.StatusUnsupportedMediaType:
		return fault.Malformed("The Content-Type is not supported. Send application/json.").Code("unsupported_media_type"), status
	case http.StatusNotAcceptable:
		return fault.Malformed("None of the accepted media types can be given. Accept application/json.").Code("not_acceptable"), status
	case http.StatusRequestTimeout:
		return fault.Malformed("The body did not arrive in time. Send it again.").Code("request_timeout").RetryAfter(time.Second), status
	}
	f = fault.From(all)
	if f == nil {
		f = fault.Internal(nil)
	}
	return f, Status(f)
}

func malformed(errs []error) *fault.Error {
	for _, err := range errs {
		if d, ok := errors.AsType[*huma.ErrorDetail](err); ok {
			if r := refusalOf(d.Message); r != nil {
				return fault.Malformed(r.Message + " Correct it and send it again.").Code(r.Code)
			}
		}
	}
	if len(errs) == 0 {
		return fault.Malformed("This request needs a body. Send one as application/json.").Code("body_required")
	}
	return fault.Malformed("The request could not be understood. Compare it with the API description at /swagger.")
}
