// Package timing tells where the time of a request goes: into finding the
// tenant, a hold, waiting for a connection, making one, the statements.
//
// A request's clock is its context, so whoever works for the request finds it
// there; outside of requests there is none, and all of it does nothing. Several
// goroutines may use a clock.
package timing

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/ouvira/ouvira/shared/pg"
)

// Phases are parts of a request's time. What is in none of them is the node's
// own work: hashing, encoding, other services.
type Phases struct {
	Directory time.Duration // finding the tenant and letting it in
	Hold      time.Duration // of the tenant, while it was moved
	Wait      time.Duration // for a permit, or for a connection that another request used
	Connect   time.Duration // dial, handshake and proof of the database
	Query     time.Duration // statements, until their last row was read
	Queries   int           // how many

	slowest     string // statement
	slowestTook time.Duration
}

// Slowest is the statement that took longest, by its name ("" without one).
func (p Phases) Slowest() (name string, took time.Duration) {
	if p.slowest == "" {
		return "", 0
	}
	return pg.StatementName(p.slowest), p.slowestTook
}

// LogValue writes the phases in milliseconds, those that there were.
func (p Phases) LogValue() slog.Value {
	attrs := make([]slog.Attr, 0, 6)
	for _, phase := range [...]struct {
		key  string
		took time.Duration
	}{{"directory_ms", p.Directory}, {"hold_ms", p.Hold}, {"wait_ms", p.Wait}, {"connect_ms", p.Connect}, {"query_ms", p.Query}} {
		if phase.took > 0 {
			attrs = append(attrs, slog.Float64(phase.key, float64(phase.took.Microseconds())/1000))
		}
	}
	return slog.GroupValue(append(attrs, slog.Int("queries", p.Queries))...)
}

// Clock is the context of a request and what is known of its time.
type Clock struct {
	context.Context //nolint:containedctx // one allocation instead of two, for every request

	began time.Time

	mu     sync.Mutex
	phases Phases
	// apart is time that has a phase of its own and that lies within the one
	// being measured around it.
	apart time.Duration
}

type clockKey struct{}

// Start starts the clock of a request.
func Start(ctx context.Context) *Clock { return &Clock{Context: ctx, began: time.Now()} }

// Value finds the clock itself, and all that is in the context around it.
func (c *Clock) Value(key any) any {
	if key == (clockKey{}) {
		return c
	}
	return c.Context.Value(key)
}

// Of is the clock of the request that ctx belongs to, or nil.
func Of(ctx context.Context) *Clock {
	c, _ := ctx.Value(clockKey{}).(*Clock)
	return c
}

// Elapsed is the time since the clock was started.
func (c *Clock) Elapsed() time.Duration { return time.Since(c.began) }

// Phases are those so far.
func (c *Clock) Phases() Phases {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.phases
}

// LogValue is that of the phases: a log line that is given the clock at the
// beginning of a request shows what they were at its end.
func (c *Clock) LogValue() slog.Value { return c.Phases().LogValue() }

// Found adds the time since the clock was started, less the hold.
func (c *Clock) Found() {
	took := c.Elapsed()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.phases.Directory += c.rest(took)
}

// Held adds what a request had to wait for its tenant's hold.
func (c *Clock) Held(took time.Duration) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.phases.Hold += took
	c.apart += took
}

// Leased adds the time that a lease took, or the attempt to get one, of which
// some was connecting: less that and the hold, it was waiting.
func (c *Clock) Leased(took, connecting time.Duration) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.phases.Connect += connecting
	c.phases.Wait += c.rest(took - connecting)
}

// Queried adds a statement.
func (c *Clock) Queried(sql string, took time.Duration) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.phases.Query += took
	c.phases.Queries++
	if took >= c.phases.slowestTook {
		c.phases.slowest, c.phases.slowestTook = sql, took
	}
}

// rest is what remains of a time, and begins the next.
func (c *Clock) rest(took time.Duration) time.Duration {
	rest := max(0, took-c.apart)
	c.apart = 0
	return rest
}
