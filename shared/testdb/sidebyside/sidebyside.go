// Package sidebyside measures two ways of doing the same thing in one run: they
// take turns, so that a machine whose speed drifts slows both, and the ratio of
// each turn counts rather than any absolute figure.
package sidebyside

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The metrics that a benchmark reports; deploy/bench reads them.
const (
	UnitOurs      = "ours"
	UnitReference = "reference"
	UnitRatio     = "ratio"
)

// Throughput lets ours and reference work in turn, each on workers goroutines
// (0: four per core) for the given time, and reports the medians of operations
// per second and of the ratio ours/reference. The functions do one operation;
// worker tells the goroutines apart.
func Throughput(b *testing.B, workers, rounds int, each time.Duration, ours, reference func(worker int)) {
	b.Helper()
	if workers == 0 {
		workers = 4 * runtime.GOMAXPROCS(0)
	}
	rate(workers, each/4, ours) // warm both
	rate(workers, each/4, reference)
	var o, r, ratios []float64
	b.ResetTimer()
	for round := range rounds {
		first, second := ours, reference
		if round%2 == 1 {
			first, second = reference, ours
		}
		x, y := rate(workers, each, first), rate(workers, each, second)
		if round%2 == 1 {
			x, y = y, x
		}
		o, r, ratios = append(o, x), append(r, y), append(ratios, x/y)
	}
	b.StopTimer()
	report(b, o, r, ratios)
}

// Duration lets ours and reference do a whole piece of work in turn and reports
// the medians of seconds and of the ratio ours/reference.
func Duration(b *testing.B, rounds int, ours, reference func()) {
	b.Helper()
	timed := func(f func()) float64 {
		runtime.GC()
		start := time.Now()
		f()
		return time.Since(start).Seconds()
	}
	var o, r, ratios []float64
	b.ResetTimer()
	for round := range rounds {
		first, second := ours, reference
		if round%2 == 1 {
			first, second = reference, ours
		}
		x, y := timed(first), timed(second)
		if round%2 == 1 {
			x, y = y, x
		}
		o, r, ratios = append(o, x), append(r, y), append(ratios, x/y)
	}
	b.StopTimer()
	report(b, o, r, ratios)
}

// Latency lets one client do ours and reference, each of them once in turn, and
// reports the medians of seconds, and the median of the rounds' ratios.
func Latency(b *testing.B, rounds, each int, ours, reference func()) {
	b.Helper()
	timed := func(f func()) float64 {
		start := time.Now()
		f()
		return time.Since(start).Seconds()
	}
	for range each / 4 { // warm both
		ours()
		reference()
	}
	var o, r, ratios []float64
	b.ResetTimer()
	for range rounds {
		x, y := make([]float64, each), make([]float64, each)
		for i := range each {
			if i%2 == 0 {
				x[i], y[i] = timed(ours), timed(reference)
			} else {
				y[i], x[i] = timed(reference), timed(ours)
			}
		}
		o, r, ratios = append(o, Median(x)), append(r, Median(y)), append(ratios, Median(x)/Median(y))
	}
	b.StopTimer()
	report(b, o, r, ratios)
}

// Against reports a figure beside the limit it has to keep.
func Against(b *testing.B, ours, limit float64) {
	b.Helper()
	report(b, []float64{ours}, []float64{limit}, []float64{ours / limit})
}

func report(b *testing.B, ours, reference, ratios []float64) {
	b.Helper()
	b.ReportMetric(Median(ours), UnitOurs)
	b.ReportMetric(Median(reference), UnitReference)
	b.ReportMetric(Median(ratios), UnitRatio)
	b.ReportMetric(0, "ns/op") // one turn-taking, whose own time says nothing
}

// rate is operations per second.
func rate(workers int, each time.Duration, op func(worker int)) float64 {
	ctx, cancel := context.WithTimeout(context.Background(), each)
	defer cancel()
	var done atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for worker := range workers {
		wg.Go(func() {
			n := int64(0)
			for ctx.Err() == nil {
				op(worker)
				n++
			}
			done.Add(n)
		})
	}
	wg.Wait()
	return float64(done.Load()) / time.Since(start).Seconds()
}

// Median of values; 0 for none.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}
