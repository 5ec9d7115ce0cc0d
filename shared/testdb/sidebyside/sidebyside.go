// Package sidebyside measures two ways of doing the same thing in one run: they
// take turns, so that a machine whose speed drifts slows both, and the ratio of
// each turn counts rather than any absolute figure.
package sidebyside

import (
	"context"
	"math"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

// The metrics that a benchmark reports; deploy/bench reads them, and shows
// whatever else a benchmark reports beside them.
const (
	UnitOurs      = "ours"
	UnitReference = "reference"
	UnitRatio     = "ratio"

	UnitOursP50      = "ours-p50" // seconds that an operation took, like those that follow
	UnitOursP99      = "ours-p99"
	UnitReferenceP50 = "reference-p50"
	UnitReferenceP99 = "reference-p99"
)

// Throughput lets ours and reference work in turn, each on workers goroutines
// (0: four per core) for the given time, and reports the medians of operations
// per second, of the ratio ours/reference and of each turn's percentiles. The
// functions do one operation; worker tells the goroutines apart.
func Throughput(b *testing.B, workers, rounds int, each time.Duration, ours, reference func(worker int)) {
	b.Helper()
	if workers == 0 {
		workers = 4 * runtime.GOMAXPROCS(0)
	}
	TurnByTurn(b, rounds,
		func(share float64) Turn { return Run(workers, time.Duration(float64(each)*share), ours) },
		func(share float64) Turn { return Run(workers, time.Duration(float64(each)*share), reference) })
}

// TurnByTurn is Throughput for ways that measure themselves. They are asked for
// a share of a turn's time: a quarter to warm up, then whole turns.
func TurnByTurn(b *testing.B, rounds int, ours, reference func(share float64) Turn) {
	b.Helper()
	ours(0.25)
	reference(0.25)
	var o, r, ratios, op50, op99, rp50, rp99 []float64
	b.ResetTimer()
	for round := range rounds {
		first, second := ours, reference
		if round%2 == 1 {
			first, second = reference, ours
		}
		x, y := first(1), second(1)
		if round%2 == 1 {
			x, y = y, x
		}
		o, r, ratios = append(o, x.PerSecond), append(r, y.PerSecond), append(ratios, x.PerSecond/y.PerSecond)
		op50, op99 = append(op50, x.Percentile(50)), append(op99, x.Percentile(99))
		rp50, rp99 = append(rp50, y.Percentile(50)), append(rp99, y.Percentile(99))
	}
	b.StopTimer()
	report(b, o, r, ratios)
	b.ReportMetric(Median(op50), UnitOursP50)
	b.ReportMetric(Median(op99), UnitOursP99)
	b.ReportMetric(Median(rp50), UnitReferenceP50)
	b.ReportMetric(Median(rp99), UnitReferenceP99)
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
// reports the medians of seconds, the median of the rounds' ratios, and
// percentiles.
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
	var o, r, ratios, op99, rp99 []float64
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
		slices.Sort(x)
		slices.Sort(y)
		op99, rp99 = append(op99, percentile(x, 99)), append(rp99, percentile(y, 99))
	}
	b.StopTimer()
	report(b, o, r, ratios)
	b.ReportMetric(Median(o), UnitOursP50)
	b.ReportMetric(Median(op99), UnitOursP99)
	b.ReportMetric(Median(r), UnitReferenceP50)
	b.ReportMetric(Median(rp99), UnitReferenceP99)
}

// Report is for benchmarks that measure in a way of their own: the figures of
// each round, of which the medians count.
func Report(b *testing.B, ours, reference []float64) {
	b.Helper()
	ratios := make([]float64, len(ours))
	for i := range ours {
		ratios[i] = ours[i] / reference[i]
	}
	b.StopTimer()
	report(b, ours, reference, ratios)
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

// Turn is what one way did in one turn.
type Turn struct {
	PerSecond float64
	Took      []float64 // seconds of each operation, sorted
}

// Percentile of the seconds that operations took; 0 for none.
func (t Turn) Percentile(p float64) float64 { return percentile(t.Took, p) }

// Run repeats op on workers goroutines: each begins again when it is done.
func Run(workers int, each time.Duration, op func(worker int)) Turn {
	ctx, cancel := context.WithTimeout(context.Background(), each)
	defer cancel()
	took := make([][]float64, workers)
	var wg sync.WaitGroup
	start := time.Now()
	for worker := range workers {
		wg.Go(func() {
			for begun := time.Now(); ctx.Err() == nil; {
				op(worker)
				now := time.Now()
				took[worker] = append(took[worker], now.Sub(begun).Seconds())
				begun = now
			}
		})
	}
	wg.Wait()
	passed := time.Since(start).Seconds()
	all := slices.Concat(took...)
	slices.Sort(all)
	return Turn{PerSecond: float64(len(all)) / passed, Took: all}
}

// Pace calls op perSecond times a second on workers goroutines, at times fixed
// beforehand: how long a call took counts from when it was due. What waits
// because an earlier call was slow is slow as well, as it would be for people.
func Pace(ctx context.Context, workers int, perSecond float64, each time.Duration, op func(worker int)) Turn {
	calls := int(perSecond * each.Seconds())
	took := make([][]float64, workers)
	var wg sync.WaitGroup
	start := time.Now()
	for worker := range workers {
		wg.Go(func() {
			alarm := time.NewTimer(0)
			defer alarm.Stop()
			for call := worker; call < calls; call += workers {
				due := start.Add(time.Duration(float64(call) / perSecond * float64(time.Second)))
				alarm.Reset(time.Until(due))
				select {
				case <-alarm.C:
				case <-ctx.Done():
					return
				}
				op(worker)
				took[worker] = append(took[worker], time.Since(due).Seconds())
			}
		})
	}
	wg.Wait()
	passed := time.Since(start).Seconds()
	all := slices.Concat(took...)
	slices.Sort(all)
	return Turn{PerSecond: float64(len(all)) / passed, Took: all}
}

// percentile is the smallest value that p percent of them do not exceed.
func percentile(sorted []float64, p float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
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
