//go:build failpoints

package provision_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/shared/testdb"
)

// TestStallsAtEachFailpoint lets a run stall at each failpoint, also between
// the stored secret and the role, until another has finished the operation.
func TestStallsAtEachFailpoint(t *testing.T) {
	w := newWorld(t)
	pgServer := tenantServer(t, testdb.System)
	w.addServer(t, "a", pgServer.provisionerURL, 100)
	admin := testdb.Connect(t, pgServer.URL())
	for i, point := range provision.Failpoints() {
		dir := t.TempDir()
		t.Setenv("OUVIRA_FAILPOINT_DIR", dir)
		armed := filepath.Join(dir, strings.ReplaceAll(point, "/", "."))
		if err := os.WriteFile(armed, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		tenant, op := w.tenant(t, "stall-"+string(rune('a'+i)), provision.Params{})
		ended := make(chan error, 1)
		go func() { ended <- w.runner.Run(context.Background(), op) }()
		for deadline := time.Now().Add(30 * time.Second); ; {
			if _, err := os.Stat(armed + ".hit"); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s was never hit", point)
			}
			<-time.After(10 * time.Millisecond)
		}
		w.bury(t, op)
		t.Setenv("OUVIRA_FAILPOINT_DIR", t.TempDir())
		w.mustRun(t, op)
		if err := os.Remove(armed + ".hit"); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err != nil {
			t.Fatalf("%s: the stalled run: %v", point, err)
		}
		if o := w.get(t, op); o.Status != operation.Succeeded {
			t.Errorf("%s: %s", point, o.Status)
		}
		w.checkTenant(t, admin, tenant)
	}
}
