package telemetry

import (
	"context"
	"log/slog"
	"slices"
	"sync"
)

// Record gathers what becomes the one canonical log line of a request. Many
// goroutines may add to it. It belongs to one request and ends with it.
type Record struct {
	requestID string

	mu    sync.Mutex
	attrs []slog.Attr
	room  [8]slog.Attr // for what nearly all requests add
}

type recordKey struct{}

// recorded is the context of a request with its record, in one allocation.
type recorded struct {
	context.Context //nolint:containedctx // it is a context

	record Record
}

func (c *recorded) Value(key any) any {
	if key == (recordKey{}) {
		return &c.record
	}
	return c.Context.Value(key)
}

// WithRecord starts the record of a request.
func WithRecord(ctx context.Context, requestID string) (context.Context, *Record) {
	c := &recorded{Context: ctx, record: Record{requestID: requestID}}
	c.record.attrs = c.record.room[:0]
	return c, &c.record
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
	return Add(ctx, slog.Any(key, value))
}

// Add is Annotate for what every request adds: a typed attribute allocates
// nothing.
func Add(ctx context.Context, attrs ...slog.Attr) bool {
	r := recordOf(ctx)
	if r == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range attrs {
		if i := slices.IndexFunc(r.attrs, func(has slog.Attr) bool { return has.Key == a.Key }); i >= 0 {
			r.attrs[i].Value = a.Value
			continue
		}
		r.attrs = append(r.attrs, a)
	}
	return true
}

// AppendAttrs appends what was added to the request's record so far.
func AppendAttrs(ctx context.Context, to []slog.Attr) []slog.Attr {
	r := recordOf(ctx)
	if r == nil {
		return to
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return append(to, r.attrs...)
}

// Attrs is a copy of what was added so far.
func (r *Record) Attrs() []slog.Attr {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.attrs)
}
