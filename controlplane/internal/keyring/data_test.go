package keyring_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/keyring"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/controlplane/internal/reconcile"
	"github.com/ouvira/ouvira/controlplane/internal/tenant"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/seal"
	"github.com/ouvira/ouvira/shared/testdb"
)

// dataWorld is a fleet whose data key is being rotated: the files have the new one, which
// seals, and the control plane works with it.
type dataWorld struct {
	*fleettest.World

	old, fresh   *seal.DataKey
	public       *seal.PublicKey
	keys         *keyring.Service
	scan         *reconcile.Service
	runner       *operation.Runner
	acme, globex uuid.UUID
}

func newDataWorld(t *testing.T) *dataWorld {
	t.Helper()
	w := &dataWorld{World: fleettest.New(t)}
	w.AddServer(t, "a", fleettest.TenantServer(t, testdb.System).ProvisionerURL, 10)
	w.old = w.Data
	w.acme, w.globex = w.Tenant(t, "acme"), w.Tenant(t, "globex")
	for _, id := range []uuid.UUID{w.acme, w.globex} {
		w.secret(t, id, w.old)
	}
	w.Exec(t, "UPDATE control.tenants SET status = 'suspended' WHERE id = $1", w.globex)
	files := seal.KeyFiles{Secret: w.DataFile, Public: w.PublicFile}
	_, err := files.Add()
	if err == nil {
		_, err = files.Promote()
	}
	if err == nil {
		w.fresh, err = seal.LoadDataKey(w.DataFile)
	}
	if err == nil {
		w.public, err = seal.LoadPublicKey(w.PublicFile)
	}
	if err != nil {
		t.Fatal(err, filepath.Base(w.DataFile))
	}
	provisioning := provision.NewService(w.Pool, w.Store, w.Servers, w.public, w.Keys.Control, w.Log, provision.Options{})
	w.keys = keyring.NewService(w.Pool, w.Store, w.Keys.Control, w.public, nil, w.Log)
	w.scan = reconcile.NewService(w.Pool, w.Servers, w.Log)
	w.runner = w.Runner(map[string]operation.Handler{
		keyring.KindRotate:   w.keys.Handler(&tenant.Service{DB: w.Pool, Provision: provisioning}),
		provision.KindRotate: provisioning.Rotations(), provision.KindRotateKey: provisioning.KeyRotations(),
	})
	return w
}

// database connects to the tenant's, as the superuser.
func (w *dataWorld) database(t *testing.T, id uuid.UUID) *pgx.Conn {
	t.Helper()
	return testdb.Connect(t, fleettest.TenantServer(t, testdb.System).DatabaseURL(tenantdb.Name(id, 1)))
}

