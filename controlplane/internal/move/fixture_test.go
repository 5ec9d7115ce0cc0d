package move_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/controltest"
	"github.com/ouvira/ouvira/controlplane/internal/move"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/testdb"
	"github.com/ouvira/ouvira/shared/testdb/pgserver"
)

func TestMain(m *testing.M) { testdb.Main(m, stopServers) }

// prepared is a server that tests add with the provisioner's URL, and whose
// mover's password they store: adding it with the superuser's would give both
// roles new passwords, and the tests that run beside would be locked out.
type prepared struct {
	*pgserver.Server

	provisionerURL string
	mover          string
}

// tenantServers are those that the tests of this package share: two per version.
// Tests that stop a server have their own.
var tenantServers struct {
	sync.Mutex

	running map[string]*prepared
}

func prepare(started *pgserver.Server) (*prepared, error) {
	p := &prepared{Server: started, mover: pg.NewPassword()}
	provisioner := pg.NewPassword()
	var verifiers [2]string
	for i, password := range []string{provisioner, p.mover} {
		var err error
		if verifiers[i], err = pg.SCRAMVerifier(password); err != nil {
			return nil, err
		}
	}
	if err := migrations.PrepareServer(context.Background(), started.URL(), verifiers[0]); err != nil {
		return nil, err
	}
	if err := migrations.PrepareMoves(context.Background(), started.URL(), verifiers[1]); err != nil {
		return nil, err
	}
	u, err := url.Parse(started.URL())
	if err != nil {
		return nil, err
	}
	u.User = url.UserPassword(migrations.ProvisionerRole, provisioner)
	p.provisionerURL = u.String()
	return p, nil
}

// generous settings let many moves of many tests meet on one server.
var generous = map[string]string{
	"max_replication_slots": "60", "max_wal_senders": "60", "max_worker_processes": "80", "max_logical_replication_workers": "60",
	"max_sync_workers_per_subscription": "8",
}

func tenantServer(t testing.TB, version, name string) *prepared {
	t.Helper()
	tenantServers.Lock()
	defer tenantServers.Unlock()
	if s := tenantServers.running[version+name]; s != nil {
		return s
	}
	started, err := pgserver.Start(context.Background(), pgserver.Test(testdb.Bin(t, version), generous))
	if err != nil {
		t.Fatalf("start a tenant server: %v", err)
	}
	s, err := prepare(started)
	if err != nil {
		_ = started.Close()
		t.Fatalf("prepare a tenant server: %v", err)
	}
	if tenantServers.running == nil {
		tenantServers.running = map[string]*prepared{}
	}
	tenantServers.running[version+name] = s
	return s
}

func ownServer(t testing.TB, version string, settings map[string]string) *prepared {
	t.Helper()
	s, err := prepare(testdb.ServerWith(t, version, settings))
	if err != nil {
		t.Fatalf("prepare a tenant server: %v", err)
	}
	return s
}

func stopServers() error {
	var err error
	for _, s := range tenantServers.running {
		if closeErr := s.Close(); err == nil {
			err = closeErr
		}
	}
	return err
}

// world is one control plane with two tenant servers.
type world struct {
	controltest.Control
	controltest.Keys

	a, b      *prepared
	servers   *server.Service
	store     *operation.Store
	provision *provision.Service
	move      *move.Service
	runner    *operation.Runner
	log       *slog.Logger
}

type nobody struct{}

func (nobody) Wake(context.Context, pgx.Tx, ...uuid.UUID) error { return nil }

func newWorld(t testing.TB, a, b *prepared, o move.Options) *world {
	t.Helper()
	w := &world{Control: controltest.New(t), Keys: controltest.NewKeys(t), a: a, b: b}
	w.log = slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		w.log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	w.servers = server.NewService(w.Pool, w.Keys.Control, w.log, server.Options{})
	w.store = operation.NewStore(w.Pool, nobody{})
	w.provision = provision.NewService(w.Pool, w.store, w.servers, w.Public, w.Keys.Control, w.log, provision.Options{})
	w.move = move.NewService(w.Pool, w.store, w.servers, w.Public, w.log, o)
	w.runner = operation.NewRunner(w.store, "test", w.log, map[string]operation.Handler{
		provision.Kind: w.provision, move.Kind: w.move, move.DrainKind: w.move.Drains(),
	})
	w.add(t, "a", a)
	w.add(t, "b", b)
	return w
}

// shared is a world on the servers of a version that all tests share.
func shared(t testing.TB, version string) *world {
	t.Helper()
	return newWorld(t, tenantServer(t, version, "a"), tenantServer(t, version, "b"), move.Options{Budget: patient, Chunk: 20})
}

// patient is a budget for tests on a machine that is busy with others.
const patient = 30 * time.Second

func (w *world) add(t testing.TB, name string, s *prepared) server.Server {
	t.Helper()
	added, err := w.servers.Add(t.Context(), server.New{
		Name: name, URL: s.provisionerURL, Capacity: server.Capacity{Databases: 50, Connections: 100},
	}, nil)
	if err != nil {
		t.Fatalf("add server %s: %v", name, err)
	}
	sealed, err := w.Keys.Control.Seal([]byte(s.mover), server.MoverContext(added.ID))
	if err != nil {
		t.Fatal(err)
	}
	w.exec(t, "UPDATE control.servers SET mover_credential = $2 WHERE id = $1", added.ID, sealed)
	return added
}

