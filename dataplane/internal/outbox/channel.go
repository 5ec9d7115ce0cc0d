package outbox

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/shared/route"
)

// Outgoing is a message as a channel gets it.
type Outgoing struct {
	Message

	ID      uuid.UUID // the same in each attempt
	Written time.Time
	Route   *route.Route // of the tenant: its language and its looks
	Company string       // the tenant's home company, in whose name it is sent
}

// Sender sends the messages of one channel. Its errors are plain (try again
// later), or a *Failure.
type Sender interface {
	Send(ctx context.Context, m Outgoing) error
}

// Outcome of an attempt that has failed.
type Outcome string

// The outcomes.
const (
	Later   Outcome = "later"   // it has not been sent; it may be tried again
	Dead    Outcome = "dead"    // it has not been sent, and never will be
	Unknown Outcome = "unknown" // it may have been sent
)

// Failure says how an attempt to send has ended.
type Failure struct {
	Outcome Outcome
	Reason  string        // short, for people; no recipient, nothing of what was to be said
	After   time.Duration // with Later: not before; 0: as usual
	Cause   error         // for the log; the same holds
}

// Error is for logs.
func (f *Failure) Error() string {
	if f.Cause != nil {
		return f.Reason + ": " + f.Cause.Error()
	}
	return f.Reason
}

// Unwrap gives the cause.
func (f *Failure) Unwrap() error { return f.Cause }

// failureOf reads a sender's error.
func failureOf(err error) *Failure {
	if f, ok := errors.AsType[*Failure](err); ok {
		return f
	}
	return &Failure{Outcome: Later, Reason: "it could not be sent", Cause: err}
}

// Off is the Sender of a channel that is not configured.
type Off struct{ Reason string }

// Send implements Sender.
func (o Off) Send(context.Context, Outgoing) error {
	return &Failure{Outcome: Dead, Reason: o.Reason}
}
