//go:build failpoints

package failpoint_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ouvira/ouvira/shared/failpoint"
)

func TestHitBlocksTheFirstThatArrives(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("OUVIRA_FAILPOINT_DIR", dir)
	failpoint.Hit(t.Context(), "provision/role") // not armed: passes

	armed := filepath.Join(dir, "provision.role")
	if err := os.WriteFile(armed, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	passed := make(chan struct{})
	go func() {
		failpoint.Hit(context.Background(), "provision/role")
		close(passed)
	}()
	for deadline := time.Now().Add(5 * time.Second); ; {
		if _, err := os.Stat(armed + ".hit"); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no .hit file appeared")
		}
	}
	select {
	case <-passed:
		t.Fatal("the hit did not block")
	default:
	}
	failpoint.Hit(t.Context(), "provision/role") // armed once: a second one passes
	if err := os.Remove(armed + ".hit"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-passed:
	case <-time.After(5 * time.Second):
		t.Fatal("the hit stayed blocked after it was released")
	}
}

func TestHitEndsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("OUVIRA_FAILPOINT_DIR", dir)
	if err := os.WriteFile(filepath.Join(dir, "a.b"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	failpoint.Hit(ctx, "a/b")
}
