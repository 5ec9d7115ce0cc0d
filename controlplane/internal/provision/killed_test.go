//go:build failpoints

package provision_test

import (
	"context"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/job"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
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
	runner := operation.NewRunner(store, "child", log, map[string]operation.Handler{
		provision.Kind: rooms, provision.KindRotate: rooms.Rotations(), provision.KindRotateKey: rooms.KeyRotations(),
	})
	worker, err := job.NewWorker(pool, job.Config{Log: log, Runner: runner})
	check(err)
	check(worker.Run(ctx))
}

// TestKilledAtEachFailpoint sends kill -9 to a worker process at each
// failpoint, of what makes a tenant and of what gives one another password or another
// signing key; the next one finishes within the promised time.
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
	kill := func(point string, ask func() (tenant, op uuid.UUID)) {
		t.Helper()
		dir := t.TempDir()
		armed := filepath.Join(dir, strings.ReplaceAll(point, "/", "."))
		if err := os.WriteFile(armed, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		child := start(dir)
		v := victim{point: point}
		v.tenant, v.op = ask()
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
	for i, point := range provision.Failpoints() {
		kill(point, func() (tenant, op uuid.UUID) { return w.tenant(t, "kill-"+string(rune('a'+i)), provision.Params{}) })
	}
	before := map[uuid.UUID]secrets{}
	for i, point := range provision.RotationFailpoints() {
		tenant, made := w.tenant(t, "rotate-"+string(rune('a'+i)), provision.Params{})
		w.mustRun(t, made)
		before[tenant] = w.secrets(t, tenant)
		kill(point, func() (uuid.UUID, uuid.UUID) {
			op, err := pg.InTxValue(t.Context(), w.Pool, func(tx pgx.Tx) (uuid.UUID, error) {
				if strings.HasPrefix(point, "rotate_key/") {
					return w.provision.RotateKey(t.Context(), tx, tenant, provision.KeyRotation{AtOnce: true}, "operator:test")
				}
				return w.provision.Rotate(t.Context(), tx, tenant, "operator:test")
			})
			if err != nil {
				t.Fatal(err)
			}
			return tenant, op
		})
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
		was, rotated := before[v.tenant]
		if !rotated {
			w.checkTenant(t, admin, v.tenant)
		} else {
			is := w.secrets(t, v.tenant)
			if strings.HasPrefix(v.point, "rotate_key/") == (is.signs == was.signs) || (v.point == "rotate/password") == (is.password == was.password) {
				t.Errorf("%s: the secrets are not those that were asked for", v.point)
			}
		}
	}
}

// secrets of a tenant, with which nodes get into its database, and sign.
type secrets struct{ password, signs string }

// secrets opens them as a node does: there is one key that signs, and its private half is
// the only one in the database.
func (w *world) secrets(t *testing.T, tenant uuid.UUID) secrets {
	t.Helper()
	address, err := url.Parse(w.login(t, tenant, ""))
	if err != nil {
		t.Fatal(err)
	}
	s := secrets{signs: one[string](t, w.Pool, "SELECT string_agg(k ->> 'kid', ' ') FROM control.tenants t, jsonb_array_elements(t.signing_keys) k WHERE t.id = $1", tenant)}
	s.password, _ = address.User.Password()
	conn := testdb.Connect(t, address.String())
	var kid string
	var private []byte
	if err := conn.QueryRow(t.Context(), "SELECT kid, private_sealed FROM ouvira.signing_keys WHERE private_sealed <> ''").Scan(&kid, &private); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Data.Open(private, route.SigningKeyContext(tenant, kid)); err != nil || kid != s.signs {
		t.Errorf("the route says %q signs, the database has %q: %v", s.signs, kid, err)
	}
	if others := one[int](t, conn, "SELECT count(*) FROM ouvira.signing_keys WHERE private_sealed <> ''"); others != 1 {
		t.Errorf("%d private keys are in the database", others)
	}
	return s
}
