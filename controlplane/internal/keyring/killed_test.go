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

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/backup"
	"github.com/ouvira/ouvira/controlplane/internal/backup/storage"
	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/job"
	"github.com/ouvira/ouvira/controlplane/internal/keyring"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/controlplane/internal/tenant"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/seal"
	"github.com/ouvira/ouvira/shared/testdb"
)

const (
	// workerURL makes this test binary a worker on that control database.
	workerURL   = "OUVIRA_TEST_WORKER_URL"
	workerFiles = "OUVIRA_TEST_WORKER_FILES"
)

// TestWorkerProcess is the child of the tests that kill it.
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
	servers := server.NewService(pool, control, log, server.Options{})
	backups := backup.NewService(pool, store, servers, public, control, backup.Options{Store: files, Log: log})
	keys := keyring.NewService(pool, store, control, public, backups, log)
	provisioning := provision.NewService(pool, store, servers, public, control, log, provision.Options{})
	worker, err := job.NewWorker(pool, job.Config{Log: log, Runner: operation.NewRunner(store, "child", log, map[string]operation.Handler{
		keyring.KindRotate:   keys.Handler(&tenant.Service{DB: pool, Provision: provisioning}),
		provision.KindRotate: provisioning.Rotations(), provision.KindRotateKey: provisioning.KeyRotations(),
	})})
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
	for _, point := range keyring.Failpoints(keyring.Control) {
		killAt(t, w.World, w.files, point, func() {})
		w.Bury(t, op)
	}
	startWorker(t, w.World, w.files, t.TempDir())
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

func startWorker(t *testing.T, w *fleettest.World, files, failpoints string) *exec.Cmd {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^TestWorkerProcess$")
	child.Env = append(os.Environ(), workerURL+"="+w.URL, workerFiles+"="+files, "OUVIRA_FAILPOINT_DIR="+failpoints,
		"OUVIRA_CONTROL_KEY_FILE="+w.ControlFile, "OUVIRA_DATA_PUBLIC_KEY_FILE="+w.PublicFile)
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = child.Process.Kill(); _ = child.Wait() })
	return child
}

// killAt starts a worker, and kills it when it stands at the failpoint. Meanwhile others
// are at work.
func killAt(t *testing.T, w *fleettest.World, files, point string, meanwhile func()) {
	t.Helper()
	dir := t.TempDir()
	armed := filepath.Join(dir, strings.ReplaceAll(point, "/", "."))
	if err := os.WriteFile(armed, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	child := startWorker(t, w, files, dir)
	for deadline := time.Now().Add(time.Minute); ; {
		if _, err := os.Stat(armed + ".hit"); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s was never hit: %s", point, fleettest.One[string](t, w.Pool,
				"SELECT string_agg(concat_ws(' ', kind, status, error::text), '; ') FROM control.operations"))
		}
		meanwhile()
		<-time.After(10 * time.Millisecond)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
}

// A rotation of the data key goes through workers that get kill -9, one in each of its
// steps, when a tenant has just been asked to rotate, and while nodes seal anew. The last
// one ends it. Each tenant is asked once for each of its secrets, and the earlier key is
// not needed any more.
func TestSec38TheDataKeysRotationIsKilledAtEachFailpoint(t *testing.T) {
	t.Parallel()
	w := newDataWorld(t)
	queue, err := job.NewInsertOnly(w.Pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.Use(queue)
	w.exec(t, "UPDATE control.tenants SET status = 'active'")
	w.node(t, w.fresh)
	keys := keyring.NewService(w.Pool, w.Store, w.Keys.Control, w.public, nil, w.Log)
	if err := keys.Tell(t.Context(), "api"); err != nil {
		t.Fatal(err)
	}
	op, err := keys.Rotate(t.Context(), owner(), keyring.Data)
	if err != nil {
		t.Fatal(err)
	}
	files := t.TempDir()
	// Time passes, and other workers look into the databases.
	others := func() {
		w.exec(t, "UPDATE control.operations SET wake_at = now() WHERE status = 'queued' AND wake_at > now() + interval '3 seconds'")
		w.pass(t)
		if err := w.scan.Scan(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, point := range keyring.Failpoints(keyring.Data) {
		killAt(t, w.World, files, point, others)
		w.exec(t, "UPDATE control.operations SET lease_until = now() - interval '1 second' WHERE status = 'running'") // the dead one's
	}
	startWorker(t, w.World, files, t.TempDir())
	o := w.Get(t, op)
	for deadline := time.Now().Add(time.Minute); !o.Status.Finished() && time.Now().Before(deadline); o = w.Get(t, op) {
		others()
		w.nodeSeals(t, w.fresh)
		<-time.After(10 * time.Millisecond)
	}
	if o.Status != operation.Succeeded {
		t.Fatalf("the rotation is %s: %+v", o.Status, o.Error)
	}
	asked := "SELECT string_agg(DISTINCT n::text, ' ') FROM (SELECT count(*) AS n FROM control.operations WHERE kind LIKE 'tenant.rotate%' AND status = 'succeeded' GROUP BY kind, tenant_id) AS each"
	if got := fleettest.One[string](t, w.Pool, asked); got != "1" {
		t.Errorf("tenants were given something new %s times, want once", got)
	}
	w.exec(t, "UPDATE control.key_rings SET changed_at = now() - interval '20 minutes'")
	for _, id := range []uint32{w.old.OpeningRing().Primary, w.old.Ring().Primary} {
		if got, want := list(t, keys, keyring.Data, id), "opens: free"; got != want {
			t.Errorf("key %d %s, want %s", id, got, want)
		}
	}
	if err := (seal.KeyFiles{Secret: w.DataFile, Public: w.PublicFile}).Remove(w.old.Ring().Primary); err != nil {
		t.Fatal(err)
	}
	if w.Data, err = seal.LoadDataKey(w.DataFile); err != nil {
		t.Fatal(err)
	}
	for _, id := range []uuid.UUID{w.acme, w.globex} {
		testdb.Connect(t, w.Login(t, id))
	}
}
