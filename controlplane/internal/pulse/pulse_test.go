package pulse_test

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ouvira/ouvira/controlplane/internal/pulse"
)

// database answers, refuses, or says nothing.
type database struct {
	silent, refuses atomic.Bool
}

func (d *database) ping(ctx context.Context) error {
	switch {
	case d.silent.Load():
		<-ctx.Done()
		return ctx.Err()
	case d.refuses.Load():
		return errors.New("connection refused")
	}
	return nil
}

func TestSilenceEndsWorkAndOnlySilence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &database{}
		p := pulse.New(d.ping, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go p.Run(ctx)

		work, done := p.Bind(t.Context())
		defer done()
		time.Sleep(time.Hour) //nolint:forbidigo // in the bubble's own time: slow, and nobody minds
		d.refuses.Store(true)
		time.Sleep(time.Minute) //nolint:forbidigo // in the bubble's own time
		if work.Err() != nil {
			t.Errorf("a database that answers, or refuses, ended the work: %v", context.Cause(work))
		}

		d.refuses.Store(false)
		time.Sleep(time.Second) //nolint:forbidigo // in the bubble's own time
		d.silent.Store(true)
		begun := time.Now()
		<-work.Done()
		if took := time.Since(begun); took > 2*time.Second || !errors.Is(context.Cause(work), pulse.ErrSilent) {
			t.Errorf("the work ended after %v by %v", took, context.Cause(work))
		}
		late, lateDone := p.Bind(t.Context())
		defer lateDone()
		if !errors.Is(context.Cause(late), pulse.ErrSilent) {
			t.Errorf("work that began in the silence was not ended at once: %v", context.Cause(late))
		}

		d.silent.Store(false)
		time.Sleep(2 * time.Second) //nolint:forbidigo // in the bubble's own time
		again, againDone := p.Bind(t.Context())
		defer againDone()
		if again.Err() != nil {
			t.Errorf("the database answers again, and the work is ended by %v", context.Cause(again))
		}
	})
}

func TestBoundWorkEndsWithItsOwnContextToo(t *testing.T) {
	t.Parallel()
	p := pulse.New((&database{}).ping, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	bound, done := p.Bind(ctx)
	defer done()
	cancel()
	<-bound.Done()
	if errors.Is(context.Cause(bound), pulse.ErrSilent) {
		t.Error("a caller who went away counts as silence of the database")
	}
}
