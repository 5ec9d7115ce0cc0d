// Package fault is the one error type of both planes: a sentence for the
// person who asked, and a cause for the person who runs the system.
//
//	return fault.Conflict("An invitation is already pending.").Because(err)
//
// The sentence says what is wrong and what to do next; it never repeats a
// value that was refused. The cause is for the log and is never shown. A fault
// is translated to a wire format in one place (package problem).
//
// A fault is built by one goroutine and not changed after it was returned.
package fault

import (
	"context"
	"errors"
	"time"
)

// Kind is the class of a fault; each maps to one HTTP status.
type Kind uint8

// The kinds, with the HTTP status that each becomes.
const (
	KindInternal        Kind = iota // 500
	KindMalformed                   // 400
	KindUnauthenticated             // 401
	KindForbidden                   // 403
	KindNotFound                    // 404
	KindConflict                    // 409
	KindPrecondition                // 412
	KindTooLarge                    // 413
	KindInvalid                     // 422
	KindRateLimited                 // 429
	KindUnavailable                 // 503
)

// defaultCodes are the machine-readable codes of faults that name none.
var defaultCodes = [...]string{
	KindInternal:        "internal",
	KindMalformed:       "malformed",
	KindUnauthenticated: "unauthenticated",
	KindForbidden:       "forbidden",
	KindNotFound:        "not_found",
	KindConflict:        "conflict",
	KindPrecondition:    "precondition_failed",
	KindTooLarge:        "too_large",
	KindInvalid:         "invalid",
	KindRateLimited:     "rate_limited",
	KindUnavailable:     "unavailable",
}

// String is the default code of the kind.
func (k Kind) String() string { return defaultCodes[k] }

// Field says what is wrong with one field of a request.
type Field struct {
	Field   string // dotted path, without a leading "body."
	Code    string
	Message string
}

// Error is a fault. Its fields are read by those who translate it; others use
// the constructors and the chain.
type Error struct {
	Kind        Kind
	Message     string // for people; safe to show
	MachineCode string
	Fields      []Field
	Wait        time.Duration // what to answer as Retry-After; 0 says nothing
	Cause       error         // for the log only
}

// neutral is all that a caller learns of a fault on our side.
const neutral = "Something went wrong on our side. Try again; if it stays, quote the request id to support."

// NotFound says that there is no such thing, or none that the caller may see.
func NotFound(message string) *Error { return &Error{Kind: KindNotFound, Message: message} }

// Conflict says that the state of things does not allow the request.
func Conflict(message string) *Error { return &Error{Kind: KindConflict, Message: message} }

// Invalid says that the request was understood and its values are refused.
func Invalid(message string) *Error { return &Error{Kind: KindInvalid, Message: message} }

// Malformed says that the request could not be understood.
func Malformed(message string) *Error { return &Error{Kind: KindMalformed, Message: message} }

// Unauthenticated says that the caller must sign in (again).
func Unauthenticated(message string) *Error {
	return &Error{Kind: KindUnauthenticated, Message: message}
}

// Forbidden says that the caller is known and not allowed.
func Forbidden(message string) *Error { return &Error{Kind: KindForbidden, Message: message} }

// TooLarge says that the request exceeds a limit of size.
func TooLarge(message string) *Error { return &Error{Kind: KindTooLarge, Message: message} }

// Precondition says that the thing has changed since the caller saw it.
func Precondition(message string) *Error { return &Error{Kind: KindPrecondition, Message: message} }

// RateLimited says that the caller asks too often, or for too much at once.
func RateLimited(message string) *Error { return &Error{Kind: KindRateLimited, Message: message} }

// Unavailable says that the request is fine and cannot be served now.
func Unavailable(message string) *Error { return &Error{Kind: KindUnavailable, Message: message} }

// Internal is a fault on our side: the caller gets a neutral sentence, the log
// gets err.
func Internal(err error) *Error { return &Error{Kind: KindInternal, Message: neutral, Cause: err} }

// Code sets the machine-readable code ("slug_taken").
func (e *Error) Code(code string) *Error {
	e.MachineCode = code
	return e
}

// OnField adds what is wrong with one field.
func (e *Error) OnField(field, code, message string) *Error {
	e.Fields = append(e.Fields, Field{Field: field, Code: code, Message: message})
	return e
}

// RetryAfter says when to try again.
func (e *Error) RetryAfter(d time.Duration) *Error {
	e.Wait = d
	return e
}

// Because keeps the cause for the log.
func (e *Error) Because(err error) *Error {
	e.Cause = err
	return e
}

// EffectiveCode is the machine-readable code, or the default of the kind.
func (e *Error) EffectiveCode() string {
	if e.MachineCode != "" {
		return e.MachineCode
	}
	return e.Kind.String()
}

// Error is for logs: it includes the cause.
func (e *Error) Error() string {
	s := e.EffectiveCode() + ": " + e.Message
	if e.Kind == KindInternal && e.Cause != nil {
		return e.EffectiveCode() + ": " + e.Cause.Error()
	}
	if e.Cause != nil {
		return s + ": " + e.Cause.Error()
	}
	return s
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Cause }

// From finds the fault in err. An ended context and an unknown error become
// faults of their own: a deadline is "unavailable", everything else internal.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return Unavailable("The request took too long and was given up. Try again.").
			Code("timeout").RetryAfter(time.Second).Because(err)
	}
	return Internal(err)
}

// Is tells whether err is a fault of the kind.
func Is(err error, kind Kind) bool {
	var e *Error
	return errors.As(err, &e) && e.Kind == kind
}
