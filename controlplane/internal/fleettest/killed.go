//go:build failpoints

package fleettest

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

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/controltest"
	"github.com/ouvira/ouvira/controlplane/internal/job"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/replay"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/seal"
)

// Armed is a directory of failpoints at which whoever comes first stands still; see
// package failpoint.
type Armed string

// Arm arms the failpoints; none: whoever has the directory stops nowhere.
func Arm(t testing.TB, points ...string) Armed {
	t.Helper()
	a := Armed(t.TempDir())
	for _, point := range points {
		if err := os.WriteFile(a.file(point), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

func (a Armed) file(point string) string {
	return filepath.Join(string(a), strings.ReplaceAll(point, "/", "."))
}

// Await waits until somebody stands at the failpoint. Meanwhile others are at work.
func (a Armed) Await(t testing.TB, point string, meanwhile ...func()) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); ; {
		if _, err := os.Stat(a.file(point) + ".hit"); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s was never hit", point)
		}
		for _, work := range meanwhile {
			work()
		}
		<-time.After(10 * time.Millisecond)
	}
}

// Release lets the one who stands at the failpoint go on.
func (a Armed) Release(t testing.TB, point string) {
	t.Helper()
	if err := os.Remove(a.file(point) + ".hit"); err != nil {
		t.Fatal(err)
	}
}

const (
	// workerURL makes a test binary a worker on that control database.
	workerURL = "OUVIRA_TEST_WORKER_URL"
	// atOnce is how many operations a worker runs of those that take long: as many as
	// stand still.
	atOnce = 40
)

// Worker is a process of its own that runs operations, to be killed.
type Worker struct{ command *exec.Cmd }

// StartWorker starts this test binary again as a worker that stops at the armed
// failpoints. Its package must have a TestWorkerProcess that calls BeWorker.
func (w *World) StartWorker(t testing.TB, armed Armed, environment ...string) *Worker {
	t.Helper()
	command := exec.Command(os.Args[0], "-test.run=^TestWorkerProcess$")
	command.Env = append(os.Environ(), workerURL+"="+w.URL, "OUVIRA_FAILPOINT_DIR="+string(armed),
		"OUVIRA_CONTROL_KEY_FILE="+w.ControlFile, "OUVIRA_DATA_PUBLIC_KEY_FILE="+w.PublicFile)
	command.Env = append(command.Env, environment...)
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = command.Process.Kill(); _ = command.Wait() })
	return &Worker{command: command}
}

// Kill is kill -9; the process is gone when it returns.
func (w *Worker) Kill(t testing.TB) {
	t.Helper()
	if err := w.command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = w.command.Wait()
}

// BeWorker runs operations in a process that StartWorker has started, until it gets
// killed. In an ordinary run it does nothing.
func BeWorker(t *testing.T, handlers func(w *World) map[string]operation.Handler) {
	t.Helper()
	address := os.Getenv(workerURL)
	if address == "" {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	pool, err := pg.Open(ctx, address, pg.Options{MaxConnections: 20})
	check(err)
	defer pool.Close()
	w := &World{Control: controltest.Control{Pool: pool, URL: address}, Log: slog.New(slog.DiscardHandler)}
	w.Keys.Control, err = seal.LoadControlKey(os.Getenv("OUVIRA_CONTROL_KEY_FILE"))
	check(err)
	w.Public, err = seal.LoadPublicKey(os.Getenv("OUVIRA_DATA_PUBLIC_KEY_FILE"))
	check(err)
	w.Servers = server.NewService(replay.DB{Pool: pool}, w.Keys.Control, w.Log, server.Options{})
	w.UseQueue(t)
	runner := operation.NewRunner(w.Store, "child", w.Log, handlers(w))
	worker, err := job.NewWorker(pool, job.Config{Log: w.Log, Runner: runner, Long: atOnce})
	check(err)
	check(worker.Run(ctx))
}

// Ended waits for the end of an operation that a worker runs.
func (w *World) Ended(t testing.TB, op uuid.UUID, within time.Duration) *operation.Operation {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	var last *operation.Operation
	if err := w.Store.Watch(ctx, op, func(o *operation.Operation) error { last = o; return nil }); err != nil {
		t.Fatalf("%v %+v", err, last)
	}
	return last
}
