package backup_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/backup"
	"github.com/ouvira/ouvira/controlplane/internal/backup/storage"
	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/controlplane/internal/tenant"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/testdb"
)

func TestMain(m *testing.M) { fleettest.Main(m) }

// world is one control plane with a tenant server and a storage of backups.
type world struct {
	*fleettest.World

	backups  *backup.Service
	handlers map[string]operation.Handler
	runner   *operation.Runner
	files    string // of the storage
	pg       *fleettest.Prepared
	admin    *pgxpool.Pool // superuser on the tenant server; of subtests that run at once
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldOn(t, testdb.System)
}

func newWorldOn(t testing.TB, version string) *world {
	t.Helper()
	w := &world{World: fleettest.New(t), files: filepath.Join(t.TempDir(), "backups"), pg: fleettest.TenantServer(t, version)}
	files, err := storage.Open("file://" + w.files)
	if err != nil {
		t.Fatal(err)
	}
	w.backups = backup.NewService(w.Pool, w.Store, w.Servers, w.Public, w.Keys.Control, backup.Options{
		Store: files, Log: w.Log, Tenants: &tenant.Service{DB: w.Pool, Provision: w.Provision},
	})
	w.handlers = w.backups.Handlers()
	w.handlers[provision.Kind] = w.Provision
	w.runner = w.Runner(w.handlers)
	if w.admin, err = pgxpool.New(t.Context(), w.pg.URL()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.admin.Close)
	w.AddServer(t, "a", w.pg.ProvisionerURL, 100)
	return w
}

func operator() *audit.Actor { return &audit.Actor{Kind: audit.KindCLI, ID: "test", Name: "test"} }

// tenant makes one that serves, with somebody in every table that copies treat in a
// way of its own.
func (w *world) tenant(t testing.TB, slug string) uuid.UUID {
	t.Helper()
	id, op := w.Ask(t, slug, provision.Params{})
	w.Exec(t, `UPDATE control.tenants SET name = 'Acme', settings = '{"locale": "de"}' WHERE id = $1`, id)
	w.mustRun(t, op)
	conn := w.inside(t, id)
	defer conn.Close(context.Background()) // a superuser's session would be in the way of a DROP
	for _, statement := range []string{
		`INSERT INTO public.sessions (user_id, expires_at) SELECT id, now() + interval '1 day' FROM public.users`,
		`INSERT INTO public.api_keys (name, user_id, company_id, prefix, token_hash, permissions, token_epoch, expires_at)
		 SELECT 'key', u.id, c.id, 'ovk', sha256('x'), '{company.view}', 1, now() + interval '1 day' FROM public.users u, public.companies c`,
		`INSERT INTO public.one_time_codes (purpose, recipient, code_sealed, expires_at) VALUES ('login', 'ada', 'x', now() + interval '1 hour')`,
		`INSERT INTO public.outbox (channel, recipient, template, payload_sealed) VALUES ('email', 'ada@acme.example', 'x', 'sealed')`,
		`INSERT INTO public.two_factors (user_id, method, secret_sealed, confirmed_at) SELECT id, 'totp', 'sealed', now() FROM public.users`,
		`UPDATE public.users SET is_2fa_enabled = true, two_fa_type = 'totp'`,
		`INSERT INTO ledger.activity_logs (user_display, entity_type, action) VALUES ('Ada', 'company', 'CREATE')`,
	} {
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	return id
}

// made is what a tenant's row says.
type made struct {
	Status, Reason, Mode string
	Server               *uuid.UUID
	Database             *string
	Incarnation          int
	Credential           []byte
	Epoch                int64
}

func (w *world) made(t testing.TB, id uuid.UUID) made {
	t.Helper()
	rows, err := w.Pool.Query(t.Context(), `
		SELECT status, status_reason, route_mode, server_id, database_name, incarnation, credential, token_epoch
		FROM control.tenants WHERE id = $1`, id)
	if err != nil {
		t.Fatal(err)
	}
	m, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[made])
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// inside is the tenant's database, as a superuser sees it.
func (w *world) inside(t testing.TB, id uuid.UUID) *pgx.Conn {
	t.Helper()
	return testdb.Connect(t, w.pg.DatabaseURL(*w.made(t, id).Database))
}

func (w *world) run(t testing.TB, op uuid.UUID) *operation.Operation {
	t.Helper()
	return w.Run(t, w.runner, op)
}

func (w *world) mustRun(t testing.TB, op uuid.UUID) {
	t.Helper()
	w.MustRun(t, w.runner, op)
}

// take takes a backup and gives its id.
func (w *world) take(t testing.TB, id uuid.UUID) uuid.UUID {
	t.Helper()
	op, err := w.backups.Start(t.Context(), operator(), id, backup.KindTake)
	if err != nil {
		t.Fatal(err)
	}
	w.mustRun(t, op)
	return fleettest.One[uuid.UUID](t, w.Pool, "SELECT id FROM control.backups WHERE operation_id = $1 AND status = 'complete'", op)
}

// archive is the file of a backup.
func (w *world) archive(t testing.TB, backupID uuid.UUID) string {
	t.Helper()
	return filepath.Join(w.files, fleettest.One[string](t, w.Pool, "SELECT object FROM control.backups WHERE id = $1", backupID))
}

// stored are the names of all files of the storage.
func (w *world) stored(t testing.TB) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(w.files, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			names = append(names, strings.TrimPrefix(path, w.files+"/"))
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return names
}

// nothingOf expects neither the database nor its role.
func (w *world) nothingOf(t testing.TB, d tenantdb.Database) {
	t.Helper()
	fleettest.Counts(t, w.admin, "pg_database WHERE datname = '"+d.Name()+"'", 0)
	fleettest.Counts(t, w.admin, "pg_roles WHERE rolname = '"+d.Name()+"'", 0)
}

func (w *world) loggedIn(t testing.TB, id uuid.UUID) *pgx.Conn {
	t.Helper()
	conn := testdb.Connect(t, w.Login(t, id))
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}
