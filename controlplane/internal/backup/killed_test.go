//go:build failpoints

package backup_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/backup"
	"github.com/ouvira/ouvira/controlplane/internal/backup/storage"
	"github.com/ouvira/ouvira/controlplane/internal/job"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/seal"
)

const (
	// workerURL makes this test binary a worker on that control database.
	workerURL   = "OUVIRA_TEST_WORKER_URL"
	workerFiles = "OUVIRA_TEST_WORKER_FILES"
	// atOnce is how many operations a worker runs: as many as stand still.
	atOnce = 40
)

// TestWorkerProcess is the child of TestKilledAtEachFailpoint.
func TestWorkerProcess(t *testing.T) {
	address := os.Getenv(workerURL)
	if address == "" {
		return // an ordinary run
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	pool, err := pg.Open(ctx, address, pg.Options{MaxConnections: 20})
	check(err)
	control, err := seal.LoadControlKey(os.Getenv("OUVIRA_CONTROL_KEY_FILE"))
	check(err)
	public, err := seal.LoadPublicKey(os.Getenv("OUVIRA_DATA_PUBLIC_KEY_FILE"))
	check(err)
	files, err := storage.Open("file://" + os.Getenv(workerFiles))
	check(err)
	log := slog.New(slog.DiscardHandler)
	queue, err := job.NewInsertOnly(pool, log)
	check(err)
	store := operation.NewStore(pool, queue)
	backups := backup.NewService(pool, store, server.NewService(pool, control, log, server.Options{}), public, control, backup.Options{Store: files, Log: log})
	worker, err := job.NewWorker(pool, job.Config{Log: log, Runner: operation.NewRunner(store, "child", log, backups.Handlers()), Long: atOnce})
	check(err)
	check(worker.Run(ctx))
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
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	w.startWorker(t, t.TempDir())
	restarted := time.Now()
	for _, is := range began {
		if o := w.ended(t, is.op); o.Status != operation.Succeeded {
			t.Fatalf("%+v", o)
		}
		is.check(t)
	}
	t.Logf("all %d operations ended %.1f s after the restart", len(began), time.Since(restarted).Seconds())
}

// startWorker starts a worker that stops at the failpoints of a directory.
func (w *world) startWorker(t *testing.T, failpoints string) *exec.Cmd {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^TestWorkerProcess$")
	child.Env = append(os.Environ(), workerURL+"="+w.URL, workerFiles+"="+w.files, "OUVIRA_FAILPOINT_DIR="+failpoints,
		"OUVIRA_CONTROL_KEY_FILE="+w.ControlFile, "OUVIRA_DATA_PUBLIC_KEY_FILE="+w.PublicFile)
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = child.Process.Kill(); _ = child.Wait() })
	return child
}

// standStill gives the operations to a worker and waits until one stands at each of
// the points.
func (w *world) standStill(t *testing.T, began []work, points []string) *exec.Cmd {
	t.Helper()
	queue, err := job.NewInsertOnly(w.Pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, point := range points {
		if err := os.WriteFile(filepath.Join(dir, strings.ReplaceAll(point, "/", ".")), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, is := range began { // they were asked for without a queue
		if err := queueOf(t, w, queue, is); err != nil {
			t.Fatal(err)
		}
	}
	child := w.startWorker(t, dir)
	for _, point := range points {
		hit := filepath.Join(dir, strings.ReplaceAll(point, "/", ".")+".hit")
		for deadline := time.Now().Add(3 * time.Minute); ; {
			if _, err := os.Stat(hit); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s was never hit", point)
			}
			<-time.After(20 * time.Millisecond)
		}
	}
	return child
}

// ended waits for the end of an operation.
func (w *world) ended(t *testing.T, op uuid.UUID) *operation.Operation {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var last *operation.Operation
	if err := w.store.Watch(ctx, op, func(o *operation.Operation) error { last = o; return nil }); err != nil {
		t.Fatalf("%v %+v", err, last)
	}
	return last
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
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	w.startWorker(t, t.TempDir())
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
		incarnation := one[int](t, w.Pool, "SELECT (params ->> 'incarnation')::int FROM control.operations WHERE id = $1", is.op)
		w.nothingOf(t, tenantdb.Database{Tenant: *o.TenantID, Incarnation: incarnation})
		if mode := one[string](t, w.Pool, "SELECT route_mode FROM control.tenants WHERE id = $1", *o.TenantID); mode != "serve" {
			t.Errorf("the route is in the mode %s", mode)
		}
		w.loggedIn(t, *o.TenantID)
	}
}

func queueOf(t *testing.T, w *world, queue *job.Queue, is work) error {
	t.Helper()
	tx, err := w.Pool.Begin(t.Context())
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if err := queue.Wake(t.Context(), tx, is.op); err != nil {
		return err
	}
	return tx.Commit(t.Context())
}
