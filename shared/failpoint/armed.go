//go:build failpoints

package failpoint

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Enabled tells whether this build stops at failpoints.
const Enabled = true

// poll is how often a blocked hit looks whether it was released.
const poll = 10 * time.Millisecond

// Hit blocks if the failpoint is armed, see the package's description.
func Hit(ctx context.Context, name string) {
	dir := os.Getenv("OUVIRA_FAILPOINT_DIR")
	if dir == "" {
		return
	}
	armed := filepath.Join(dir, strings.ReplaceAll(name, "/", "."))
	hit := armed + ".hit"
	_ = os.WriteFile(armed+".seen", nil, 0o600)
	// Of several that arrive, the one whose rename succeeds is stopped.
	if err := os.Rename(armed, hit); err != nil {
		return
	}
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if _, err := os.Stat(hit); err != nil {
				return
			}
		}
	}
}
