// Package fleettest gives tests of what operations do a control plane with real
// tenant servers, without a worker: each test says itself who runs what, and can
// stand between the steps.
package fleettest

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/controltest"
	"github.com/ouvira/ouvira/controlplane/internal/job"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/controlplane/internal/replay"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/testdb"
	"github.com/ouvira/ouvira/shared/testdb/pgserver"
)

// tenantServers are the servers that the tests of a package share: one per version,
// and those that have a name besides. Tests that stop a server have their own.
var tenantServers struct {
	sync.Mutex

	running map[string]*Prepared
}

// Prepared is a server that each test adds with the provisioner's URL: adding it
// with the superuser's would give the provisioner a new password.
type Prepared struct {
	*pgserver.Server

	ProvisionerURL string

	moving sync.Mutex
	mover  string
}

func prepare(server *pgserver.Server) (*Prepared, error) {
	password := pg.NewPassword()
	verifier, err := pg.SCRAMVerifier(password)
	if err != nil {
		return nil, err
	}
	if err := migrations.PrepareServer(context.Background(), server.URL(), verifier); err != nil {
		return nil, err
	}
	u, err := url.Parse(server.URL())
	if err != nil {
		return nil, fmt.Errorf("parse the server's address: %w", err)
	}
	u.User = url.UserPassword(migrations.ProvisionerRole, password)
	return &Prepared{Server: server, ProvisionerURL: u.String()}, nil
}

// OwnServer is a server of one test, with settings of its own.
func OwnServer(t testing.TB, version string, settings map[string]string) *Prepared {
	t.Helper()
	s, err := prepare(testdb.ServerWith(t, version, settings))
	if err != nil {
		t.Fatalf("prepare a tenant server: %v", err)
	}
	return s
}

// TenantServer is the package's server of the version.
func TenantServer(t testing.TB, version string) *Prepared {
	t.Helper()
	return NamedServer(t, version, "", nil)
}

// NamedServer is another one of the version that the package's tests share.
func NamedServer(t testing.TB, version, name string, settings map[string]string) *Prepared {
	t.Helper()
	tenantServers.Lock()
	defer tenantServers.Unlock()
	if s := tenantServers.running[version+name]; s != nil {
		return s
	}
	started, err := pgserver.Start(context.Background(), pgserver.Test(testdb.Bin(t, version), settings))
	if err != nil {
		t.Fatalf("start a tenant server: %v", err)
	}
	s, err := prepare(started)
	if err != nil {
		_ = started.Close()
		t.Fatalf("prepare a tenant server: %v", err)
	}
	if tenantServers.running == nil {
		tenantServers.running = map[string]*Prepared{}
	}
	tenantServers.running[version+name] = s
	return s
}

// Mover prepares the server for moves, once, and gives the password of the role that
// moves: with another one, the tests that run beside would be locked out.
func (p *Prepared) Mover(t testing.TB) string {
	t.Helper()
	p.moving.Lock()
	defer p.moving.Unlock()
	if p.mover != "" {
		return p.mover
	}
	password := pg.NewPassword()
	verifier, err := pg.SCRAMVerifier(password)
	if err == nil {
		err = migrations.PrepareMoves(context.Background(), p.URL(), verifier)
	}
	if err != nil {
		t.Fatalf("prepare a tenant server for moves: %v", err)
	}
	p.mover = password
	return password
}

// Main is TestMain of a package whose tests share servers.
func Main(m *testing.M) {
	testdb.Main(m, func() error {
		var err error
		for _, s := range tenantServers.running {
			if closeErr := s.Close(); err == nil {
				err = closeErr
			}
		}
		return err
	})
}

// World is one control plane.
type World struct {
	controltest.Control
	controltest.Keys

	Servers   *server.Service
	Store     *operation.Store
	Provision *provision.Service
	Activated []provision.Activated
	Waker     *Waker
	Log       *slog.Logger

	activating sync.Mutex // real workers make many tenants at once
}

// Waker counts instead of inserting jobs.
type Waker struct {
	sync.Mutex

	Woken map[uuid.UUID]int
}

// Wake implements operation.Waker.
func (w *Waker) Wake(_ context.Context, _ pgx.Tx, ids ...uuid.UUID) error {
	w.Lock()
	defer w.Unlock()
	for _, id := range ids {
		w.Woken[id]++
	}
	return nil
}

// New makes a control plane that knows no server yet.
func New(t testing.TB) *World {
	t.Helper()
	w := &World{Control: controltest.New(t), Keys: controltest.NewKeys(t), Waker: &Waker{Woken: map[uuid.UUID]int{}}}
	w.Log = slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		w.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	w.Servers = server.NewService(replay.DB{Pool: w.Pool}, w.Keys.Control, w.Log, server.Options{})
	w.use(w.Waker)
	return w
}

// UseQueue makes the rooms anew with a real queue, for real workers.
func (w *World) UseQueue(t testing.TB) *job.Queue {
	t.Helper()
	queue, err := job.NewInsertOnly(w.Pool, w.Log)
	if err != nil {
		t.Fatal(err)
	}
	w.use(queue)
	return queue
}

func (w *World) use(waker operation.Waker) {
	db := replay.DB{Pool: w.Pool}
	w.Store = operation.NewStore(db, waker)
	w.Provision = provision.NewService(db, w.Store, w.Servers, w.Public, w.Keys.Control, w.Log, provision.Options{
		Activated: func(_ context.Context, _ pgx.Tx, a provision.Activated) error {
			w.activating.Lock()
			defer w.activating.Unlock()
			w.Activated = append(w.Activated, a)
			return nil
		},
	})
}

