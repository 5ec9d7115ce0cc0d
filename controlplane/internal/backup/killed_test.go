//go:build failpoints

package backup_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/backup"
	"github.com/ouvira/ouvira/controlplane/internal/backup/storage"
	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// workerFiles tells the worker where the backups are.
const workerFiles = "OUVIRA_TEST_WORKER_FILES"

// TestWorkerProcess is the child of TestKilledAtEachFailpoint.
func TestWorkerProcess(t *testing.T) {
	fleettest.BeWorker(t, func(w *fleettest.World) map[string]operation.Handler {
		files, err := storage.Open("file://" + os.Getenv(workerFiles))
		if err != nil {
			t.Fatal(err)
		}
		return backup.NewService(w.Pool, w.Store, w.Servers, w.Public, w.Keys.Control, backup.Options{Store: files, Log: w.Log}).Handlers()
	})
}

// Operations stand still at every failpoint at the same time, and their worker gets
// kill -9. The next one ends all of them within the promised time, as if nothing had
// been.
func TestKilledAtEachFailpoint(t *testing.T) {
	w := newWorld(t)
	begin := w.kinds()
	var began []work
	var points []string
	for _, kind := range []string{backup.KindTake, backup.KindClone, backup.KindRestore} {
		of := backup.Failpoints(kind)
		points = append(points, of...)
		surplus := 2 // whoever comes first is stopped inside of Take: a clone takes a backup too
		for n := range len(of) + surplus {
			began = append(began, begin[kind](t, fmt.Sprintf("kill-%s-%d", strings.TrimPrefix(kind, "tenant."), n)))
		}
	}
	child := w.standStill(t, began, points)
	child.Kill(t)
	w.startWorker(t, fleettest.Arm(t))
	restarted := time.Now()
	for _, is := range began {
		if o := w.ended(t, is.op); o.Status != operation.Succeeded {
			t.Fatalf("%+v", o)
		}
		is.check(t)
	}
	t.Logf("all %d operations ended %.1f s after the restart", len(began), time.Since(restarted).Seconds())
}

func (w *world) startWorker(t *testing.T, armed fleettest.Armed) *fleettest.Worker {
	t.Helper()
	return w.StartWorker(t, armed, workerFiles+"="+w.files)
}

// standStill gives the operations to a worker and waits until one stands at each of
// the points.
func (w *world) standStill(t *testing.T, began []work, points []string) *fleettest.Worker {
	t.Helper()
	queue := w.UseQueue(t)
	for _, is := range began { // they were asked for without a queue
		if err := pg.InTx(t.Context(), w.Pool, func(tx pgx.Tx) error { return queue.Wake(t.Context(), tx, is.op) }); err != nil {
			t.Fatal(err)
		}
	}
	armed := fleettest.Arm(t, points...)
	child := w.startWorker(t, armed)
	for _, point := range points {
		armed.Await(t, point)
	}
	return child
}

// ended waits for the end of an operation.
func (w *world) ended(t *testing.T, op uuid.UUID) *operation.Operation {
	t.Helper()
	return w.Ended(t, op, 3*time.Minute)
}

// A copy stands still at each failpoint; it is cancelled there, and then its worker
// gets kill -9. The next one leaves nothing of it, except where the copy was served
// already: then cancelling was refused, and it goes on.
func TestRel03CancelledThenKilledAtEachFailpoint(t *testing.T) {
	w := newWorld(t)
	begin := w.kinds()[backup.KindRestore]
	points := backup.Failpoints(backup.KindRestore)
	var began []work
	for n := range points {
		began = append(began, begin(t, fmt.Sprintf("cancel-%d", n)))
	}
	child := w.standStill(t, began, points)
	refused := 0
	cancelled := map[uuid.UUID]bool{}
	for _, is := range began {
		switch err := w.runner.Cancel(t.Context(), operator(), is.op); {
		case err == nil:
			cancelled[is.op] = true
		case fault.From(err).EffectiveCode() == "point_of_no_return":
			refused++
		default:
			t.Fatal(err)
		}
	}
	if refused != 1 {
		t.Errorf("%d were refused, want the one whose route has changed", refused)
	}
	child.Kill(t)
	w.startWorker(t, fleettest.Arm(t))
	for _, is := range began {
		o := w.ended(t, is.op)
		if !cancelled[is.op] {
			if o.Status != operation.Succeeded {
				t.Errorf("one that could not be cancelled: %+v", o)
			}
			is.check(t)
			continue
		}
		if o.Status != operation.Cancelled {
			t.Fatalf("%+v", o)
		}
		incarnation := fleettest.One[int](t, w.Pool, "SELECT (params ->> 'incarnation')::int FROM control.operations WHERE id = $1", is.op)
		w.nothingOf(t, tenantdb.Database{Tenant: *o.TenantID, Incarnation: incarnation})
		if mode := fleettest.One[string](t, w.Pool, "SELECT route_mode FROM control.tenants WHERE id = $1", *o.TenantID); mode != "serve" {
			t.Errorf("the route is in the mode %s", mode)
		}
		w.loggedIn(t, *o.TenantID)
	}
}
