package move_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/move"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
)

func TestMain(m *testing.M) { fleettest.Main(m) }

// generous settings let many moves of many tests meet on one server.
var generous = map[string]string{
	"max_replication_slots": "60", "max_wal_senders": "60", "max_worker_processes": "80", "max_logical_replication_workers": "60",
	"max_sync_workers_per_subscription": "8",
}

func tenantServer(t testing.TB, version, name string) *fleettest.Prepared {
	t.Helper()
	return fleettest.NamedServer(t, version, name, generous)
}

// world is one control plane with two tenant servers.
type world struct {
	*fleettest.World

	a, b   *fleettest.Prepared
	move   *move.Service
	runner *operation.Runner
}

func newWorld(t testing.TB, a, b *fleettest.Prepared, o move.Options) *world {
	t.Helper()
	w := &world{World: fleettest.New(t), a: a, b: b}
	w.move = move.NewService(w.Pool, w.Store, w.Servers, w.Public, w.Log, o)
	w.runner = w.Runner(map[string]operation.Handler{
		provision.Kind: w.Provision, move.Kind: w.move, move.DrainKind: w.move.Drains(),
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

func (w *world) add(t testing.TB, name string, s *fleettest.Prepared) {
	t.Helper()
	added := w.AddServer(t, name, s.ProvisionerURL, 50)
	sealed, err := w.Keys.Control.Seal([]byte(s.Mover(t)), server.MoverContext(added.ID))
	if err != nil {
		t.Fatal(err)
	}
	w.Exec(t, "UPDATE control.servers SET mover_credential = $2 WHERE id = $1", added.ID, sealed)
}

// tenant makes a tenant on server a.
func (w *world) tenant(t testing.TB, slug string) uuid.UUID {
	t.Helper()
	id, op := w.Ask(t, slug, provision.Params{Server: "a"})
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
	return w.Run(t, w.runner, op)
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
		o := w.Get(t, op)
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

// inside is the tenant's database of an incarnation on a server, as the superuser.
func inside(t testing.TB, s *fleettest.Prepared, tenant uuid.UUID, incarnation int) *pgx.Conn {
	t.Helper()
	return testdb.Connect(t, s.DatabaseURL(tenantdb.Name(tenant, incarnation)))
}

// left counts what is on a server of one incarnation of a tenant: the database,
// the role, replication slots and sessions of moves there.
func left(t testing.TB, s *fleettest.Prepared, tenant uuid.UUID, incarnation int) int {
	t.Helper()
	return fleettest.One[int](t, testdb.Connect(t, s.URL()), `
		SELECT (SELECT count(*) FROM pg_database WHERE datname = $1) + (SELECT count(*) FROM pg_roles WHERE rolname = $1)
		     + (SELECT count(*) FROM pg_replication_slots WHERE database = $1)
		     + (SELECT count(*) FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = $1)`,
		tenantdb.Name(tenant, incarnation))
}