// AddServer makes the server known under the name.
func (w *World) AddServer(t testing.TB, name, address string, databases int) server.Server {
	t.Helper()
	added, err := w.Servers.Add(t.Context(), server.New{
		Name: name, URL: address, Capacity: server.Capacity{Databases: databases, Connections: 100},
	}, nil)
	if err != nil {
		t.Fatalf("add server %s: %v", name, err)
	}
	return added
}

// Ask writes a tenant and asks for its database. Without an owner and a sign-up
// it gets an owner.
func (w *World) Ask(t testing.TB, slug string, p provision.Params) (tenantID, operationID uuid.UUID) {
	t.Helper()
	tenantID = uuid.Must(uuid.NewV7())
	if p.SignupID == uuid.Nil && p.Owner == nil {
		p.Owner = &provision.Owner{Email: "Ada@" + slug + ".example", FullName: "Ada Lovelace"}
	}
	err := pg.InTx(t.Context(), w.Pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), `
			INSERT INTO control.tenants (id, slug, name, status, plan_id)
			SELECT $1, $2, initcap($2), 'provisioning', id FROM control.plans WHERE code = 'standard'`, tenantID, slug)
		if err != nil {
			return err
		}
		if p.SignupID != uuid.Nil {
			_, err := tx.Exec(t.Context(), "UPDATE control.signups SET tenant_id = $2, status = 'provisioning' WHERE id = $1", p.SignupID, tenantID)
			if err != nil {
				return err
			}
		}
		operationID, err = w.Provision.Start(t.Context(), tx, tenantID, p, "operator:test")
		return err
	})
	if err != nil {
		t.Fatalf("ask for tenant %s: %v", slug, err)
	}
	return tenantID, operationID
}

// Tenant makes a tenant that is active.
func (w *World) Tenant(t testing.TB, slug string) uuid.UUID {
	t.Helper()
	id, op := w.Ask(t, slug, provision.Params{})
	w.MustRun(t, w.Runner(map[string]operation.Handler{provision.Kind: w.Provision}), op)
	return id
}

// Runner runs operations in the test's own goroutines.
func (w *World) Runner(handlers map[string]operation.Handler) *operation.Runner {
	return operation.NewRunner(w.Store, "test", w.Log, handlers)
}

// Run runs the operation once and tells what it is then.
func (w *World) Run(t testing.TB, r *operation.Runner, operationID uuid.UUID) *operation.Operation {
	t.Helper()
	if err := r.Run(context.WithoutCancel(t.Context()), operationID); err != nil {
		t.Fatalf("run the operation: %v", err)
	}
	return w.Get(t, operationID)
}

// MustRun expects success.
func (w *World) MustRun(t testing.TB, r *operation.Runner, operationID uuid.UUID) {
	t.Helper()
	if o := w.Run(t, r, operationID); o.Status != operation.Succeeded || o.Progress != 1 {
		t.Fatalf("the operation is %s at %v: %+v, steps %+v", o.Status, o.Progress, o.Error, o.Steps)
	}
}

// Get reads an operation.
func (w *World) Get(t testing.TB, operationID uuid.UUID) *operation.Operation {
	t.Helper()
	o, err := w.Store.Get(context.WithoutCancel(t.Context()), operationID)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// Bury lets the lease of a run that "died" be dead at once.
func (w *World) Bury(t testing.TB, op uuid.UUID) {
	t.Helper()
	w.Exec(t, "UPDATE control.operations SET lease_until = now() - interval '1 second' WHERE id = $1", op)
}

// Login is the URL by which a node reaches the tenant's database: the password is
// opened with the data plane's key.
func (w *World) Login(t testing.TB, tenantID uuid.UUID) string {
	t.Helper()
	var server uuid.UUID
	var database string
	var incarnation int
	var credential []byte
	err := w.Pool.QueryRow(t.Context(), "SELECT server_id, database_name, incarnation, credential FROM control.tenants WHERE id = $1", tenantID).
		Scan(&server, &database, &incarnation, &credential)
	if err != nil {
		t.Fatal(err)
	}
	password, err := w.Data.Open(credential, route.CredentialContext(tenantID, incarnation))
	if err != nil {
		t.Fatalf("open the tenant's credential: %v", err)
	}
	s, err := w.Servers.Get(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(database, string(password)),
		Host: fmt.Sprintf("%s:%d", s.Host, s.Port), Path: "/" + database, RawQuery: "sslmode=disable",
	}
	return u.String()
}

// AtDatabase is the address of another database of the same server.
func AtDatabase(t testing.TB, address, database string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + database
	return u.String()
}

// Exec changes the control database.
func (w *World) Exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	if _, err := w.Pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// One reads one value.
func One[T any](t testing.TB, q pg.Querier, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := q.QueryRow(context.WithoutCancel(t.Context()), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// Counts expects so many rows.
func Counts(t testing.TB, q pg.Querier, from string, want int) {
	t.Helper()
	if n := One[int](t, q, "SELECT count(*) FROM "+from); n != want {
		t.Errorf("%d rows in %s, want %d", n, from, want)
	}
}

// OnBoth runs the test on the system's Postgres and on 18.
func OnBoth(t *testing.T, test func(t *testing.T, version string)) {
	t.Helper()
	for _, version := range testdb.Versions {
		t.Run("postgres="+version, func(t *testing.T) {
			t.Parallel()
			test(t, version)
		})
	}
}
