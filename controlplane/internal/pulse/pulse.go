// Package pulse feels whether the control database answers, so that nobody
// waits for one that has fallen silent: a host that stands still, a network that
// swallows packets. A database that refuses needs no pulse, its refusal is an
// answer.
//
// It promises: within two seconds of the last sign of life, work that is bound
// to the pulse ends, and work that begins later ends at once, until the database
// answers again. Slow work under a living database is left alone.
package pulse

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// ErrSilent is the cause of a context that ended because nothing was heard.
var ErrSilent = errors.New("the control database has fallen silent")

// Patience is how long a sign of life may take, making a connection included.
// With every it is the longest that somebody waits for a database that fell
// silent right after it had answered.
//
// It is counted in ticks of a clock of ours that stands still with this process: a
// machine that was paused for a second tells nothing about the database.
const (
	Patience = 1250 * time.Millisecond
	every    = 250 * time.Millisecond
	tick     = Patience / 10
)

// Pulse of one database. Make one with New and feed it with Run.
type Pulse struct {
	ping  func(context.Context) error
	log   *slog.Logger
	clock func() (ticks <-chan time.Time, stop func())

	mu    sync.Mutex
	alive context.Context //nolint:containedctx // nobody's request: it ends when the database falls silent
	fall  context.CancelCauseFunc
}

// New takes what asks the database for a sign of life. It needs a connection of
// its own: one that others use may be busy with them.
func New(ping func(context.Context) error, log *slog.Logger) *Pulse {
	p := &Pulse{ping: ping, log: log, clock: func() (<-chan time.Time, func()) {
		t := time.NewTicker(tick)
		return t.C, t.Stop
	}}
	p.alive, p.fall = context.WithCancelCause(context.Background())
	return p
}

// Run feels until ctx ends.
func (p *Pulse) Run(ctx context.Context) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		silent := p.silent(ctx)
		if ctx.Err() != nil {
			return
		}
		p.note(ctx, silent)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// silent asks for a sign of life, and tells whether none came while it was waited for.
func (p *Pulse) silent(ctx context.Context) bool {
	asking, giveUp := context.WithCancel(ctx)
	defer giveUp()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		_ = p.ping(asking) // a refusal is an answer
	}()
	clock, stop := p.clock()
	defer stop()
	for ticks := 0; ; {
		select {
		case <-answered:
			return false
		case <-ctx.Done():
			return false
		case <-clock: // those that were missed do not come
		}
		if ticks++; ticks == int(Patience/tick) {
			giveUp()
			<-answered // one at a time
			return true
		}
	}
}

func (p *Pulse) note(ctx context.Context, silent bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if silent == (p.alive.Err() != nil) {
		return
	}
	if silent {
		p.log.WarnContext(ctx, "the control database does not answer; requests are refused until it does")
		p.fall(ErrSilent)
		return
	}
	p.log.InfoContext(ctx, "the control database answers again")
	p.alive, p.fall = context.WithCancelCause(context.Background())
}

// Bind makes a context that ends with ctx, and with the cause ErrSilent when
// the database falls silent. The caller calls done when the work is over.
func (p *Pulse) Bind(ctx context.Context) (bound context.Context, done context.CancelFunc) {
	p.mu.Lock()
	alive := p.alive
	p.mu.Unlock()
	bound, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(alive, func() { cancel(ErrSilent) })
	if alive.Err() != nil {
		cancel(ErrSilent) // AfterFunc calls from a goroutine, which may come late
	}
	return bound, func() {
		stop()
		cancel(context.Canceled)
	}
}
