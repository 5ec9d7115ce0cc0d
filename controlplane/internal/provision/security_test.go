package provision_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/seal"
	"github.com/ouvira/ouvira/shared/testdb"
)

// twoTenants provisions acme and globex on one server.
func (w *world) twoTenants(t *testing.T, version string) (a, b uuid.UUID) {
	t.Helper()
	w.AddServer(t, "a", fleettest.TenantServer(t, version).ProvisionerURL, 100)
	a, opA := w.Ask(t, "acme", provision.Params{})
	b, opB := w.Ask(t, "globex", provision.Params{})
	w.mustRun(t, opA)
	w.mustRun(t, opB)
	return a, b
}

// TestSec37 reads all that the control database holds, with the control key in
// hand: no tenant's credential opens, and a ciphertext that was swapped with
// another's does not open even for a node.
func TestSec37ControlDatabaseAndKeyOpenNoTenant(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.twoTenants(t, testdb.System)
	rowA, rowB := w.made(t, a), w.made(t, b)

	contexts := func(tenant uuid.UUID) [][]byte {
		return [][]byte{
			nil, route.CredentialContext(tenant, 1), []byte("server-credential/" + rowA.Server.String()),
			[]byte("tenant-credential/" + tenant.String()), []byte(tenant.String()),
		}
	}
	for _, c := range contexts(a) {
		if _, err := w.Keys.Control.Unseal(rowA.Credential, c); !errors.Is(err, seal.ErrOpen) {
			t.Errorf("the control key opened a tenant's credential in context %q: %v", c, err)
		}
	}
	password, err := w.Data.Open(rowA.Credential, route.CredentialContext(a, 1))
	if err != nil {
		t.Fatal(err)
	}
	for name, attempt := range map[string]struct {
		sealed []byte
		tenant uuid.UUID
		of     int
	}{
		"another tenant's":      {rowB.Credential, a, 1},
		"another incarnation's": {rowA.Credential, a, 2},
	} {
		if _, err := w.Data.Open(attempt.sealed, route.CredentialContext(attempt.tenant, attempt.of)); !errors.Is(err, seal.ErrOpen) {
			t.Errorf("%s ciphertext opened: %v", name, err)
		}
	}

	// No secret is anywhere in the dump: neither the tenant's password nor the
	// provisioner's, nor a token of an owner.
	provisioner, err := url.Parse(fleettest.TenantServer(t, testdb.System).ProvisionerURL)
	if err != nil {
		t.Fatal(err)
	}
	provisionerPassword, _ := provisioner.User.Password()
	secrets := []string{string(password), provisionerPassword}
	for _, o := range must(w.Store.List(t.Context(), operation.Filter{}))(t) {
		secrets = append(secrets, must(provision.OwnerToken(w.Keys.Control, 0, o.ID))(t))
	}
	dump := w.dump(t)
	for i, secret := range secrets {
		if strings.Contains(dump, secret) || strings.Contains(dump, fmt.Sprintf("%x", secret)) {
			t.Errorf("secret %d is in the dump", i)
		}
	}
	if !strings.Contains(dump, rowA.Status) || !strings.Contains(dump, "acme") {
		t.Error("the dump is no dump")
	}

	// A server's credential moved to another row does not open either.
	w.AddServer(t, "b", fleettest.TenantServer(t, testdb.PG18).ProvisionerURL, 100)
	if _, err := w.Pool.Exec(t.Context(), `
		UPDATE control.servers s SET provisioner_credential = o.provisioner_credential
		FROM control.servers o WHERE s.name <> o.name`); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Servers.Open(t.Context(), *rowA.Server, 1); err == nil || !strings.Contains(err.Error(), seal.ErrOpen.Error()) {
		t.Errorf("a swapped server credential: %v", err)
	}
}

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// dump is every row of every table of the control database as text.
func (w *world) dump(t *testing.T) string {
	t.Helper()
	conn := testdb.Connect(t, w.SuperuserURL)
	rows, err := conn.Query(t.Context(), `
		SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname IN ('control', 'node', 'river', 'public')`)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, table := range tables {
		rows, err := conn.Query(t.Context(), "SELECT t::text FROM "+table+" t")
		if err != nil {
			t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		out.WriteString(strings.Join(lines, "\n"))
	}
	return out.String()
}

func TestSec45TenantRoleConnectsToItsOwnDatabaseOnly(t *testing.T) {
	t.Parallel()
	fleettest.OnBoth(t, func(t *testing.T, version string) {
		w := newWorld(t)
		a, b := w.twoTenants(t, version)
		other := *w.made(t, a).Database
		template := fleettest.One[string](t, testdb.Connect(t, fleettest.TenantServer(t, version).URL()),
			"SELECT datname FROM pg_database WHERE datname LIKE 'ouvira\\_template\\_%' AND datistemplate LIMIT 1")
		for _, database := range []string{other, "postgres", "template1", "template0", "ouvira_base", template} {
			conn, err := pgx.Connect(t.Context(), fleettest.AtDatabase(t, w.Login(t, b), database))
			if err == nil {
				_ = conn.Close(t.Context())
				t.Errorf("B's role connects to %s", database)
				continue
			}
			if code := pg.Code(err); code != pg.CodeInsufficientRights && code != pg.CodeNotInState {
				t.Errorf("B's role at %s: %v", database, err)
			}
		}
		testdb.Connect(t, w.Login(t, b))
	})
}

// TestSec46 watches a database come into being: from outside, as another
// tenant that tries without pause, and step by step.
func TestSec46CreatedClosedLockedDownThenOpened(t *testing.T) {
	t.Parallel()
	fleettest.OnBoth(t, func(t *testing.T, version string) {
		w := newWorld(t)
		pgServer := fleettest.TenantServer(t, version)
		w.AddServer(t, "a", pgServer.ProvisionerURL, 100)
		neighbour, op := w.Ask(t, "neighbour", provision.Params{})
		w.mustRun(t, op)
		tenant, op := w.Ask(t, "acme", provision.Params{})
		name := tenantdb.Name(tenant, 1)
		intruder, err := pgx.ParseConfig(fleettest.AtDatabase(t, w.Login(t, neighbour), name))
		if err != nil {
			t.Fatal(err)
		}

		watching, stop := context.WithCancel(t.Context())
		var watchers sync.WaitGroup
		var attempts, looks int
		watchers.Go(func() {
			for watching.Err() == nil {
				conn, err := pgx.ConnectConfig(context.Background(), intruder)
				if err == nil {
					_ = conn.Close(context.Background())
					t.Error("the neighbour was let in")
					return
				}
				attempts++
			}
		})
		observer := testdb.Connect(t, pgServer.URL())
		watchers.Go(func() {
			for watching.Err() == nil {
				var open, public bool
				err := observer.QueryRow(context.Background(), `
					SELECT d.datallowconn,
					       EXISTS (SELECT FROM aclexplode(COALESCE(d.datacl, acldefault('d', d.datdba))) a WHERE a.grantee = 0)
					FROM pg_database d WHERE d.datname = $1`, name).Scan(&open, &public)
				if err == nil && open && public {
					t.Error("the database was open while PUBLIC had rights in it")
					return
				}
				looks++
			}
		})

		admin := testdb.Connect(t, pgServer.URL())
		type state struct{ exists, open, public, role bool }
		look := func() state {
			var s state
			err := admin.QueryRow(context.Background(), `
				SELECT true, d.datallowconn,
				       EXISTS (SELECT FROM aclexplode(COALESCE(d.datacl, acldefault('d', d.datdba))) a WHERE a.grantee = 0),
				       EXISTS (SELECT FROM aclexplode(d.datacl) a JOIN pg_roles r ON r.oid = a.grantee WHERE r.rolname = d.datname)
				FROM pg_database d WHERE d.datname = $1`, name).Scan(&s.exists, &s.open, &s.public, &s.role)
			if err != nil && !errors.Is(err, pgx.ErrNoRows) {
				t.Error(err)
			}
			return s
		}
		want := map[string]state{
			provision.StepPlace:    {},
			provision.StepRole:     {},
			provision.StepDatabase: {exists: true, public: true}, // closed: nobody can use it
			provision.StepLockdown: {exists: true, open: true},
			provision.StepMigrate:  {exists: true, open: true},
			provision.StepSeed:     {exists: true, open: true, role: true},
			provision.StepActivate: {exists: true, open: true, role: true},
		}
		runner := w.spied(&fleettest.Spy{After: func(_ context.Context, step string) error {
			if got := look(); got != want[step] {
				t.Errorf("after %s: %+v, want %+v", step, got, want[step])
			}
			return nil
		}})
		if err := runner.Run(t.Context(), op); err != nil {
			t.Fatal(err)
		}
		stop()
		watchers.Wait()
		if o := w.Get(t, op); o.Status != operation.Succeeded {
			t.Fatalf("%s %+v", o.Status, o.Error)
		}
		if attempts == 0 || looks == 0 {
			t.Errorf("nobody watched: %d attempts, %d looks", attempts, looks)
		}
		if got := fleettest.One[string](t, admin, `
			SELECT setconfig::text FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
			WHERE d.datname = $1 AND s.setrole = 0`, name); !strings.Contains(got, "client_connection_check_interval=1s") {
			t.Errorf("settings %s", got)
		}
	})
}

func TestSec47TenantRoleOwnsNothing(t *testing.T) {
	t.Parallel()
	fleettest.OnBoth(t, func(t *testing.T, version string) {
		w := newWorld(t)
		a, _ := w.twoTenants(t, version)
		name := *w.made(t, a).Database
		for _, database := range []string{name, "postgres"} {
			conn := testdb.Connect(t, fleettest.TenantServer(t, version).DatabaseURL(database))
			n := fleettest.One[int](t, conn, `
				SELECT count(*) FROM pg_shdepend s
				WHERE s.refclassid = 'pg_authid'::regclass AND s.deptype = 'o'
				  AND s.refobjid IN (SELECT oid FROM pg_roles WHERE rolname IN ($1, 'ouvira_app'))`, name)
			if n != 0 {
				t.Errorf("the app roles own %d objects, seen from %s", n, database)
			}
		}
		conn := testdb.Connect(t, w.Login(t, a))
		for _, statement := range []string{
			"CREATE TABLE public.mine ()", "CREATE TABLE ouvira.mine ()", "CREATE SCHEMA mine", "CREATE TEMPORARY TABLE mine ()",
			"DROP TABLE public.users", "ALTER TABLE public.users ADD COLUMN x int", "ALTER TABLE public.users DISABLE TRIGGER ALL",
			"CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "DO $$ BEGIN END $$",
			"UPDATE ouvira.marker SET incarnation = 2", "DELETE FROM ouvira.signing_keys", "UPDATE public.authz_epoch SET epoch = 0",
			"UPDATE ledger.security_logs SET action = 'x'", "DELETE FROM ledger.security_logs", "TRUNCATE ledger.security_logs",
			"SELECT pg_advisory_lock(1)", "SELECT lo_create(0)", "CREATE DATABASE mine", "CREATE ROLE mine",
			"ALTER DATABASE " + name + " SET statement_timeout = 0", "ALTER ROLE " + name + " SET temp_file_limit = -1",
		} {
			_, err := conn.Exec(t.Context(), statement)
			if code := pg.Code(err); code != pg.CodeInsufficientRights {
				t.Errorf("%s: %v", statement, err)
			}
		}
	})
}

func TestSec48NoLoginRoleBecomesAnother(t *testing.T) {
	t.Parallel()
	fleettest.OnBoth(t, func(t *testing.T, version string) {
		w := newWorld(t)
		a, b := w.twoTenants(t, version)
		nameA := *w.made(t, a).Database
		conn := testdb.Connect(t, w.Login(t, b))
		for _, role := range []string{nameA, "ouvira_owner", "ouvira_provisioner", "postgres", "pg_read_all_data"} {
			if _, err := conn.Exec(t.Context(), "SET ROLE "+role); pg.Code(err) != pg.CodeInsufficientRights {
				t.Errorf("B's role becomes %s: %v", role, err)
			}
			if _, err := conn.Exec(t.Context(), "GRANT "+role+" TO "+*w.made(t, b).Database); err == nil {
				t.Errorf("B's role grants itself %s", role)
			}
		}
		// All roles of the server, not only these two: no tenant's role is a
		// member of anything but ouvira_app.
		admin := testdb.Connect(t, fleettest.TenantServer(t, version).URL())
		n := fleettest.One[int](t, admin, `
			SELECT count(*) FROM pg_auth_members m JOIN pg_roles u ON u.oid = m.member JOIN pg_roles g ON g.oid = m.roleid
			WHERE u.rolname LIKE 'ov\_%' AND g.rolname <> 'ouvira_app'`)
		if n != 0 {
			t.Errorf("%d memberships of tenants' roles in other roles", n)
		}
		modern := fleettest.One[bool](t, admin, "SELECT current_setting('server_version_num')::int >= 160000")
		if !modern {
			return
		}
		if _, err := conn.Exec(t.Context(), "SET ROLE ouvira_app"); pg.Code(err) != pg.CodeInsufficientRights {
			t.Errorf("B's role becomes the group: %v", err)
		}
	})
}

// TestRoleLimits: the plan's cap and the disk's are on the role.
func TestRoleLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, _ := w.twoTenants(t, testdb.System)
	admin := testdb.Connect(t, fleettest.TenantServer(t, testdb.System).URL())
	var limit int
	var settings, password string
	err := admin.QueryRow(t.Context(), "SELECT a.rolconnlimit, r.rolconfig::text, a.rolpassword FROM pg_authid a JOIN pg_roles r ON r.oid = a.oid WHERE a.rolname = $1", *w.made(t, a).Database).
		Scan(&limit, &settings, &password)
	if err != nil {
		t.Fatal(err)
	}
	if limit != 10 || !strings.Contains(settings, "temp_file_limit=256MB") || !strings.HasPrefix(password, "SCRAM-SHA-256$") {
		t.Errorf("limit %d, settings %s", limit, settings)
	}
}
