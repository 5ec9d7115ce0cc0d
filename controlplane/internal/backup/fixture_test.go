package backup_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
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
	"github.com/ouvira/ouvira/controlplane/internal/controltest"
	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/controlplane/internal/tenant"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/testdb"
)

func TestMain(m *testing.M) { fleettest.Main(m) }

// world is one control plane with a tenant server and a storage of backups.
type world struct {
	controltest.Control
	controltest.Keys

	servers  *server.Service
	store    *operation.Store
	backups  *backup.Service
	handlers map[string]operation.Handler
	runner   *operation.Runner
	files    string // of the storage
	pg       *fleettest.Prepared
	admin    *pgxpool.Pool // superuser on the tenant server; of subtests that run at once
	log      *slog.Logger
}

// unwoken: tests say themselves who runs.
type unwoken struct{}

func (unwoken) Wake(context.Context, pgx.Tx, ...uuid.UUID) error { return nil }

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldOn(t, testdb.System)
}

func newWorldOn(t testing.TB, version string) *world {
	t.Helper()
	w := &world{Control: controltest.New(t), Keys: controltest.NewKeys(t), log: slog.New(slog.DiscardHandler)}
	if testing.Verbose() {
		w.log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	w.files = filepath.Join(t.TempDir(), "backups")
	w.furnish(t, operation.NewStore(w.Pool, unwoken{}))
	w.pg = fleettest.TenantServer(t, version)
	var err error
	if w.admin, err = pgxpool.New(t.Context(), w.pg.URL()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.admin.Close)
	_, err = w.servers.Add(t.Context(), server.New{
		Name: "a", URL: w.pg.ProvisionerURL, Capacity: server.Capacity{Databases: 100, Connections: 100},
	}, nil)
	if err != nil {
		t.Fatalf("add the server: %v", err)
	}
	return w
}

// furnish makes the rooms.
func (w *world) furnish(t testing.TB, store *operation.Store) {
	t.Helper()
	w.store = store
	w.servers = server.NewService(w.Pool, w.Keys.Control, w.log, server.Options{})
	provisioning := provision.NewService(w.Pool, w.store, w.servers, w.Public, w.Keys.Control, w.log, provision.Options{})
	files, err := storage.Open("file://" + w.files)
	if err != nil {
		t.Fatal(err)
	}
	w.backups = backup.NewService(w.Pool, w.store, w.servers, w.Public, w.Keys.Control, backup.Options{
		Store: files, Log: w.log, Tenants: &tenant.Service{DB: w.Pool, Provision: provisioning},
	})
	w.handlers = w.backups.Handlers()
	w.handlers[provision.Kind] = provisioning
	w.runner = operation.NewRunner(w.store, "test", w.log, w.handlers)
}

func operator() *audit.Actor { return &audit.Actor{Kind: audit.KindCLI, ID: "test", Name: "test"} }

// tenant makes one that serves, with somebody in every table that copies treat in a
// way of its own.
func (w *world) tenant(t testing.TB, slug string) uuid.UUID {
	t.Helper()
	id := uuid.Must(uuid.NewV7())
	op, err := pg.InTxValue(t.Context(), w.Pool, func(tx pgx.Tx) (uuid.UUID, error) {
		_, err := tx.Exec(t.Context(), `
			INSERT INTO control.tenants (id, slug, name, status, plan_id, settings)
			SELECT $1, $2, 'Acme', 'provisioning', id, '{"locale": "de"}' FROM control.plans WHERE code = 'standard'`, id, slug)
		if err != nil {
			return uuid.Nil, err
		}
		params := provision.Params{Owner: &provision.Owner{Email: "ada@" + slug + ".example", FullName: "Ada Lovelace"}}
		op, err := w.handlers[provision.Kind].(*provision.Service).Start(t.Context(), tx, id, params, "operator:test")
		return op, err
	})
	if err != nil {
		t.Fatalf("ask for tenant %s: %v", slug, err)
	}
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
	u, err := url.Parse(w.pg.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + *w.made(t, id).Database
	return testdb.Connect(t, u.String())
}

// login is the database as a node reaches it: the password is opened with the data
// plane's key.
func (w *world) login(t testing.TB, id uuid.UUID) string {
	t.Helper()
	m := w.made(t, id)
	password, err := w.Data.Open(m.Credential, route.CredentialContext(id, m.Incarnation))
	if err != nil {
		t.Fatalf("open the tenant's credential: %v", err)
	}
	s, err := w.servers.Get(t.Context(), *m.Server)
	if err != nil {
		t.Fatal(err)
	}
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(*m.Database, string(password)),
		Host: fmt.Sprintf("%s:%d", s.Host, s.Port), Path: "/" + *m.Database, RawQuery: "sslmode=disable",
	}
	return u.String()
}

func (w *world) run(t testing.TB, op uuid.UUID) *operation.Operation {
	t.Helper()
	if err := w.runner.Run(t.Context(), op); err != nil {
		t.Fatalf("run the operation: %v", err)
	}
	return w.get(t, op)
}

func (w *world) get(t testing.TB, op uuid.UUID) *operation.Operation {
	t.Helper()
	o, err := w.store.Get(t.Context(), op)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func (w *world) mustRun(t testing.TB, op uuid.UUID) {
	t.Helper()
	if o := w.run(t, op); o.Status != operation.Succeeded {
		t.Fatalf("%s is %s: %+v, steps %+v", o.Kind, o.Status, o.Error, o.Steps)
	}
}

// take takes a backup and gives its id.
func (w *world) take(t testing.TB, id uuid.UUID) uuid.UUID {
	t.Helper()
	op, err := w.backups.Start(t.Context(), operator(), id, backup.KindTake)
	if err != nil {
		t.Fatal(err)
	}
	w.mustRun(t, op)
	return one[uuid.UUID](t, w.Pool, "SELECT id FROM control.backups WHERE operation_id = $1 AND status = 'complete'", op)
}

// archive is the file of a backup.
func (w *world) archive(t testing.TB, backupID uuid.UUID) string {
	t.Helper()
	return filepath.Join(w.files, one[string](t, w.Pool, "SELECT object FROM control.backups WHERE id = $1", backupID))
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
	counts(t, w.admin, "pg_database WHERE datname = '"+d.Name()+"'", 0)
	counts(t, w.admin, "pg_roles WHERE rolname = '"+d.Name()+"'", 0)
}

// one reads one value.
func one[T any](t testing.TB, q pg.Querier, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := q.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// counts reads how many rows there are.
func counts(t testing.TB, q pg.Querier, from string, want int) {
	t.Helper()
	if n := one[int](t, q, "SELECT count(*) FROM "+from); n != want {
		t.Errorf("%d rows in %s, want %d", n, from, want)
	}
}

func replaceDatabase(t testing.TB, address, database string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + database
	return u.String()
}

func (w *world) loggedIn(t testing.TB, id uuid.UUID) *pgx.Conn {
	t.Helper()
	conn := testdb.Connect(t, w.login(t, id))
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}