// secret gives the owner a second factor that the key has sealed, as a node does.
func (w *dataWorld) secret(t *testing.T, id uuid.UUID, key *seal.DataKey) {
	t.Helper()
	sealed, err := key.Seal([]byte("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	conn := w.database(t, id)
	tag, err := conn.Exec(t.Context(), "UPDATE public.two_factors SET secret_sealed = $1", sealed)
	if err == nil && tag.RowsAffected() == 0 {
		_, err = conn.Exec(t.Context(), "INSERT INTO public.two_factors (user_id, method, secret_sealed) SELECT min(id), 'totp', $1 FROM public.users", sealed)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// node is one that lives, and has the key; it seals what it is given.
func (w *dataWorld) node(t *testing.T, key *seal.DataKey) {
	t.Helper()
	w.Exec(t, `INSERT INTO control.members (id, kind, static_until, last_seen_at, route_version) VALUES ('node', 'node', now() + interval '1 hour', now() + interval '1 hour', 1000000)
		ON CONFLICT (id) DO NOTHING`)
	w.Exec(t, "SELECT node.report_keys('node', $1)", map[string]seal.Ring{"credentials": key.OpeningRing(), "nodes": key.Ring()})
}

func (w *dataWorld) nodeSeals(t *testing.T, key *seal.DataKey) (tenants []uuid.UUID) {
	t.Helper()
	conn := testdb.Connect(t, w.NodeURL)
	rows, err := conn.Query(t.Context(), "SELECT node.take_resealing($1, 5)", key.Ring().Primary)
	if err == nil {
		tenants, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range tenants {
		w.secret(t, id, key)
		if _, err := conn.Exec(t.Context(), "SELECT node.resealed($1)", id); err != nil {
			t.Fatal(err)
		}
	}
	return tenants
}

// pass lets what waits for tokens and gateways have waited for long.
func (w *dataWorld) pass(t *testing.T) {
	t.Helper()
	w.Exec(t, "UPDATE control.operation_steps SET finished_at = finished_at - interval '1 hour' WHERE name IN ('announce', 'sign') AND finished_at IS NOT NULL")
}

// round is what workers do in a while: all operations, and looks into the databases.
func (w *dataWorld) round(t *testing.T) {
	t.Helper()
	w.pass(t)
	list, err := w.Store.List(t.Context(), operation.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range list {
		if !o.Status.Finished() {
			w.Run(t, w.runner, o.ID)
		}
	}
	if err := w.scan.Scan(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// The data key is rotated: every tenant gets another password and another signing key,
// suspended ones too, what is kept ready is replaced, and nodes seal second factors anew.
// Those of who is suspended keep the old key needed.
func TestSec38TheDataKeyIsRotated(t *testing.T) {
	t.Parallel()
	w := newDataWorld(t)
	w.Exec(t, `INSERT INTO control.warm_databases (id, server_id, plan_id, database_name, status, fingerprint, schema_version, max_connections, credential)
		SELECT gen_random_uuid(), server_id, plan_id, 'ov_ready', 'ready', 'now', 1, 10, credential FROM control.tenants WHERE id = $1`, w.acme)
	w.node(t, w.old)
	if err := w.keys.Tell(t.Context(), "api"); err != nil {
		t.Fatal(err)
	}
	op, err := w.keys.Rotate(t.Context(), owner(), keyring.Data)
	if err != nil {
		t.Fatal(err)
	}
	if o := w.Run(t, w.runner, op); o.Error == nil || o.Error.Code != "key_unknown" || !strings.Contains(o.Error.Message, "Process node") {
		t.Fatalf("a node without the key: %+v", o.Error)
	}
	w.node(t, w.fresh)
	passwords := map[uuid.UUID]string{}
	w.Data = w.fresh
	for _, id := range []uuid.UUID{w.acme, w.globex} {
		passwords[id] = w.Login(t, id)
	}
	sealedByNode := map[uuid.UUID]bool{}
	warm := false
	o := w.Get(t, op)
	for n := 0; !o.Status.Finished(); n++ {
		if n == 30 {
			t.Fatalf("the rotation does not end: %+v", o)
		}
		w.round(t)
		for _, id := range w.nodeSeals(t, w.fresh) {
			sealedByNode[id] = true
		}
		if !warm && fleettest.One[int](t, w.Pool, "SELECT count(*) FROM control.warm_databases WHERE fingerprint = ''") == 1 {
			warm = true
			w.Exec(t, "DELETE FROM control.warm_databases")
		}
		o = w.Get(t, op)
	}
	if o.Status != operation.Succeeded || !warm {
		t.Fatalf("%s %+v, what is kept ready is put aside: %t", o.Status, o.Error, warm)
	}
	if len(sealedByNode) != 1 || !sealedByNode[w.acme] {
		t.Errorf("nodes have sealed secrets anew of %v, want acme alone", sealedByNode)
	}
	credentials, own := w.old.OpeningRing().Primary, w.old.Ring().Primary
	w.Exec(t, "UPDATE control.key_rings SET changed_at = now() - interval '20 minutes'")
	both := func(want string) { // they are one key, and removed together
		t.Helper()
		if got := list(t, w.keys, keyring.Data, credentials); got != want {
			t.Errorf("what credentials were sealed to: %s, want %s", got, want)
		}
		if got := list(t, w.keys, keyring.Data, own); got != want {
			t.Errorf("what nodes have sealed with: %s, want %s", got, want)
		}
	}
	both("opens: 1 secrets")
	w.secret(t, w.globex, w.fresh)
	w.Exec(t, "UPDATE control.database_looks SET due_at = now()")
	w.round(t)
	both("opens: free")
	files := seal.KeyFiles{Secret: w.DataFile, Public: w.PublicFile}
	if err := files.Remove(credentials); err != nil {
		t.Fatal(err)
	}
	if w.Data, err = seal.LoadDataKey(w.DataFile); err != nil {
		t.Fatal(err)
	}
	for id, before := range passwords {
		if now := w.Login(t, id); now == before {
			t.Error("a tenant has the password that it had before")
		}
	}
	testdb.Connect(t, w.Login(t, w.acme))

	// A value under a key that nobody has is named.
	w.node(t, w.Data)
	w.Exec(t, "UPDATE control.database_looks SET secrets = secrets || 4711::bigint WHERE tenant_id = $1", w.acme)
	if got, want := list(t, w.keys, keyring.Data, 4711), "missing: 1 secrets"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// A node that did not seal with the new key yet has sealed a second factor, when a worker
// had looked into the database for the rotation, which waits for that node: the database
// is looked at again.
func TestSec38WhatANodeSealsMeanwhileIsFound(t *testing.T) {
	t.Parallel()
	w := newDataWorld(t)
	conn := w.database(t, w.acme)
	for _, sql := range []string{"DELETE FROM public.two_factors", "UPDATE ouvira.signing_keys SET private_sealed = ''"} { // nothing else needs a look
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	w.node(t, w.old)
	if err := w.keys.Tell(t.Context(), "api"); err != nil {
		t.Fatal(err)
	}
	op, err := w.keys.Rotate(t.Context(), owner(), keyring.Data)
	if err != nil {
		t.Fatal(err)
	}
	w.round(t)
	if n := fleettest.One[int](t, w.Pool, "SELECT count(*) FROM control.database_looks WHERE looked_at IS NOT NULL AND secrets = '{}'"); n != 1 {
		t.Fatalf("%d databases have no secrets", n)
	}
	w.secret(t, w.acme, w.old)
	w.node(t, w.fresh)
	sealed := false
	for n := 0; !w.Get(t, op).Status.Finished(); n++ {
		if n == 30 {
			t.Fatalf("the rotation does not end: %+v", w.Get(t, op))
		}
		w.round(t)
		sealed = len(w.nodeSeals(t, w.fresh)) > 0 || sealed
	}
	if !sealed {
		t.Error("the rotation has ended, and a second factor is under the earlier key")
	}
}
