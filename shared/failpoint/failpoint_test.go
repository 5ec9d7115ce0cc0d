//go:build !failpoints

package failpoint_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/ouvira/ouvira/shared/failpoint"
)

func TestReleaseBuildsNeverStop(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("OUVIRA_FAILPOINT_DIR", dir)
	armed := filepath.Join(dir, "provision.role")
	if err := os.WriteFile(armed, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	failpoint.Hit(t.Context(), "provision/role")
	if _, err := os.Stat(armed + ".hit"); err == nil {
		t.Error("a release build heeded a failpoint")
	}
}
