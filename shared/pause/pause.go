// Package pause waits in a way that can be ended.
package pause

import (
	"context"
	"time"
)

// For waits, or tells by false that ctx has ended. It does not wait where wait is
// nothing or less.
func For(ctx context.Context, wait time.Duration) bool {
	if wait <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
