package audit_test

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/shared/fault"
)

func TestCursorsComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	for _, c := range []audit.Cursor{{Before: 1, Count: 0}, {Before: math.MaxInt64, Count: math.MaxInt64}, {Before: 48211, Count: 7}} {
		got, err := audit.ParseCursor(c.String())
		if err != nil || got != c {
			t.Errorf("%+v came back as %+v, %v", c, got, err)
		}
	}
}

// wantNamed fails unless err is a fault that names the field.
func wantNamed(t *testing.T, err error, fields ...string) {
	t.Helper()
	var f *fault.Error
	if !errors.As(err, &f) || f.Kind != fault.KindInvalid || len(f.Fields) != 1 || !strings.Contains(strings.Join(fields, " "), f.Fields[0].Field) {
		t.Errorf("got %v, want a refusal of %v", err, fields)
	}
}

func FuzzSec34ParseCursor(f *testing.F) {
	for _, seed := range []string{"", "x", audit.Cursor{Before: 1}.String(), audit.Cursor{Before: math.MaxInt64, Count: 3}.String(), "AQIC AA", strings.Repeat("A", 65)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := audit.ParseCursor(s)
		if err != nil {
			wantNamed(t, err, "cursor")
			return
		}
		if c.Before < 1 || c.Count < 0 {
			t.Errorf("%q was read as %+v", s, c)
		}
		if again, err := audit.ParseCursor(c.String()); err != nil || again != c {
			t.Errorf("%+v came back as %+v, %v", c, again, err)
		}
	})
}

func FuzzSec34ParsePeriod(f *testing.F) {
	for _, seed := range [][2]string{
		{"", ""},
		{"2026-03-01", "2026-03-31"},
		{"2026-03-01T00:00:00Z", "2026-03-01T00:00:00.5+14:00"},
		{"0001-01-01", "9999-12-31"},
		{"9999-12-31T23:59:59-14:00", ""},
		{"2026-02-30", "infinity"},
		{"2026-01-01", "2025-01-01"},
	} {
		f.Add(seed[0], seed[1])
	}
	now := time.Date(2026, 4, 1, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, from, to string) {
		start, end, err := audit.ParsePeriod(from, to)
		if err != nil {
			wantNamed(t, err, "from", "to")
			return
		}
		if from == "" != start.IsZero() || to == "" != end.IsZero() || (!end.IsZero() && !start.Before(end)) {
			t.Errorf("%q to %q was read as %v to %v", from, to, start, end)
		}
		for _, by := range []audit.By{audit.ByDay, audit.ByWeek, audit.ByMonth, audit.ByQuarter, audit.ByFiscalPeriod} {
			first, last, err := audit.Span(by, start, end, now)
			if err != nil {
				wantNamed(t, err, "to")
			} else if first.After(last) || last.Sub(last.Truncate(24*time.Hour)) != 0 {
				t.Errorf("%q to %q by %s spans %v to %v", from, to, by, first, last)
			}
		}
	})
}
