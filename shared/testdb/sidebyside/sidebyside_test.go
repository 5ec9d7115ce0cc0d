package sidebyside

import (
	"sync/atomic"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{nil, 0},
		{[]float64{3}, 3},
		{[]float64{9, 1, 2}, 2},
		{[]float64{4, 1, 3, 2}, 2.5},
	} {
		if got := Median(c.values); got != c.want {
			t.Errorf("Median(%v) = %v, want %v", c.values, got, c.want)
		}
	}
}

func TestPercentile(t *testing.T) {
	t.Parallel()
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(i + 1)
	}
	for _, c := range []struct {
		values  []float64
		p, want float64
	}{
		{nil, 99, 0},
		{[]float64{3}, 50, 3},
		{[]float64{1, 2}, 50, 1},
		{hundred, 50, 50},
		{hundred, 99, 99},
		{hundred, 100, 100},
	} {
		if got := (Turn{Took: c.values}).Percentile(c.p); got != c.want {
			t.Errorf("percentile %v of %d values = %v, want %v", c.p, len(c.values), got, c.want)
		}
	}
}

// A call that is slow makes those late that were due meanwhile, and this is
// counted: the generator does not wait for the system that it measures.
func TestPaceCountsFromWhenACallWasDue(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	const blocked = 60 * time.Millisecond
	turn := Pace(t.Context(), 1, 100, 100*time.Millisecond, func(int) {
		if calls.Add(1) == 1 {
			<-time.After(blocked)
		}
	})
	if len(turn.Took) != 10 || calls.Load() != 10 {
		t.Fatalf("%d calls, %d counted, want 10", calls.Load(), len(turn.Took))
	}
	// Calls were due after 0, 10, 20, … ms; the first one blocks 60 ms.
	late := 0
	for _, took := range turn.Took {
		if took >= 0.010 {
			late++
		}
	}
	if late < 5 {
		t.Errorf("%d calls count as late, want at least 5: %v", late, turn.Took)
	}
}
