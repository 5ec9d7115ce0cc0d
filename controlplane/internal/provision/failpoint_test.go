//go:build failpoints

package provision_test

import (
	"context"
	"testing"

	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/shared/testdb"
)

// TestStallsAtEachFailpoint lets a run stall at each failpoint, also between
// the stored secret and the role, until another has finished the operation.
func TestStallsAtEachFailpoint(t *testing.T) {
	w := newWorld(t)
	pgServer := fleettest.TenantServer(t, testdb.System)
	w.AddServer(t, "a", pgServer.ProvisionerURL, 100)
	admin := testdb.Connect(t, pgServer.URL())
	for i, point := range provision.Failpoints() {
		armed := fleettest.Arm(t, point)
		t.Setenv("OUVIRA_FAILPOINT_DIR", string(armed))
		tenant, op := w.Ask(t, "stall-"+string(rune('a'+i)), provision.Params{})
		ended := make(chan error, 1)
		go func() { ended <- w.runner.Run(context.Background(), op) }()
		armed.Await(t, point)
		w.Bury(t, op)
		t.Setenv("OUVIRA_FAILPOINT_DIR", t.TempDir())
		w.mustRun(t, op)
		armed.Release(t, point)
		if err := <-ended; err != nil {
			t.Fatalf("%s: the stalled run: %v", point, err)
		}
		if o := w.Get(t, op); o.Status != operation.Succeeded {
			t.Errorf("%s: %s", point, o.Status)
		}
		w.checkTenant(t, admin, tenant)
	}
}
