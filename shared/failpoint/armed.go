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

// Hit blocks while the failpoint is armed, see the package's description.
func Hit(ctx context.Context, name string) {
	dir := os.Getenv("OUVIRA_FAILPOINT_DIR")
	if dir == "" {
		return
	}
	armed := filepath.Join(dir, strings.ReplaceAll(name, "/", "."))
	if _, err := os.Stat(armed); err != nil {
		return
	}
	if err := os.WriteFile(armed+".hit", nil, 0o644); err != nil {
		return
	}
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if _, err := os.Stat(armed); err != nil {
				return
			}
		}
	}
}
