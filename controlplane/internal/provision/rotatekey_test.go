package provision_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/testdb"
)

// keyed are two tenants, one of whom gets another key, and a node that follows when the
// test says so.
type keyed struct {
	*world

	acme, globex uuid.UUID
	inside       *pgx.Conn // acme's database
	super        *pgx.Conn // the control database, as the superuser
	keys         operation.Handler
}

func newKeyed(t *testing.T, version string) *keyed {
	t.Helper()
	w := &keyed{world: newWorld(t)}
	w.super = testdb.Connect(t, w.SuperuserURL)
	pgServer := fleettest.TenantServer(t, version)
	w.AddServer(t, "a", pgServer.ProvisionerURL, 100)
	for slug, id := range map[string]*uuid.UUID{"acme": &w.acme, "globex": &w.globex} {
		tenant, op := w.Ask(t, slug, provision.Params{})
		w.mustRun(t, op)
		*id = tenant
	}
	u, err := url.Parse(pgServer.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.Path = *w.made(t, w.acme).Database
	w.inside, w.keys = testdb.Connect(t, u.String()), w.Provision.KeyRotations()
	return w
}

func (w *keyed) do(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := w.super.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func (w *keyed) rotate(t *testing.T, r provision.KeyRotation) (op uuid.UUID) {
	t.Helper()
	err := pg.InTx(t.Context(), w.Pool, func(tx pgx.Tx) (err error) {
		op, err = w.Provision.RotateKey(t.Context(), tx, w.acme, r, "operator:test")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return op
}

// waits runs the operation until it waits, and expects that it does so for a reason.
func (w *keyed) waits(t *testing.T, op uuid.UUID, handler operation.Handler, code string) {
	t.Helper()
	runner := w.Runner(map[string]operation.Handler{provision.KindRotateKey: handler})
	if err := runner.Run(t.Context(), op); err != nil {
		t.Fatal(err)
	}
	switch o := w.Get(t, op); {
	case code == "" && o.Status != operation.Succeeded:
		t.Fatalf("the rotation is %s: %+v", o.Status, o.Error)
	case code != "" && (o.Status != operation.Queued || o.Error == nil || o.Error.Code != code):
		t.Fatalf("the rotation is %s: %+v, and should wait for %s", o.Status, o.Error, code)
	}
}

// pass lets an hour pass since the step.
func (w *keyed) pass(t *testing.T, op uuid.UUID, step string) {
	t.Helper()
	w.do(t, "UPDATE control.operation_steps SET finished_at = finished_at - interval '1 hour' WHERE operation_id = $1 AND name = $2", op, step)
}

// routed are the kids of a tenant, as nodes are told of them.
func (w *keyed) routed(t *testing.T, tenant uuid.UUID) (kids []string) {
	t.Helper()
	keys := fleettest.One[[]route.JWK](t, w.Pool, "SELECT signing_keys FROM node.routes_v1 WHERE tenant_id = $1", tenant)
	if row := w.made(t, tenant).Keys; len(keys) == 0 || !json.Valid(row) {
		t.Fatalf("the tenant has no keys: %s", row)
	}
	for _, key := range keys {
		kids = append(kids, key.Kid)
	}
	return kids
}

// opens tells whether a node can sign with the key: it has the private half.
func (w *keyed) opens(t *testing.T, kid string) bool {
	t.Helper()
	sealed := fleettest.One[[]byte](t, w.inside, "SELECT COALESCE((SELECT private_sealed FROM ouvira.signing_keys WHERE kid = $1 AND retired_at IS NULL), '')", kid)
	der, err := w.Data.Open(sealed, route.SigningKeyContext(w.acme, kid))
	if err != nil {
		return false
	}
	private, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		t.Fatal(err)
	}
	public, err := fleettest.One[route.JWK](t, w.inside, "SELECT public_jwk FROM ouvira.signing_keys WHERE kid = $1", kid).PublicKey()
	key, ok := private.(*ecdsa.PrivateKey)
	return err == nil && ok && key.PublicKey.Equal(public)
}

// A new key is believed by all nodes, and by those who keep the keys, before it signs; the
// one before counts until its last token has ended, and no other operation waits for that.
// Then its private half is gone, and the public one is there for the audit.
func TestSec38ASigningKeyIsBelievedBeforeItSigns(t *testing.T) {
	t.Parallel()
	fleettest.OnBoth(t, func(t *testing.T, version string) {
		w := newKeyed(t, version)
		neighbour, old := w.routed(t, w.globex), w.routed(t, w.acme)[0]
		w.do(t, "INSERT INTO control.members (id, kind, connection_share) VALUES ('one', 'node', NULL), ('gone', 'node', NULL), ('silent', 'node', NULL)")
		w.do(t, "INSERT INTO control.instances (id, member_id, kind, sequence, last_seen_at) VALUES ('aaaaaaaaaa', 'one', 'node', 1, now()), ('bbbbbbbbbb', 'silent', 'node', 1, now())")
		w.do(t, "UPDATE control.members SET last_seen_at = now() - interval '2 min' WHERE id = 'silent'")
		knows := func() {
			w.do(t, "UPDATE control.members SET route_version = (SELECT max(version) FROM control.routes), last_seen_at = now() WHERE id = 'one'")
		}
		knows()
		op := w.rotate(t, provision.KeyRotation{})

		w.waits(t, op, w.keys, "node_behind")
		announced := w.routed(t, w.acme)
		if len(announced) != 2 || announced[1] != old || !w.opens(t, announced[0]) || !w.opens(t, old) {
			t.Fatalf("announced: %v, before %s", announced, old)
		}
		fresh := announced[0]
		if err := w.Store.Idle(t.Context(), w.Pool, w.acme); err == nil {
			t.Error("others may work on the database already")
		}
		knows()
		w.waits(t, op, w.keys, "keys_kept")
		w.pass(t, op, "announce")
		w.waits(t, op, w.keys, "node_behind") // it signs, and not everybody knows yet
		if now := w.routed(t, w.acme); !slices.Equal(now, []string{old, fresh}) {
			t.Fatalf("signing: %v", now)
		}
		knows()
		w.waits(t, op, w.keys, "tokens_live")
		if err := w.Store.Idle(t.Context(), w.Pool, w.acme); err != nil {
			t.Errorf("nobody may work on the database while tokens end: %v", err)
		}
		w.do(t, "UPDATE control.operation_steps SET finished_at = now() - interval '58 min' WHERE operation_id = $1 AND name = 'sign'", op)
		w.do(t, "INSERT INTO control.operators (id, email, role, password_hash) VALUES ($1, 'ada@ouvira.example', 'owner', 'x')", w.globex)
		w.do(t, `
			INSERT INTO control.support_codes (id, tenant_id, operator_id, code_hash, reason, minutes, expires_at, redeemed_at)
			VALUES ($1, $2, $3, sha256('code'), 'help', 60, now(), now() - interval '59 min')`, uuid.New(), w.acme, w.globex)
		w.waits(t, op, w.keys, "tokens_live") // of support
		w.do(t, "UPDATE control.support_codes SET redeemed_at = redeemed_at - interval '2 min'")

		other := uuid.New()
		w.do(t, "INSERT INTO control.operations (id, kind, tenant_id, created_by, exclusive) VALUES ($1, 'tenant.move', $2, 'test', true)", other, w.acme)
		w.waits(t, op, w.keys, "operation_at_work")
		w.do(t, "UPDATE control.operations SET status = 'succeeded', finished_at = now() WHERE id = $1", other)
		told := fleettest.One[int64](t, w.Pool, "SELECT version FROM control.routes WHERE tenant_id = $1", w.acme)
		w.waits(t, op, w.keys, "")
		if now := w.routed(t, w.acme); !slices.Equal(now, []string{fresh}) || !w.opens(t, fresh) || w.opens(t, old) {
			t.Errorf("in the end: %v", now)
		}
		if fleettest.One[int64](t, w.Pool, "SELECT version FROM control.routes WHERE tenant_id = $1", w.acme) <= told {
			t.Error("nodes are not told")
		}
		if left := fleettest.One[string](t, w.inside, "SELECT string_agg(kid || length(private_sealed), ' ') FROM ouvira.signing_keys WHERE retired_at IS NOT NULL"); left != old+"0" {
			t.Errorf("retired in the database: %s", left)
		}
		if detail := fleettest.One[string](t, w.Pool, "SELECT detail::text FROM control.audit_log WHERE action = 'tenant.signing_key_retired'"); !strings.Contains(detail, old) || !strings.Contains(detail, fresh) {
			t.Errorf("the audit says %s", detail)
		}
		if now := w.routed(t, w.globex); !slices.Equal(now, neighbour) {
			t.Errorf("the neighbour has %v, had %v", now, neighbour)
		}
	})
}

// A run that dies after the work of a step, and before that was recorded, leaves it to one
// that does it again: there are two keys in the end, and not three.
func TestSec38ARotationOfAKeyDiesAfterEachStep(t *testing.T) {
	t.Parallel()
	w := newKeyed(t, testdb.System)
	for n, step := range []string{"announce", "sign", "retire"} {
		before, row := w.routed(t, w.acme), w.made(t, w.acme).Keys
		op := w.rotate(t, provision.KeyRotation{AtOnce: true})
		dying := &fleettest.Spy{Handler: w.keys}
		dying.After = func(ctx context.Context, name string) error {
			if name == step {
				return fleettest.Die(ctx, name)
			}
			return nil
		}
		runner := operation.NewRunner(w.Store, "dying", w.Log, map[string]operation.Handler{provision.KindRotateKey: dying})
		if err := runner.Run(t.Context(), op); err != nil {
			t.Fatal(err)
		}
		if step == "announce" { // or before it could be announced
			w.do(t, "UPDATE control.tenants SET signing_keys = $2 WHERE id = $1", w.acme, row)
		}
		w.Bury(t, op)
		w.waits(t, op, &fleettest.Spy{Handler: w.keys, Twice: true}, "")
		now := w.routed(t, w.acme)
		if len(now) != 1 || now[0] == before[0] || !w.opens(t, now[0]) || w.opens(t, before[0]) {
			t.Errorf("after %s the tenant has %v, had %v", step, now, before)
		}
		if keys := fleettest.One[int](t, w.inside, "SELECT count(*) FROM ouvira.signing_keys"); keys != n+2 {
			t.Errorf("after %s: %d keys", step, keys)
		}
	}
}

// A key that waits for its end, and turns out to have leaked: another rotation ends all of
// them, and the first finds nothing left to do. One that is asked for in vain says why.
func TestALeakedKeyDoesNotWaitForTheRotationBefore(t *testing.T) {
	t.Parallel()
	w := newKeyed(t, testdb.System)
	first := w.rotate(t, provision.KeyRotation{})
	w.waits(t, first, w.keys, "keys_kept")
	w.pass(t, first, "announce")
	w.waits(t, first, w.keys, "tokens_live")
	leaked := w.routed(t, w.acme)
	second := w.rotate(t, provision.KeyRotation{AtOnce: true})
	w.pass(t, first, "sign")
	w.waits(t, second, w.keys, "")
	now := w.routed(t, w.acme)
	if len(now) != 1 || slices.Contains(leaked, now[0]) {
		t.Errorf("the tenant has %v, had %v", now, leaked)
	}
	w.waits(t, first, w.keys, "")
	if after := w.routed(t, w.acme); !slices.Equal(after, now) || !w.opens(t, now[0]) {
		t.Errorf("the tenant has %v, had %v", after, now)
	}
	w.do(t, "UPDATE control.tenants SET status = 'deleted' WHERE id = $1", w.acme)
	late := w.rotate(t, provision.KeyRotation{})
	runner := w.Runner(map[string]operation.Handler{provision.KindRotateKey: w.keys})
	if err := runner.Run(t.Context(), late); err != nil {
		t.Fatal(err)
	}
	if o := w.Get(t, late); o.Status != operation.Failed || o.Error.Code != "not_served" {
		t.Errorf("a deleted tenant's rotation is %s: %+v", o.Status, o.Error)
	}
}
