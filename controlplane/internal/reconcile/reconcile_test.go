package reconcile_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/controltest"
	"github.com/ouvira/ouvira/controlplane/internal/lifecycle"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/controlplane/internal/reconcile"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/controlplane/internal/tenant"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
	"github.com/ouvira/ouvira/shared/testdb/pgserver"
)

func TestMain(m *testing.M) { testdb.Main(m) }

type asleep struct{}

func (asleep) Wake(context.Context, pgx.Tx, ...uuid.UUID) error { return nil }

// fleet is one server with two tenants, and the reconciler over it.
type fleet struct {
	pgServer  *pgserver.Server
	admin     *pgx.Conn
	control   controltest.Control
	reconcile *reconcile.Service
	repairer  *reconcile.Repairer
	life      *lifecycle.Service
	adopter   *reconcile.Adopter
	servers   *server.Service
	rooms     *provision.Service
	runner    *operation.Runner
	store     *operation.Store
	keys      controltest.Keys
	a, b      uuid.UUID
}

func newFleet(t *testing.T, version string) *fleet {
	t.Helper()
	f := &fleet{pgServer: testdb.Server(t, version), keys: controltest.NewKeys(t)}
	f.admin = testdb.Connect(t, f.pgServer.URL())
	f.furnish(t)
	f.a, f.b = f.tenant(t, "acme"), f.tenant(t, "globex")
	return f
}

