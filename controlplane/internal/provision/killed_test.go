//go:build failpoints

package provision_test

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

	"github.com/ouvira/ouvira/controlplane/internal/job"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/seal"
	"github.com/ouvira/ouvira/shared/testdb"
)

// workerURL makes this test binary a worker on that control database.
const workerURL = "OUVIRA_TEST_WORKER_URL"

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
	pool, err := pg.Open(ctx, address, pg.Options{MaxConnections: 10})
	check(err)
	control, err := seal.LoadControlKey(os.Getenv("OUVIRA_CONTROL_KEY_FILE"))
	check(err)
	public, err := seal.LoadPublicKey(os.Getenv("OUVIRA_DATA_PUBLIC_KEY_FILE"))
	check(err)
	log := slog.New(slog.DiscardHandler)
	queue, err := job.NewInsertOnly(pool, log)
	check(err)
	store := operation.NewStore(pool, queue)
	servers := server.NewService(pool, control, log, server.Options{})
	rooms := provision.NewService(pool, store, servers, public, control, log, provision.Options{})
	runner := operation.NewRunner(store, "child", log, map[string]operation.Handler{provision.Kind: rooms})
	worker, err := job.NewWorker(pool, job.Config{Log: log, Runner: runner})
	check(err)
	check(worker.Run(ctx))
}

// TestKilledAtEachFailpoint sends kill -9 to a worker process at each
// failpoint; the next one finishes within the promised time.
func TestKilledAtEachFailpoint(t *testing.T) {
	w := newWorld(t)
	queue, err := job.NewInsertOnly(w.Pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.store = operation.NewStore(w.Pool, queue)
	w.provision = provision.NewService(w.Pool, w.store, w.servers, w.Public, w.Keys.Control, w.log, provision.Options{})
	pgServer := tenantServer(t, testdb.System)
	w.addServer(t, "a", pgServer.provisionerURL, 100)
	admin := testdb.Connect(t, pgServer.URL())

	start := func(failpoints string) *exec.Cmd {
		child := exec.Command(os.Args[0], "-test.run=^TestWorkerProcess$")
		child.Env = append(os.Environ(), workerURL+"="+w.URL, "OUVIRA_FAILPOINT_DIR="+failpoints,
			"OUVIRA_CONTROL_KEY_FILE="+w.ControlFile, "OUVIRA_DATA_PUBLIC_KEY_FILE="+w.PublicFile)
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = child.Process.Kill(); _ = child.Wait() })
		return child
	}
	type victim struct {
		point      string
		tenant, op uuid.UUID
	}
	var victims []victim
	for i, point := range provision.Failpoints() {
		dir := t.TempDir()
		armed := filepath.Join(dir, strings.ReplaceAll(point, "/", "."))
		if err := os.WriteFile(armed, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		child := start(dir)
		v := victim{point: point}
		v.tenant, v.op = w.tenant(t, "kill-"+string(rune('a'+i)), provision.Params{})
		for deadline := time.Now().Add(60 * time.Second); ; {
			if _, err := os.Stat(armed + ".hit"); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s was never hit", point)
			}
			<-time.After(10 * time.Millisecond)
		}
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = child.Wait()
		victims = append(victims, v)
	}
	start(t.TempDir())
	restarted := time.Now()
	for _, v := range victims {
		ctx, cancel := context.WithDeadline(t.Context(), restarted.Add(60*time.Second))
		var last *operation.Operation
		err := w.store.Watch(ctx, v.op, func(o *operation.Operation) error { last = o; return nil })
		cancel()
		if err != nil || last.Status != operation.Succeeded {
			t.Fatalf("%s: %v %+v", v.point, err, last)
		}
		t.Logf("%s: %.1f s after the restart", v.point, time.Since(restarted).Seconds())
		w.checkTenant(t, admin, v.tenant)
	}
}
