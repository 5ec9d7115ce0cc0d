package outbox

import (
	"testing"
	"time"
)

func TestPrefixOf(t *testing.T) {
	t.Parallel()
	for number, want := range map[string]string{
		"+12125550123":     "+1212",
		"+79161234567":     "+7916",
		"+491701234567":    "+49170",
		"+35312345678":     "+353123",
		"+8821612345678":   "+882161",
		"+447700900123":    "+44770",
		"+999":             "+999",
		"+4":               "+4",
		"+420601123456":    "+420601",
		"+525512345678":    "+52551",
		"+970599123456":    "+970599",
		"+862112345678901": "+86211",
	} {
		if got := prefixOf(number); got != want {
			t.Errorf("prefixOf(%s) = %s, want %s", number, got, want)
		}
	}
}

func TestUntilTomorrow(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 1, 30, 0, 0, time.FixedZone("", 2*3600)) // 23:30 UTC of the day before
	if got := untilTomorrow(at); got != 30*time.Minute {
		t.Errorf("got %v", got)
	}
}

func TestPausesGrowAndEnd(t *testing.T) {
	t.Parallel()
	for channel, p := range patiences {
		for attempt := int32(1); attempt < 40; attempt++ {
			ceiling := min(p.first<<min(attempt-1, 16), p.atMost)
			for range 20 {
				if pause := p.pause(attempt); pause < time.Second || pause >= time.Second+ceiling {
					t.Fatalf("%s, attempt %d: %v is not within %v", channel, attempt, pause, ceiling)
				}
			}
		}
	}
}
