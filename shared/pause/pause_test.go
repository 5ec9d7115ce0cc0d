package pause

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestForWaitsOrIsEnded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		if !For(t.Context(), time.Minute) || time.Since(begun) != time.Minute {
			t.Errorf("waited %v of a minute", time.Since(begun))
		}
		ending, end := context.WithTimeout(t.Context(), time.Second)
		defer end()
		begun = time.Now()
		if For(ending, time.Minute) || time.Since(begun) != time.Second {
			t.Errorf("went on for %v after the end", time.Since(begun))
		}
		if For(ending, 0) {
			t.Error("went on after the end")
		}
	})
}
