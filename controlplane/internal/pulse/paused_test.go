package pulse

import (
	"context"
	"log/slog"
	"testing"
	"time"
)

// A machine that is paused, and the database with it, tells nothing: patience is
// counted in ticks of our own clock, which stands still meanwhile.
func TestAPausedMachineIsNotASilentDatabase(t *testing.T) {
	t.Parallel()
	asked, answer, ticks := make(chan struct{}), make(chan struct{}), make(chan time.Time)
	p := New(func(ctx context.Context) error {
		asked <- struct{}{}
		select {
		case <-answer:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}, slog.New(slog.DiscardHandler))
	p.clock = func() (<-chan time.Time, func()) { return ticks, func() {} }
	ask := func() <-chan bool {
		silent := make(chan bool, 1)
		go func() { silent <- p.silent(t.Context()) }()
		<-asked
		return silent
	}

	paused := ask()
	ticks <- time.Now() // the one that had to come, when the machine goes on after an hour
	answer <- struct{}{}
	if <-paused {
		t.Error("a pause counts as silence")
	}
	fallen := ask()
	for range Patience / tick {
		ticks <- time.Now()
	}
	if !<-fallen {
		t.Error("a silence is not noticed")
	}
}
