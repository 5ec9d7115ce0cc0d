package reconcile_test

import (
	"net/url"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/reconcile"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/testdb"
)

// adopt has a database taken in, and tells by which code that failed.
func (f *fleet) adopt(t *testing.T, a reconcile.Adoption) (code string) {
	t.Helper()
	id, err := f.adopter.Adopt(t.Context(), keeper, "a", a)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.runner.Run(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	o, err := f.store.Get(t.Context(), id)
	switch {
	case err != nil:
		t.Fatal(err)
	case o.Status == operation.Succeeded:
		return ""
	case o.Error == nil:
		return string(o.Status)
	}
	return o.Error.Code
}

// logsIn connects as a node does, by the route.
func (f *fleet) logsIn(t *testing.T, id uuid.UUID, incarnation int) {
	t.Helper()
	var credential []byte
	var database string
	err := f.control.Pool.QueryRow(t.Context(), "SELECT credential, database_name FROM node.routes_v1 WHERE tenant_id = $1 AND status = 'active'", id).Scan(&credential, &database)
	if err != nil {
		t.Fatal(err)
	}
	password, err := f.keys.Data.Open(credential, route.CredentialContext(id, incarnation))
	if err != nil {
		t.Fatal(err)
	}
	address, err := url.Parse(f.pgServer.DatabaseURL(database))
	if err != nil {
		t.Fatal(err)
	}
	address.User = url.UserPassword(database, string(password))
	conn := testdb.Connect(t, address.String())
	var users int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM public.users").Scan(&users); err != nil || users != 1 {
		t.Errorf("%d users, %v", users, err)
	}
	_ = conn.Close(t.Context())
}

// The control database is lost, and the servers hold all tenants: the doctor names them,
// and each is taken in with a new password. What is not marked as ours is not.
func TestTenantsThatTheControlDatabaseLostAreAdopted(t *testing.T) {
	t.Parallel()
	f := newFleet(t, testdb.System)
	a, b := tenantdb.Name(f.a, 1), tenantdb.Name(f.b, 1)
	f.exec(t, "postgres", "REVOKE ouvira_app FROM "+b+"; ALTER ROLE "+b+" NOLOGIN CONNECTION LIMIT 0") // it was suspended
	f.exec(t, "postgres", "CREATE DATABASE ov_00000000000000000000")
	f.exec(t, "postgres", "COMMENT ON DATABASE ov_00000000000000000000 IS '"+f.a.String()+"/7'")
	f.furnish(t) // with nothing in it
	want := []string{"orphan_database ov_00000000000000000000", "tenant_unknown " + a, "tenant_unknown " + b}
	found := f.found(t)
	slices.Sort(found)
	slices.Sort(want)
	if !slices.Equal(found, want) {
		t.Fatalf("found %v, want %v", found, want)
	}
	if _, err := f.adopter.Adopt(t.Context(), keeper, "a", reconcile.Adoption{Tenant: f.a}); !fault.Is(err, fault.KindInvalid) {
		t.Errorf("without a slug: %v", err)
	}
	if code := f.adopt(t, reconcile.Adoption{Tenant: uuid.New(), Slug: "nobody"}); code != "nothing_to_adopt" {
		t.Errorf("a tenant of which there is nothing: %q", code)
	}
	f.exec(t, a, "UPDATE ouvira.marker SET tenant_id = '"+f.b.String()+"'")
	if code := f.adopt(t, reconcile.Adoption{Tenant: f.a, Slug: "acme"}); code != "marker_foreign" {
		t.Errorf("a database with another's marker: %q", code)
	}
	f.exec(t, a, "UPDATE ouvira.marker SET tenant_id = '"+f.a.String()+"'; CREATE FOREIGN DATA WRAPPER evil")
	if code := f.adopt(t, reconcile.Adoption{Tenant: f.a, Slug: "acme"}); code != "foreign_code" {
		t.Errorf("a database with a foreign data wrapper: %q", code)
	}
	f.exec(t, a, "DROP FOREIGN DATA WRAPPER evil")
	for slug, id := range map[string]uuid.UUID{"acme": f.a, "globex": f.b} {
		if code := f.adopt(t, reconcile.Adoption{Tenant: id, Slug: slug}); code != "" {
			t.Errorf("%s: %s", slug, code)
		}
	}
	if found := f.found(t); !slices.Equal(found, []string{"orphan_database ov_00000000000000000000"}) {
		t.Errorf("%v", found)
	}
	f.logsIn(t, f.a, 1)
	var status string
	var epoch int64
	if err := f.control.Pool.QueryRow(t.Context(), "SELECT status, token_epoch FROM control.tenants WHERE id = $1", f.b).Scan(&status, &epoch); err != nil || status != "suspended" || epoch < 1_000_000_000 {
		t.Errorf("the tenant that was fenced is %s, its tokens of epoch %d count: %v", status, epoch, err)
	}
	if _, err := f.adopter.Adopt(t.Context(), keeper, "a", reconcile.Adoption{Tenant: f.a, Slug: "other"}); !fault.Is(err, fault.KindConflict) {
		t.Errorf("a tenant that is known, with a slug: %v", err)
	}
}

// The control database was restored from before a move: the tenant's later database is
// taken in when the earlier one serves no more, and not before.
func TestALaterDatabaseThanTheKnownOneIsAdopted(t *testing.T) {
	t.Parallel()
	f := newFleet(t, testdb.System)
	servers, err := f.servers.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	work := tenantdb.On(f.servers, servers[0].ID, nil)
	earlier, later := tenantdb.Database{Tenant: f.a, Incarnation: 1}, tenantdb.Database{Tenant: f.a, Incarnation: 2}
	f.exec(t, "postgres", "CREATE DATABASE "+later.Name()+" OWNER ouvira_owner TEMPLATE "+earlier.Name())
	f.exec(t, "postgres", "COMMENT ON DATABASE "+later.Name()+" IS '"+later.Mark()+"'")
	f.exec(t, later.Name(), "UPDATE ouvira.marker SET incarnation = 2")
	if found := f.found(t); !slices.Equal(found, []string{"tenant_elsewhere " + later.Name()}) {
		t.Errorf("%v", found)
	}
	if code := f.adopt(t, reconcile.Adoption{Tenant: f.a}); code != "database_serves" {
		t.Errorf("while the known one serves: %q", code)
	}
	f.logsIn(t, f.a, 1)
	if err := work.Fence(t.Context(), earlier); err != nil {
		t.Fatal(err)
	}
	work.Close()
	if code := f.adopt(t, reconcile.Adoption{Tenant: f.a}); code != "" {
		t.Errorf("%s", code)
	}
	f.logsIn(t, f.a, 2)
}
