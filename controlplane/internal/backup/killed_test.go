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

	"github.com/ouvira/ouvira/controlplane/internal/backup"
	"github.com/ouvira/ouvira/controlplane/internal/backup/storage"
	"github.com/ouvira/ouvira/controlplane/internal/job"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/server"
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
	queue, err := job.NewInsertOnly(w.Pool, nil)
	if err != nil {
		t.Fatal(err)
	}
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
	dir := t.TempDir()
	for _, point := range points {
		if err := os.WriteFile(filepath.Join(dir, strings.ReplaceAll(point, "/", ".")), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	start := func(failpoints string) *exec.Cmd {
		child := exec.Command(os.Args[0], "-test.run=^TestWorkerProcess$")
		child.Env = append(os.Environ(), workerURL+"="+w.URL, workerFiles+"="+w.files, "OUVIRA_FAILPOINT_DIR="+failpoints,
			"OUVIRA_CONTROL_KEY_FILE="+w.ControlFile, "OUVIRA_DATA_PUBLIC_KEY_FILE="+w.PublicFile)
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = child.Process.Kill(); _ = child.Wait() })
		return child
	}
	for _, is := range began { // they were asked for without a queue
		if err := queueOf(t, w, queue, is); err != nil {
			t.Fatal(err)
		}
	}
	child := start(dir)
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
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	start(t.TempDir())
	restarted := time.Now()
	for _, is := range began {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		var last *operation.Operation
		err := w.store.Watch(ctx, is.op, func(o *operation.Operation) error { last = o; return nil })
		cancel()
		if err != nil || last.Status != operation.Succeeded {
			t.Fatalf("%v %+v", err, last)
		}
		is.check(t)
	}
	t.Logf("all %d operations ended %.1f s after the restart", len(began), time.Since(restarted).Seconds())
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
