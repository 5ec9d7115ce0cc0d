//go:build failpoints

package keyring_test

import (
	"context"
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
	"github.com/ouvira/ouvira/controlplane/internal/keyring"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/seal"
)

const (
	// workerURL makes this test binary a worker on that control database.
	workerURL   = "OUVIRA_TEST_WORKER_URL"
	workerFiles = "OUVIRA_TEST_WORKER_FILES"
)

// TestWorkerProcess is the child of TestSec38KilledAtEachFailpoint.
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
	pool, err := pg.Open(ctx, address, pg.Options{MaxConnections: 10})
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
	keys := keyring.NewService(pool, store, control, public, backups, log)
	worker, err := job.NewWorker(pool, job.Config{Log: log, Runner: operation.NewRunner(store, "child", log, map[string]operation.Handler{keyring.KindRotate: keys.Handler(nil)})})
	check(err)
	check(worker.Run(ctx))
}

// A rotation of the control key goes through workers that get kill -9, one in each of its
// steps, with values sealed anew and not committed. The last one ends it.
func TestSec38KilledAtEachFailpoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	queue, err := job.NewInsertOnly(w.Pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.Use(queue)
	archive := w.archived(t, w.Tenant(t, "acme"), true)
	file := seal.KeyFiles{Secret: w.ControlFile}
	if _, err := file.Add(); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Promote(); err != nil {
		t.Fatal(err)
	}
	promoted := load(t, w.ControlFile)
	w.lives(t, "api", promoted)
	op := w.rotate(t, w.keys(t, promoted))
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
	for _, point := range keyring.Failpoints() {
		dir := t.TempDir()
		armed := filepath.Join(dir, strings.ReplaceAll(point, "/", "."))
		if err := os.WriteFile(armed, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		child := start(dir)
		for deadline := time.Now().Add(time.Minute); ; {
			if _, err := os.Stat(armed + ".hit"); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s was never hit: %+v", point, w.Get(t, op))
			}
			<-time.After(10 * time.Millisecond)
		}
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = child.Wait()
		w.Bury(t, op)
	}
	start(t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var last *operation.Operation
	if err := w.Store.Watch(ctx, op, func(o *operation.Operation) error { last = o; return nil }); err != nil || last.Status != operation.Succeeded {
		t.Fatalf("%v %+v", err, last)
	}
	w.allUnder(t, promoted)
	var key int64
	if err := w.Pool.QueryRow(t.Context(), "SELECT control_key FROM control.backups WHERE id = $1", archive).Scan(&key); err != nil || key != int64(w.first.Ring().Primary) {
		t.Errorf("the backup is written down to be under key %d: %v", key, err)
	}
}
