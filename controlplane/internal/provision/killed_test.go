//go:build failpoints

package provision_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/testdb"
)

// TestWorkerProcess is the child of TestKilledAtEachFailpoint.
func TestWorkerProcess(t *testing.T) {
	fleettest.BeWorker(t, func(w *fleettest.World) map[string]operation.Handler {
		return map[string]operation.Handler{
			provision.Kind: w.Provision, provision.KindRotate: w.Provision.Rotations(), provision.KindRotateKey: w.Provision.KeyRotations(),
		}
	})
}

// TestKilledAtEachFailpoint sends kill -9 to a worker process at each
// failpoint, of what makes a tenant and of what gives one another password or another
// signing key; the next one finishes within the promised time.
func TestKilledAtEachFailpoint(t *testing.T) {
	w := newWorld(t)
	w.UseQueue(t)
	pgServer := fleettest.TenantServer(t, testdb.System)
	w.AddServer(t, "a", pgServer.ProvisionerURL, 100)
	admin := testdb.Connect(t, pgServer.URL())

	type victim struct {
		point      string
		tenant, op uuid.UUID
	}
	var victims []victim
	kill := func(point string, ask func() (tenant, op uuid.UUID)) {
		t.Helper()
		armed := fleettest.Arm(t, point)
		child := w.StartWorker(t, armed)
		v := victim{point: point}
		v.tenant, v.op = ask()
		armed.Await(t, point)
		child.Kill(t)
		victims = append(victims, v)
	}
	for i, point := range provision.Failpoints() {
		kill(point, func() (tenant, op uuid.UUID) { return w.Ask(t, "kill-"+string(rune('a'+i)), provision.Params{}) })
	}
	before := map[uuid.UUID]secrets{}
	for i, point := range provision.RotationFailpoints() {
		tenant, made := w.Ask(t, "rotate-"+string(rune('a'+i)), provision.Params{})
		w.mustRun(t, made)
		before[tenant] = w.secrets(t, tenant)
		kill(point, func() (uuid.UUID, uuid.UUID) {
			op, err := pg.InTxValue(t.Context(), w.Pool, func(tx pgx.Tx) (uuid.UUID, error) {
				if strings.HasPrefix(point, "rotate_key/") {
					return w.Provision.RotateKey(t.Context(), tx, tenant, provision.KeyRotation{AtOnce: true}, "operator:test")
				}
				return w.Provision.Rotate(t.Context(), tx, tenant, "operator:test")
			})
			if err != nil {
				t.Fatal(err)
			}
			return tenant, op
		})
	}
	w.StartWorker(t, fleettest.Arm(t))
	restarted := time.Now()
	for _, v := range victims {
		if last := w.Ended(t, v.op, time.Until(restarted.Add(time.Minute))); last.Status != operation.Succeeded {
			t.Fatalf("%s: %+v", v.point, last)
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
	address, err := url.Parse(w.Login(t, tenant))
	if err != nil {
		t.Fatal(err)
	}
	s := secrets{signs: fleettest.One[string](t, w.Pool, "SELECT string_agg(k ->> 'kid', ' ') FROM control.tenants t, jsonb_array_elements(t.signing_keys) k WHERE t.id = $1", tenant)}
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
	if others := fleettest.One[int](t, conn, "SELECT count(*) FROM ouvira.signing_keys WHERE private_sealed <> ''"); others != 1 {
		t.Errorf("%d private keys are in the database", others)
	}
	return s
}