func (w *world) exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	if _, err := w.Pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// tenant makes a tenant on server a.
func (w *world) tenant(t testing.TB, slug string) uuid.UUID {
	t.Helper()
	id := uuid.Must(uuid.NewV7())
	op, err := pg.InTxValue(t.Context(), w.Pool, func(tx pgx.Tx) (uuid.UUID, error) {
		_, err := tx.Exec(t.Context(), `
			INSERT INTO control.tenants (id, slug, name, status, plan_id)
			SELECT $1, $2, initcap($2), 'provisioning', id FROM control.plans WHERE code = 'standard'`, id, slug)
		if err != nil {
			return uuid.Nil, err
		}
		return w.provision.Start(t.Context(), tx, id, provision.Params{
			Server: "a", Owner: &provision.Owner{Email: "ada@" + slug + ".example", FullName: "Ada Lovelace"},
		}, "operator:test")
	})
	if err != nil {
		t.Fatalf("ask for tenant %s: %v", slug, err)
	}
	w.mustRun(t, op)
	return id
}

var operatorActor = &audit.Actor{Kind: audit.KindOperator, ID: uuid.NewString(), Name: "ada@ouvira.example"}

func (w *world) ask(t testing.TB, tenant uuid.UUID, to string) (uuid.UUID, error) {
	t.Helper()
	return pg.InTxValue(t.Context(), w.Pool, func(tx pgx.Tx) (uuid.UUID, error) {
		return w.move.Start(t.Context(), tx, operatorActor, tenant, to)
	})
}

func (w *world) mustAsk(t testing.TB, tenant uuid.UUID, to string) uuid.UUID {
	t.Helper()
	op, err := w.ask(t, tenant, to)
	if err != nil {
		t.Fatalf("ask for the move: %v", err)
	}
	return op
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

// mustRun expects success, if it must after some waiting.
func (w *world) mustRun(t testing.TB, op uuid.UUID) {
	t.Helper()
	w.finish(t, w.runner, op, operation.Succeeded)
}

// finish runs the operation until it has ended, as the reaper would.
func (w *world) finish(t testing.TB, runner *operation.Runner, op uuid.UUID, want operation.Status) *operation.Operation {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		if err := runner.Run(t.Context(), op); err != nil {
			t.Fatalf("run the operation: %v", err)
		}
		o := w.get(t, op)
		if o.Status.Finished() {
			if o.Status != want {
				t.Fatalf("the operation has %s: %+v, steps %+v", o.Status, o.Error, o.Steps)
			}
			return o
		}
		if time.Now().After(deadline) {
			t.Fatalf("the operation does not end: %s %+v", o.Status, o.Error)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// placed is where the control database says the tenant is.
type placed struct {
	Status, Mode, Server, Database string
	Incarnation                    int
	Credential                     []byte
	Published                      int64
}

func (w *world) placed(t testing.TB, tenant uuid.UUID) placed {
	t.Helper()
	var p placed
	err := w.Pool.QueryRow(t.Context(), `
		SELECT t.status, t.route_mode, s.name, t.database_name, t.incarnation, t.credential, r.version
		FROM control.tenants t JOIN control.servers s ON s.id = t.server_id JOIN control.routes r ON r.tenant_id = t.id
		WHERE t.id = $1`, tenant).Scan(&p.Status, &p.Mode, &p.Server, &p.Database, &p.Incarnation, &p.Credential, &p.Published)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (w *world) pgServer(name string) *prepared {
	if name == "a" {
		return w.a
	}
	return w.b
}

// login is the URL by which a node reaches the tenant's database.
func (w *world) login(t testing.TB, tenant uuid.UUID) string {
	t.Helper()
	return w.loginTo(t, tenant, w.placed(t, tenant))
}

func (w *world) loginTo(t testing.TB, tenant uuid.UUID, p placed) string {
	t.Helper()
	password, err := w.Data.Open(p.Credential, route.CredentialContext(tenant, p.Incarnation))
	if err != nil {
		t.Fatalf("open the tenant's credential: %v", err)
	}
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(p.Database, string(password)),
		Host: fmt.Sprintf("127.0.0.1:%d", w.pgServer(p.Server).Port()), Path: "/" + p.Database, RawQuery: "sslmode=disable",
	}
	return u.String()
}

// inside is the tenant's database of an incarnation on a server, as the superuser.
func inside(t testing.TB, s *prepared, tenant uuid.UUID, incarnation int) *pgx.Conn {
	t.Helper()
	return testdb.Connect(t, s.DatabaseURL(tenantdb.Name(tenant, incarnation)))
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

// onBoth runs the test on the system's Postgres and on 18.
func onBoth(t *testing.T, test func(t *testing.T, version string)) {
	for _, version := range testdb.Versions {
		t.Run("postgres="+version, func(t *testing.T) {
			t.Parallel()
			test(t, version)
		})
	}
}

// left counts what is on a server of one incarnation of a tenant: the database,
// the role, replication slots and sessions of moves there.
func left(t testing.TB, s *prepared, tenant uuid.UUID, incarnation int) int {
	t.Helper()
	return one[int](t, testdb.Connect(t, s.URL()), `
		SELECT (SELECT count(*) FROM pg_database WHERE datname = $1) + (SELECT count(*) FROM pg_roles WHERE rolname = $1)
		     + (SELECT count(*) FROM pg_replication_slots WHERE database = $1)
		     + (SELECT count(*) FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = $1)`,
		tenantdb.Name(tenant, incarnation))
}
