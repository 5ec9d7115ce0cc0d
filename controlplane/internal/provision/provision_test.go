package provision_test

import (
	"testing"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/testdb"
)

// TestSignupBecomesATenant walks one sign-up from the waiting row to a routed,
// seeded database.
func TestSignupBecomesATenant(t *testing.T) {
	t.Parallel()
	fleettest.OnBoth(t, func(t *testing.T, version string) {
		w := newWorld(t)
		w.AddServer(t, "a", fleettest.TenantServer(t, version).ProvisionerURL, 100)
		signup := w.signup(t, "initech")
		tenant, op := w.Ask(t, "initech", provision.Params{SignupID: signup})
		if w.Waker.Woken[op] != 1 {
			t.Errorf("the operation was woken %d times on enqueue", w.Waker.Woken[op])
		}
		if o := w.Get(t, op); o.Status != operation.Queued || len(o.Steps) != len(provision.Steps()) || o.Progress != 0 {
			t.Errorf("before it runs: %+v", o)
		}
		w.mustRun(t, op)

		m := w.made(t, tenant)
		latest, err := migrations.Tenant.Latest()
		if err != nil {
			t.Fatal(err)
		}
		if m.Status != "active" || m.SchemaVersion != int64(latest) {
			t.Errorf("tenant: %+v", m)
		}
		if *m.Database != tenantdb.Name(tenant, 1) {
			t.Errorf("database %s", *m.Database)
		}
		if status := fleettest.One[string](t, w.Pool, "SELECT status FROM control.signups WHERE id = $1 AND password_hash IS NULL", signup); status != "active" {
			t.Errorf("the sign-up is %s", status)
		}
		if n := fleettest.One[int](t, w.Pool, "SELECT count(*) FROM control.events WHERE tenant_id = $1 AND type = 'tenant.activated'", tenant); n != 1 {
			t.Errorf("%d events", n)
		}
		if n := fleettest.One[int](t, w.Pool, "SELECT count(*) FROM control.audit_log WHERE tenant_id = $1 AND action = 'tenant.activate'", tenant); n != 1 {
			t.Errorf("%d audit rows", n)
		}
		if len(w.Activated) != 1 || w.Activated[0].SignupID != signup || w.Activated[0].Owner.Email != "bill@initech.example" {
			t.Errorf("the hook saw %+v", w.Activated)
		}
		if n := fleettest.One[int](t, w.Pool, "SELECT count(*) FROM node.routes_v1 WHERE tenant_id = $1 AND version > 0 AND NOT deleted", tenant); n != 1 {
			t.Errorf("%d routes", n)
		}

		// As a node would: with the opened credential, as the tenant's role.
		conn := testdb.Connect(t, w.Login(t, tenant))
		if got := fleettest.One[uuid.UUID](t, conn, "SELECT tenant_id FROM ouvira.marker WHERE incarnation = 1"); got != tenant {
			t.Errorf("marker of %s", got)
		}
		if got := fleettest.One[string](t, conn, "SELECT email FROM public.users WHERE password_hash = '$argon2id$hash' AND email_verified"); got != "bill@initech.example" {
			t.Errorf("owner %s", got)
		}
		if got := fleettest.One[string](t, conn, "SELECT name FROM public.companies"); got != "Initech GmbH" {
			t.Errorf("company %s", got)
		}
		var kid string
		var sealed []byte
		if err := conn.QueryRow(t.Context(), "SELECT kid, private_sealed FROM ouvira.signing_keys").Scan(&kid, &sealed); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Data.Open(sealed, route.SigningKeyContext(tenant, kid)); err != nil {
			t.Errorf("the node cannot open the signing key: %v", err)
		}
		if got := fleettest.One[string](t, w.Pool, "SELECT signing_keys -> 0 ->> 'kid' FROM control.tenants WHERE id = $1", tenant); got != kid {
			t.Errorf("the route carries key %s, the database %s", got, kid)
		}
	})
}
