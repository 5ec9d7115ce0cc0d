//go:build failpoints

package keyring_test

import (
	"os"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/backup"
	"github.com/ouvira/ouvira/controlplane/internal/backup/storage"
	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/keyring"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/controlplane/internal/tenant"
	"github.com/ouvira/ouvira/shared/seal"
	"github.com/ouvira/ouvira/shared/testdb"
)

// workerFiles tells the worker where the backups are.
const workerFiles = "OUVIRA_TEST_WORKER_FILES"

// TestWorkerProcess is the child of the tests that kill it.
func TestWorkerProcess(t *testing.T) {
	fleettest.BeWorker(t, func(w *fleettest.World) map[string]operation.Handler {
		files, err := storage.Open("file://" + os.Getenv(workerFiles))
		if err != nil {
			t.Fatal(err)
		}
		backups := backup.NewService(w.Pool, w.Store, w.Servers, w.Public, w.Keys.Control, backup.Options{Store: files, Log: w.Log})
		keys := keyring.NewService(w.Pool, w.Store, w.Keys.Control, w.Public, backups, w.Log)
		provisioning := provision.NewService(w.Pool, w.Store, w.Servers, w.Public, w.Keys.Control, w.Log, provision.Options{})
		return map[string]operation.Handler{
			keyring.KindRotate:   keys.Handler(&tenant.Service{DB: w.Pool, Provision: provisioning}),
			provision.KindRotate: provisioning.Rotations(), provision.KindRotateKey: provisioning.KeyRotations(),
		}
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
	for _, point := range keyring.Failpoints(keyring.Control) {
		killAt(t, w.World, workerFiles+"="+w.files, point)
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

// killAt starts a worker, and kills it when it stands at the failpoint. Meanwhile others
// are at work.
func killAt(t *testing.T, w *fleettest.World, files, point string, meanwhile ...func()) {
	t.Helper()
	armed := fleettest.Arm(t, point)
	child := w.StartWorker(t, armed, files)
	armed.Await(t, point, meanwhile...)
	child.Kill(t)
}

// A rotation of the data key goes through workers that get kill -9, one in each of its
// steps, when a tenant has just been asked to rotate, and while nodes seal anew. The last
// one ends it. Each tenant is asked once for each of its secrets, and the earlier key is
// not needed any more.
func TestSec38TheDataKeysRotationIsKilledAtEachFailpoint(t *testing.T) {
	t.Parallel()
	w := newDataWorld(t)
	w.UseQueue(t)
	w.Exec(t, "UPDATE control.tenants SET status = 'active'")
	w.node(t, w.fresh)
	keys := keyring.NewService(w.Pool, w.Store, w.Keys.Control, w.public, nil, w.Log)
	if err := keys.Tell(t.Context(), "api"); err != nil {
		t.Fatal(err)
	}
	op, err := keys.Rotate(t.Context(), owner(), keyring.Data)
	if err != nil {
		t.Fatal(err)
	}
	files := workerFiles + "=" + t.TempDir()
	// Time passes, and other workers look into the databases.
	others := func() {
		w.Exec(t, "UPDATE control.operations SET wake_at = now() WHERE status = 'queued' AND wake_at > now() + interval '3 seconds'")
		w.pass(t)
		if err := w.scan.Scan(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, point := range keyring.Failpoints(keyring.Data) {
		killAt(t, w.World, files, point, others)
		w.Exec(t, "UPDATE control.operations SET lease_until = now() - interval '1 second' WHERE status = 'running'") // the dead one's
	}
	w.StartWorker(t, fleettest.Arm(t), files)
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
	w.Exec(t, "UPDATE control.key_rings SET changed_at = now() - interval '20 minutes'")
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
