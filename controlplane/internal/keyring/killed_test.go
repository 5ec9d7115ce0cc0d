//go:build failpoints

package keyring_test

import (
	"os"
	"testing"
	"time"

	"github.com/ouvira/ouvira/controlplane/internal/backup"
	"github.com/ouvira/ouvira/controlplane/internal/backup/storage"
	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/keyring"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/shared/seal"
)

// workerFiles tells the worker where the backups are.
const workerFiles = "OUVIRA_TEST_WORKER_FILES"

// TestWorkerProcess is the child of TestSec38KilledAtEachFailpoint.
func TestWorkerProcess(t *testing.T) {
	fleettest.BeWorker(t, func(w *fleettest.World) map[string]operation.Handler {
		files, err := storage.Open("file://" + os.Getenv(workerFiles))
		if err != nil {
			t.Fatal(err)
		}
		backups := backup.NewService(w.Pool, w.Store, w.Servers, w.Public, w.Keys.Control, backup.Options{Store: files, Log: w.Log})
		keys := keyring.NewService(w.Pool, w.Store, w.Keys.Control, w.Public, backups, w.Log)
		return map[string]operation.Handler{keyring.KindRotate: keys.Handler(nil)}
	})
}

// A rotation of the control key goes through workers that get kill -9, one in each of its
// steps, with values sealed anew and not committed. The last one ends it.
func TestSec38KilledAtEachFailpoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.UseQueue(t)
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
	for _, point := range keyring.Failpoints() {
		armed := fleettest.Arm(t, point)
		child := w.StartWorker(t, armed, workerFiles+"="+w.files)
		armed.Await(t, point)
		child.Kill(t)
		w.Bury(t, op)
	}
	w.StartWorker(t, fleettest.Arm(t), workerFiles+"="+w.files)
	if last := w.Ended(t, op, time.Minute); last.Status != operation.Succeeded {
		t.Fatalf("%+v", last)
	}
	w.allUnder(t, promoted)
	var key int64
	if err := w.Pool.QueryRow(t.Context(), "SELECT control_key FROM control.backups WHERE id = $1", archive).Scan(&key); err != nil || key != int64(w.first.Ring().Primary) {
		t.Errorf("the backup is written down to be under key %d: %v", key, err)
	}
}
