package operation

import (
	"errors"
	"time"
)

// ErrFenced says that another run has taken the operation over (or that this
// one can no longer prove that none has): stop, and write nothing.
var ErrFenced = errors.New("another worker has taken this operation over")

// Failure is why a step did not succeed, for people. It is either final, or it
// says that trying again later may help.
type Failure struct {
	Problem

	Final bool
	After time.Duration // of one that is not final: the least wait; 0 leaves it to the engine
	Cause error         // for the log
}

// Fail ends the operation. nextAction says what a person can do about it.
func Fail(code, message, nextAction string) *Failure {
	return &Failure{Problem: Problem{Code: code, Message: message, NextAction: nextAction}, Final: true}
}

// Later lets the operation wait, with its reason visible, and tries the step
// again. It does so for as long as it takes.
func Later(code, message, nextAction string) *Failure {
	return &Failure{Problem: Problem{Code: code, Message: message, NextAction: nextAction}}
}

// Because keeps the cause for the log.
func (f *Failure) Because(err error) *Failure {
	f.Cause = err
	return f
}

// In sets the least wait before the next try.
func (f *Failure) In(d time.Duration) *Failure {
	f.After = d
	return f
}

// Error is for logs: it includes the cause.
func (f *Failure) Error() string {
	if f.Cause != nil {
		return f.Code + ": " + f.Message + ": " + f.Cause.Error()
	}
	return f.Code + ": " + f.Message
}

// Unwrap gives the cause.
func (f *Failure) Unwrap() error { return f.Cause }

const (
	codeUnexpected = "unexpected"
	// unexpectedLimit is how often in a row something that no step foresaw may
	// go wrong before the operation fails.
	unexpectedLimit = 8
)

// record is the operations.error column.
type record struct {
	Problem

	Final   bool `json:"final,omitempty"`
	Repeats int  `json:"repeats,omitempty"` // of an unexpected error, in a row
}

// classify finds the failure in err. Errors that no step foresaw are tried
// again a few times.
func classify(err error, last record) (*Failure, record) {
	var f *Failure
	if errors.As(err, &f) {
		return f, record{Problem: f.Problem, Final: f.Final}
	}
	f = Later(codeUnexpected, "A step met an error that it does not know.", "It is tried again; if it stays, read the worker's log.").Because(err)
	repeats := 1
	if last.Code == codeUnexpected {
		repeats = last.Repeats + 1
	}
	if repeats >= unexpectedLimit {
		f.Final = true
		f.NextAction = "Read the worker's log, remove the cause, then retry."
	}
	return f, record{Problem: f.Problem, Final: f.Final, Repeats: repeats}
}
