package provision_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/controltest"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/testdb"
	"github.com/ouvira/ouvira/shared/testdb/pgserver"
)

func TestMain(m *testing.M) { testdb.Main(m, stopServers) }

// tenantServers are the servers that the tests of this package share: one per
// version. Tests that stop a server have their own.
var tenantServers struct {
	sync.Mutex

	running map[string]*prepared
}

// prepared is a server that each test adds with the provisioner's URL: adding
// it with the superuser's would give the provisioner a new password.
type prepared struct {
	*pgserver.Server

	provisionerURL string
}

func prepare(server *pgserver.Server) (*prepared, error) {
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
		return nil, err
	}
	u.User = url.UserPassword(migrations.ProvisionerRole, password)
	return &prepared{Server: server, provisionerURL: u.String()}, nil
}

func tenantServer(t testing.TB, version string) *prepared {
	t.Helper()
	tenantServers.Lock()
	defer tenantServers.Unlock()
	if s := tenantServers.running[version]; s != nil {
		return s
	}
	started, err := pgserver.Start(context.Background(), pgserver.Test(testdb.Bin(t, version), nil))
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
	tenantServers.running[version] = s
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

// world is one control plane with its tenant servers.
type world struct {
	controltest.Control
	controltest.Keys

	servers   *server.Service
	store     *operation.Store
	provision *provision.Service
	runner    *operation.Runner
	activated []provision.Activated
	waker     *waker
	log       *slog.Logger
}

// waker counts instead of inserting jobs: tests say themselves who runs.
type waker struct {
	sync.Mutex

	woken map[uuid.UUID]int
}

func (w *waker) Wake(_ context.Context, _ pgx.Tx, ids ...uuid.UUID) error {
	w.Lock()
	defer w.Unlock()
	for _, id := range ids {
		w.woken[id]++
	}
	return nil
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{Control: controltest.New(t), Keys: controltest.NewKeys(t), waker: &waker{woken: map[uuid.UUID]int{}}}
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	w.log = log
	w.servers = server.NewService(w.Pool, w.Keys.Control, log, server.Options{})
	w.store = operation.NewStore(w.Pool, w.waker)
	w.provision = provision.NewService(w.Pool, w.store, w.servers, w.Public, w.Keys.Control, log, provision.Options{
		Activated: func(_ context.Context, _ pgx.Tx, a provision.Activated) error {
			w.activated = append(w.activated, a)
			return nil
		},
	})
	w.runner = operation.NewRunner(w.store, "test", log, map[string]operation.Handler{
		provision.Kind: w.provision, provision.KindWarm: w.provision.Warm(), provision.KindWarmOff: w.provision.WarmOff(),
	})
	return w
}

// addServer makes the shared server of the version known under the name.
func (w *world) addServer(t testing.TB, name, address string, databases int) server.Server {
	t.Helper()
	added, err := w.servers.Add(t.Context(), server.New{
		Name: name, URL: address, Capacity: server.Capacity{Databases: databases, Connections: 100},
	}, nil)
	if err != nil {
		t.Fatalf("add server %s: %v", name, err)
	}
	return added
}

// tenant writes a tenant and asks for its database.
func (w *world) tenant(t testing.TB, slug string, p provision.Params) (tenantID, operationID uuid.UUID) {
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
		operationID, err = w.provision.Start(t.Context(), tx, tenantID, p, "operator:test")
		return err
	})
	if err != nil {
		t.Fatalf("ask for tenant %s: %v", slug, err)
	}
	return tenantID, operationID
}

// signup writes a verified sign-up.
func (w *world) signup(t *testing.T, slug string) uuid.UUID {
	t.Helper()
	id := uuid.Must(uuid.NewV7())
	_, err := w.Pool.Exec(t.Context(), `
		INSERT INTO control.signups (id, company_name, slug, full_name, email, password_hash, expires_at)
		VALUES ($1, 'Initech GmbH', $2, 'Bill Lumbergh', 'bill@initech.example', '$argon2id$hash', now() + interval '1 hour')`, id, slug)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (w *world) run(t *testing.T, operationID uuid.UUID) *operation.Operation {
	t.Helper()
	if err := w.runner.Run(t.Context(), operationID); err != nil {
		t.Fatalf("run the operation: %v", err)
	}
	return w.get(t, operationID)
}

func (w *world) get(t testing.TB, operationID uuid.UUID) *operation.Operation {
	t.Helper()
	o, err := w.store.Get(t.Context(), operationID)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// mustRun expects success.
func (w *world) mustRun(t *testing.T, operationID uuid.UUID) {
	t.Helper()
	if o := w.run(t, operationID); o.Status != operation.Succeeded || o.Progress != 1 {
		t.Fatalf("the operation is %s at %v: %+v, steps %+v", o.Status, o.Progress, o.Error, o.Steps)
	}
}

// made is what a tenant's row says.
type made struct {
	Status, Reason string
	Server         *uuid.UUID
	Database       *string
	Incarnation    int
	Credential     []byte
	SchemaVersion  int64
	Keys           json.RawMessage
}

func (w *world) made(t *testing.T, tenantID uuid.UUID) made {
	t.Helper()
	var m made
	err := w.Pool.QueryRow(t.Context(), `
		SELECT status, status_reason, server_id, database_name, incarnation, credential, schema_version, signing_keys
		FROM control.tenants WHERE id = $1`, tenantID).
		Scan(&m.Status, &m.Reason, &m.Server, &m.Database, &m.Incarnation, &m.Credential, &m.SchemaVersion, &m.Keys)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// login is the URL by which a node reaches the tenant's database: the password
// is opened with the data plane's key.
func (w *world) login(t *testing.T, tenantID uuid.UUID, database string) string {
	t.Helper()
	m := w.made(t, tenantID)
	password, err := w.Data.Open(m.Credential, route.CredentialContext(tenantID, m.Incarnation))
	if err != nil {
		t.Fatalf("open the tenant's credential: %v", err)
	}
	s, err := w.servers.Get(t.Context(), *m.Server)
	if err != nil {
		t.Fatal(err)
	}
	if database == "" {
		database = *m.Database
	}
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(*m.Database, string(password)),
		Host: fmt.Sprintf("%s:%d", s.Host, s.Port), Path: "/" + database, RawQuery: "sslmode=disable",
	}
	return u.String()
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
