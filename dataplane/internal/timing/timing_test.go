package timing_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ouvira/ouvira/dataplane/internal/timing"
)

// after is virtual time.
func after(d time.Duration) { <-time.After(d) }

func TestPhasesDoNotOverlap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		clock := timing.Start(t.Context())
		after(time.Millisecond)
		clock.Held(40 * time.Millisecond)
		after(40 * time.Millisecond)
		clock.Found()

		timing.Of(clock).Leased(25*time.Millisecond, 20*time.Millisecond)

		clock.Queried("-- name: GetUser :one\nSELECT", 3*time.Millisecond)
		clock.Queried("-- name: ListRoles :many\nSELECT", 5*time.Millisecond)
		clock.Queried("commit", time.Millisecond)
		clock.Leased(2*time.Millisecond, 0)

		want := timing.Phases{
			Directory: time.Millisecond, Hold: 40 * time.Millisecond, Wait: 7 * time.Millisecond,
			Connect: 20 * time.Millisecond, Query: 9 * time.Millisecond, Queries: 3,
		}
		got := clock.Phases()
		name, took := got.Slowest()
		if name != "ListRoles" || took != 5*time.Millisecond {
			t.Errorf("the slowest statement is %q, %s", name, took)
		}
		if got.Directory != want.Directory || got.Hold != want.Hold || got.Wait != want.Wait || got.Connect != want.Connect || got.Query != want.Query || got.Queries != want.Queries {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

// What is not a request is not measured, and nobody needs to ask.
func TestNoClock(t *testing.T) {
	t.Parallel()
	clock := timing.Of(context.Background())
	clock.Held(1)
	clock.Leased(1, 0)
	clock.Queried("commit", 1)
	if clock != nil {
		t.Error("there is a clock outside of requests")
	}
}

func TestAClockGivenEarlyTellsTheEnd(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	type key struct{}
	clock := timing.Start(context.WithValue(t.Context(), key{}, "value"))
	ctx, cancel := context.WithCancel(clock)
	defer cancel()
	attr := slog.Any("phases", clock)
	timing.Of(ctx).Queried("commit", 1500*time.Microsecond)
	slog.New(slog.NewJSONHandler(&out, nil)).LogAttrs(ctx, slog.LevelInfo, "request", attr)
	if !strings.Contains(out.String(), `"phases":{"query_ms":1.5,"queries":1}`) {
		t.Errorf("the line says %s", out.String())
	}
	if ctx.Value(key{}) != "value" {
		t.Error("the clock hides what is in the context around it")
	}
}

func BenchmarkClock(b *testing.B) {
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		clock := timing.Start(ctx)
		clock.Found()
		timing.Of(clock).Leased(1, 0)
		timing.Of(clock).Queried("commit", 1)
	}
}
