package provision_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/job"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/testdb"
	"github.com/ouvira/ouvira/shared/testdb/sidebyside"
)

// What provisioning adds to the one thing that has to be done: 24 tenants from
// the request to the route, by a real worker that runs four at a time, beside
// 24 bare copies of the same template on four connections that are open
// already. Nothing is dropped in between: ext4 is slow to give out inodes near
// those of files that were deleted within the last minutes.
func BenchmarkProvisionVersusCreateDatabase(b *testing.B) {
	const tenants, atOnce, rounds = 24, 4, 5
	w := newWorld(b)
	tenantServer := fleettest.TenantServer(b, testdb.System)
	w.AddServer(b, "a", tenantServer.ProvisionerURL, 1000)
	w.work(b, atOnce)
	bare := make([]*pgx.Conn, atOnce)
	for i := range bare {
		bare[i] = testdb.Connect(b, tenantServer.URL())
	}
	w.makeTenants(b, 1) // builds the template
	template := fleettest.One[string](b, bare[0], "SELECT datname FROM pg_database WHERE datistemplate AND starts_with(datname, 'ouvira_template_')")

	sidebyside.Duration(b, rounds,
		func() { w.makeTenants(b, tenants) },
		func() { copyTemplate(b, bare, tenants, template) })
}

// work runs a worker until the benchmark ends.
func (w *world) work(b *testing.B, operations int) {
	b.Helper()
	w.UseQueue(b)
	runner := operation.NewRunner(w.Store, "bench", w.Log, map[string]operation.Handler{provision.Kind: w.Provision})
	worker, err := job.NewWorker(w.Pool, job.Config{Log: w.Log, Runner: runner, Operations: operations})
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- worker.Run(ctx) }()
	b.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			b.Errorf("the worker's end: %v", err)
		}
	})
}

// makeTenants asks for n tenants and waits until they are served.
func (w *world) makeTenants(b *testing.B, n int) {
	b.Helper()
	for range n {
		w.Ask(b, "t"+strings.ToLower(uuid.NewString()[:13]), provision.Params{})
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for fleettest.One[int](b, w.Pool, "SELECT count(*) FROM control.operations WHERE finished_at IS NULL") > 0 {
		<-tick.C
	}
	if n := fleettest.One[int](b, w.Pool, "SELECT count(*) FROM control.operations WHERE status <> 'succeeded'"); n > 0 {
		b.Fatalf("%d tenants could not be made", n)
	}
}

// copyTemplate copies the template n times, by all connections at once.
func copyTemplate(b *testing.B, connections []*pgx.Conn, n int, template string) {
	b.Helper()
	names := make(chan string, n)
	for range n {
		names <- "bare_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	}
	close(names)
	var wg sync.WaitGroup
	for _, conn := range connections {
		wg.Go(func() {
			for name := range names {
				_, err := conn.Exec(b.Context(), fmt.Sprintf("CREATE DATABASE %s OWNER %s TEMPLATE %s STRATEGY wal_log", name, migrations.OwnerRole, template))
				if err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