// furnish makes a control plane over the server that knows of nothing but that.
func (f *fleet) furnish(t *testing.T) {
	t.Helper()
	f.control = controltest.New(t)
	log := slog.New(slog.DiscardHandler)
	f.servers = server.NewService(f.control.Pool, f.keys.Control, log, server.Options{})
	f.store = operation.NewStore(f.control.Pool, asleep{})
	f.rooms = provision.NewService(f.control.Pool, f.store, f.servers, f.keys.Public, f.keys.Control, log, provision.Options{})
	f.reconcile = reconcile.NewService(f.control.Pool, f.servers, log)
	f.life = lifecycle.NewService(f.control.Pool, f.store, f.servers, log, lifecycle.Options{})
	f.repairer = reconcile.NewRepairer(f.reconcile, f.store, f.life, f.rooms, f.keys.Public)
	f.adopter = reconcile.NewAdopter(f.reconcile, f.store, &tenant.Service{DB: f.control.Pool, Provision: f.rooms}, f.keys.Public)
	f.runner = operation.NewRunner(f.store, "test", log, map[string]operation.Handler{
		provision.Kind: f.rooms, reconcile.KindRepair: f.repairer, reconcile.KindAdopt: f.adopter,
	})
	_, err := f.servers.Add(t.Context(), server.New{
		Name: "a", URL: f.pgServer.URL(), Capacity: server.Capacity{Databases: 10, Connections: 50},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
}

// tenant makes one that serves.
func (f *fleet) tenant(t *testing.T, slug string) uuid.UUID {
	t.Helper()
	id := uuid.Must(uuid.NewV7())
	op, err := pg.InTxValue(t.Context(), f.control.Pool, func(tx pgx.Tx) (uuid.UUID, error) {
		_, err := tx.Exec(t.Context(), `
			INSERT INTO control.tenants (id, slug, name, status, plan_id) SELECT $1, $2, $2, 'provisioning', id FROM control.plans`, id, slug)
		if err != nil {
			return uuid.Nil, err
		}
		return f.rooms.Start(t.Context(), tx, id, provision.Params{Owner: &provision.Owner{Email: "a@b.example", FullName: "A"}}, "test")
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.runner.Run(t.Context(), op); err != nil {
		t.Fatal(err)
	}
	return id
}

func (f *fleet) look(t *testing.T) reconcile.Report {
	t.Helper()
	report, err := f.reconcile.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func (f *fleet) exec(t *testing.T, database, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), f.pgServer.DatabaseURL(database))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// full is a budget of which nothing is left for this process.
type full struct{}

func (full) Limit(uuid.UUID, int) int { return 1 }
func (full) Instance() string         { return "test" }
func (full) Age() time.Duration       { return 0 }
func (full) Short()                   {}

// One server is looked at by its name. Who waits for a connection that never comes is told
// so after a while, and not left until the caller has given up.
func TestALookAtOneServer(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "system")
	report, err := f.reconcile.LookAt(t.Context(), "a")
	if err != nil || report.Servers != 1 || report.Tenants != 2 || len(report.Findings) != 0 {
		t.Errorf("%+v, %v", report, err)
	}
	if _, err := f.reconcile.LookAt(t.Context(), "nowhere"); !fault.Is(err, fault.KindNotFound) {
		t.Errorf("a server that there is not: %v", err)
	}
	log := slog.New(slog.DiscardHandler)
	short := reconcile.NewService(f.control.Pool, server.NewService(f.control.Pool, f.keys.Control, log, server.Options{Budget: full{}}), log)
	short.WaitForSeats(50 * time.Millisecond)
	report, err = short.Look(t.Context())
	if err != nil || len(report.Findings) != 1 || report.Findings[0].Code != "server_busy" {
		t.Errorf("without a connection: %+v, %v", report, err)
	}
	if _, err := f.control.Pool.Exec(t.Context(), "UPDATE control.servers SET status = 'offline'"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.reconcile.LookAt(t.Context(), "a"); !fault.Is(err, fault.KindConflict) {
		t.Errorf("one that is offline: %v", err)
	}
	if report, err := f.reconcile.Look(t.Context()); err != nil || report.Servers != 0 {
		t.Errorf("all that are not offline: %+v, %v", report, err)
	}
}

func TestASoundFleetHasNoFindings(t *testing.T) {
	t.Parallel()
	for _, version := range testdb.Versions {
		t.Run("postgres="+version, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, version)
			if report := f.look(t); len(report.Findings) != 0 || report.Servers != 1 || report.Tenants != 2 {
				t.Errorf("%+v", report)
			}
		})
	}
}

// A tenant that is suspended or deleted is fenced, and that is as it should be. While
// an operation is at work on a tenant, what it has done so far is its own business.
func TestFencesThatShouldBeThere(t *testing.T) {
	t.Parallel()
	f := newFleet(t, testdb.System)
	name := tenantdb.Name(f.a, 1)
	status := func(to string) {
		t.Helper()
		if _, err := f.control.Pool.Exec(t.Context(), "UPDATE control.tenants SET status = $2 WHERE id = $1", f.a, to); err != nil {
			t.Fatal(err)
		}
	}
	sound := func(what string) {
		t.Helper()
		if report := f.look(t); len(report.Findings) != 0 {
			t.Errorf("%s: %+v", what, report.Findings)
		}
	}
	f.exec(t, "postgres", "REVOKE ouvira_app FROM "+name+"; ALTER ROLE "+name+" NOLOGIN CONNECTION LIMIT 0")
	for _, fenced := range []string{"suspended", "deleted"} {
		status(fenced)
		sound(fenced)
	}
	f.exec(t, "postgres", "ALTER ROLE "+name+" LOGIN")
	if report := f.look(t); len(report.Findings) != 1 || report.Findings[0].Code != "fence_missing" {
		t.Errorf("half a fence: %+v", report.Findings)
	}
	if _, err := f.control.Pool.Exec(t.Context(), "INSERT INTO control.operations (id, kind, tenant_id, created_by) VALUES (gen_random_uuid(), 'tenant.fence', $1, 'test')", f.a); err != nil {
		t.Fatal(err)
	}
	sound("a fence under way")
	status("active")
	sound("an operation with a fence of its own")
}

// TestEachDifferenceIsFound breaks one thing at a time and heals it again.
func TestEachDifferenceIsFound(t *testing.T) {
	t.Parallel()
	f := newFleet(t, testdb.System)
	a, b := tenantdb.Name(f.a, 1), tenantdb.Name(f.b, 1)
	control := func(sql string, id uuid.UUID) {
		t.Helper()
		if _, err := f.control.Pool.Exec(t.Context(), sql, id); err != nil {
			t.Fatal(err)
		}
	}
	var dataDirectory string
	if err := f.admin.QueryRow(t.Context(), "SELECT current_setting('data_directory')").Scan(&dataDirectory); err != nil {
		t.Fatal(err)
	}
	orphan := filepath.Join(dataDirectory, "base", "4000000000")

	cases := []struct {
		code, object string
		ofTenant     bool
		spoil, heal  func()
	}{
		{
			"role_nologin", a, true,
			func() { f.exec(t, "postgres", "ALTER ROLE "+a+" NOLOGIN") },
			func() { f.exec(t, "postgres", "ALTER ROLE "+a+" LOGIN") },
		},
		{
			"role_limit", a, true,
			func() { f.exec(t, "postgres", "ALTER ROLE "+a+" CONNECTION LIMIT 77") },
			func() { f.exec(t, "postgres", "ALTER ROLE "+a+" CONNECTION LIMIT 10") },
		},
		{
			"role_powerful", a, true,
			func() { f.exec(t, "postgres", "ALTER ROLE "+a+" CREATEDB") },
			func() { f.exec(t, "postgres", "ALTER ROLE "+a+" NOCREATEDB") },
		},
		{
			"role_settings", a, true,
			func() { f.exec(t, "postgres", "ALTER ROLE "+a+" RESET temp_file_limit") },
			func() { f.exec(t, "postgres", "ALTER ROLE "+a+" SET temp_file_limit = '256MB'") },
		},
		{
			"fence_left", a, true,
			func() {
				f.exec(t, "postgres", "REVOKE ouvira_app FROM "+a+"; ALTER ROLE "+a+" NOLOGIN CONNECTION LIMIT 0")
			},
			func() {
				f.exec(t, "postgres", "GRANT ouvira_app TO "+a+"; ALTER ROLE "+a+" LOGIN CONNECTION LIMIT 10")
			},
		},
		{
			"fence_missing", a, true,
			func() { control("UPDATE control.tenants SET status = 'suspended' WHERE id = $1", f.a) },
			func() { control("UPDATE control.tenants SET status = 'active' WHERE id = $1", f.a) },
		},
		{
			"membership_missing", a, true,
			func() { f.exec(t, "postgres", "REVOKE ouvira_app FROM "+a) },
			func() { f.exec(t, "postgres", "GRANT ouvira_app TO "+a) },
		},
		{
			"membership_foreign", a, true,
			func() { f.exec(t, "postgres", "GRANT "+b+" TO "+a) },
			func() { f.exec(t, "postgres", "REVOKE "+b+" FROM "+a) },
		},
		{
			"connect_missing", a, true,
			func() { f.exec(t, "postgres", "SET ROLE ouvira_owner; REVOKE CONNECT ON DATABASE "+a+" FROM "+a) },
			func() { f.exec(t, "postgres", "SET ROLE ouvira_owner; GRANT CONNECT ON DATABASE "+a+" TO "+a) },
		},
		{
			"connect_foreign", b, true,
			func() { f.exec(t, "postgres", "GRANT CONNECT ON DATABASE "+a+" TO "+b) },
			func() { f.exec(t, "postgres", "REVOKE CONNECT ON DATABASE "+a+" FROM "+b) },
		},
		{
			"public_rights", a, true,
			func() { f.exec(t, "postgres", "GRANT TEMPORARY ON DATABASE "+a+" TO PUBLIC") },
			func() { f.exec(t, "postgres", "REVOKE TEMPORARY ON DATABASE "+a+" FROM PUBLIC") },
		},
		{
			"server_not_prepared", "a", false,
			func() { f.exec(t, "postgres", "GRANT CONNECT ON DATABASE template1 TO PUBLIC") },
			func() { f.exec(t, "postgres", "REVOKE CONNECT ON DATABASE template1 FROM PUBLIC") },
		},
		{
			"database_closed", a, true,
			func() { f.exec(t, "postgres", "ALTER DATABASE "+a+" ALLOW_CONNECTIONS false") },
			func() { f.exec(t, "postgres", "ALTER DATABASE "+a+" ALLOW_CONNECTIONS true") },
		},
		{
			"database_foreign", a, true,
			func() { f.exec(t, "postgres", "COMMENT ON DATABASE "+a+" IS 'mine'") },
			func() { f.exec(t, "postgres", "COMMENT ON DATABASE "+a+" IS '"+f.a.String()+"/1'") },
		},
		{
			"database_invalid", a, true,
			func() { f.exec(t, "postgres", "UPDATE pg_database SET datconnlimit = -2 WHERE datname = '"+a+"'") },
			func() { f.exec(t, "postgres", "UPDATE pg_database SET datconnlimit = -1 WHERE datname = '"+a+"'") },
		},
		{
			"marker_foreign", a, true,
			func() { f.exec(t, a, "UPDATE ouvira.marker SET incarnation = 9") },
			func() { f.exec(t, a, "UPDATE ouvira.marker SET incarnation = 1") },
		},
		{
			"marker_unreadable", a, true,
			func() { f.exec(t, a, "ALTER TABLE ouvira.marker RENAME TO lost") },
			func() { f.exec(t, a, "ALTER TABLE ouvira.lost RENAME TO marker") },
		},
		{
			"signing_key_missing", a, true,
			func() { f.exec(t, a, "UPDATE ouvira.signing_keys SET retired_at = now()") },
			func() { f.exec(t, a, "UPDATE ouvira.signing_keys SET retired_at = NULL") },
		},
		{
			"schema_version", a, true,
			func() { control("UPDATE control.tenants SET schema_version = schema_version + 1 WHERE id = $1", f.a) },
			func() { control("UPDATE control.tenants SET schema_version = schema_version - 1 WHERE id = $1", f.a) },
		},
		{
			"schema_dirty", a, true,
			func() { f.exec(t, a, "UPDATE ouvira.schema_migrations SET dirty = true") },
			func() { f.exec(t, a, "UPDATE ouvira.schema_migrations SET dirty = false") },
		},
		{
			"orphan_database", "ov_00000000000000000000", false,
			func() { f.exec(t, "postgres", "CREATE DATABASE ov_00000000000000000000") },
			func() { f.exec(t, "postgres", "DROP DATABASE ov_00000000000000000000") },
		},
		{
			"orphan_role", "ov_11111111111111111111", false,
			func() { f.exec(t, "postgres", "CREATE ROLE ov_11111111111111111111") },
			func() { f.exec(t, "postgres", "DROP ROLE ov_11111111111111111111") },
		},
		{
			"orphan_directory", "base/4000000000", false,
			func() {
				if err := os.Mkdir(orphan, 0o700); err != nil {
					t.Fatal(err)
				}
			},
			func() { _ = os.Remove(orphan) },
		},
	}
	for _, c := range cases {
		c.spoil()
		report := f.look(t)
		i := slices.IndexFunc(report.Findings, func(x reconcile.Finding) bool { return x.Code == c.code })
		switch {
		case i < 0 || len(report.Findings) != 1:
			t.Errorf("%s: %+v", c.code, report.Findings)
		case report.Findings[i].Object != c.object || report.Findings[i].Message == "" || report.Findings[i].Action == "",
			c.ofTenant != (report.Findings[i].TenantID != nil):
			t.Errorf("%s: %+v", c.code, report.Findings[i])
		}
		c.heal()
	}
	if report := f.look(t); len(report.Findings) != 0 {
		t.Errorf("healed: %+v", report.Findings)
	}

	// These cannot be healed.
	f.exec(t, "postgres", "DROP DATABASE "+a+" WITH (FORCE)")
	f.exec(t, "postgres", "DROP ROLE "+a)
	var codes []string
	for _, x := range f.look(t).Findings {
		codes = append(codes, x.Code)
	}
	if !slices.Equal(codes, []string{"database_missing", "role_missing"}) {
		t.Errorf("%v", codes)
	}
	if err := f.pgServer.StopImmediate(); err != nil {
		t.Fatal(err)
	}
	if report := f.look(t); len(report.Findings) != 1 || report.Findings[0].Code != "server_unreachable" {
		t.Errorf("%+v", report.Findings)
	}
}
