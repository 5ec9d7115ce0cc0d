package telemetry

import (
	"context"
	"log/slog"
	"sync"
)

// Record gathers what becomes the one canonical log line of a request. Many
// goroutines may add to it. It belongs to one request and ends with it.
type Record struct {
	requestID string

	mu    sync.Mutex
	attrs []slog.Attr
}

type recordKey struct{}

// WithRecord starts the record of a request.
func WithRecord(ctx context.Context, requestID string) (context.Context, *Record) {
	r := &Record{requestID: requestID}
	return context.WithValue(ctx, recordKey{}, r), r
}

func recordOf(ctx context.Context) *Record {
	r, _ := ctx.Value(recordKey{}).(*Record)
	return r
}

// RequestID of the request that ctx belongs to, or "".
func RequestID(ctx context.Context) string {
	if r := recordOf(ctx); r != nil {
		return r.requestID
	}
	return ""
}

// Annotate adds to the request's canonical line; a key that is there already
// gets the new value. Outside of a request it does nothing and says so.
func Annotate(ctx context.Context, key string, value any) bool {
	r := recordOf(ctx)
	if r == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.attrs {
		if r.attrs[i].Key == key {
			r.attrs[i].Value = slog.AnyValue(value)
			return true
		}
	}
	r.attrs = append(r.attrs, slog.Any(key, value))
	return true
}

// Attrs is a copy of what was added to the request's record so far.
func Attrs(ctx context.Context) []slog.Attr {
	if r := recordOf(ctx); r != nil {
		return r.Attrs()
	}
	return nil
}

// Attrs is a copy of what was added so far.
func (r *Record) Attrs() []slog.Attr {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]slog.Attr(nil), r.attrs...)
}
