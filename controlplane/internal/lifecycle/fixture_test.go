package lifecycle_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/lifecycle"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/tenant"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
)

func TestMain(m *testing.M) { fleettest.Main(m) }

var ada = &audit.Actor{Kind: audit.KindCLI, ID: "ada", Name: "ada@ouvira.example"}

// world is a control plane with one tenant server.
type world struct {
	*fleettest.World

	server  *fleettest.Prepared
	admin   *pgx.Conn // superuser of the server
	life    *lifecycle.Service
	tenants *tenant.Service
	runner  *operation.Runner
	backups *shelf
}

func newWorld(t *testing.T, version string) *world {
	t.Helper()
	return furnish(t, fleettest.New(t), fleettest.TenantServer(t, version))
}

func furnish(t *testing.T, fleet *fleettest.World, server *fleettest.Prepared) *world {
	t.Helper()
	w := &world{World: fleet, server: server, admin: testdb.Connect(t, server.URL()), backups: &shelf{taken: map[uuid.UUID]uuid.UUID{}}}
	w.AddServer(t, "a", server.ProvisionerURL, 1000)
	w.life = lifecycle.NewService(w.Pool, w.Store, w.Servers, w.Log, lifecycle.Options{Backups: w.backups})
	w.tenants = &tenant.Service{DB: w.Pool, Provision: w.Provision, Lifecycle: w.life}
	w.runner = w.Runner(w.life.Handlers())
	return w
}

// shelf stands in for the room of backups: it keeps nothing but who asked.
type shelf struct {
	sync.Mutex

	taken map[uuid.UUID]uuid.UUID // operation → backup
	fails error
}

func (s *shelf) Take(ctx context.Context, run *operation.Run, w *tenantdb.Work, d tenantdb.Database, _ string) (uuid.UUID, error) {
	s.Lock()
	defer s.Unlock()
	if s.fails != nil {
		return uuid.Nil, s.fails
	}
	inside, err := w.Inside(ctx, d) // it must be possible to read what is backed up
	if err != nil {
		return uuid.Nil, err
	}
	var users int
	if err := inside.Scan(ctx, []any{&users}, "SELECT count(*) FROM public.users"); err != nil {
		return uuid.Nil, err
	}
	if _, known := s.taken[run.ID]; !known {
		s.taken[run.ID] = uuid.New()
	}
	return s.taken[run.ID], nil
}

func (w *world) suspend(t *testing.T, id uuid.UUID) {
	t.Helper()
	if _, err := w.tenants.Suspend(t.Context(), ada, id, "unpaid"); err != nil {
		t.Fatalf("suspend: %v", err)
	}
}

// settle runs whatever is queued until nothing is.
func (w *world) settle(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		ids := fleettest.One[[]uuid.UUID](t, w.Pool, "SELECT COALESCE(array_agg(id ORDER BY id), '{}') FROM control.operations WHERE status IN ('queued', 'running')")
		if len(ids) == 0 {
			return
		}
		for _, id := range ids {
			w.Run(t, w.runner, id)
		}
		if time.Now().After(deadline) {
			t.Fatalf("operations do not come to their end: %+v", w.Get(t, ids[0]))
		}
	}
}

func (w *world) delete(t *testing.T, id uuid.UUID) (op uuid.UUID) {
	t.Helper()
	op, err := w.tenants.Delete(t.Context(), ada, id, "")
	if err != nil {
		t.Fatalf("delete: %v", err)
	}
	return op
}

// deleted makes a tenant and deletes it.
func (w *world) deleted(t *testing.T, slug string) uuid.UUID {
	t.Helper()
	id := w.Tenant(t, slug)
	w.MustRun(t, w.runner, w.delete(t, id))
	w.settle(t)
	return id
}

type row struct {
	Status, Before, Fence string
	Purge                 *time.Time
	Routed                bool // not a tombstone
	Kept                  bool // anything that opens the database
}

func (w *world) row(t *testing.T, id uuid.UUID) row {
	t.Helper()
	var r row
	err := w.Pool.QueryRow(context.WithoutCancel(t.Context()), `
		SELECT t.status, t.status_before, t.fence, t.purge_at, COALESCE(NOT r.deleted, false),
		       t.credential IS NOT NULL OR t.signing_keys <> '[]' OR t.database_name IS NOT NULL OR t.server_id IS NOT NULL
		FROM control.tenants t LEFT JOIN control.routes r ON r.tenant_id = t.id WHERE t.id = $1`, id).
		Scan(&r.Status, &r.Before, &r.Fence, &r.Purge, &r.Routed, &r.Kept)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// shut tells whether the tenant's role can do nothing.
func (w *world) shut(t *testing.T, id uuid.UUID) bool {
	t.Helper()
	name := tenantdb.Name(id, 1)
	var login, member bool
	var limit, sessions int
	err := w.Pool.QueryRow(context.WithoutCancel(t.Context()), "SELECT 1").Scan(&sessions)
	if err == nil {
		err = testdb.Connect(t, w.server.URL()).QueryRow(context.WithoutCancel(t.Context()), `
			SELECT rolcanlogin, rolconnlimit, pg_has_role(rolname, 'ouvira_app', 'usage'),
			       (SELECT count(*) FROM pg_stat_activity WHERE usename = rolname)
			FROM pg_roles WHERE rolname = $1`, name).Scan(&login, &limit, &member, &sessions)
	}
	if err != nil {
		t.Fatal(err)
	}
	if login != member || login != (limit == 10) || (!login && (limit != 0 || sessions != 0)) {
		t.Fatalf("the fence is half: login %v, member %v, limit %d, %d sessions", login, member, limit, sessions)
	}
	return !login
}

// served expects that the tenant is active and its role can work.
func (w *world) served(t *testing.T, id uuid.UUID) {
	t.Helper()
	r := w.row(t, id)
	if r.Status != "active" || !r.Routed || r.Fence != "" || r.Purge != nil || w.shut(t, id) {
		t.Fatalf("the tenant is not served: %+v", r)
	}
	conn := testdb.Connect(t, w.Login(t, id))
	if n := fleettest.One[int](t, conn, "SELECT count(*) FROM public.users"); n != 1 {
		t.Errorf("%d users", n)
	}
}

// fenced expects that the role is fenced and that the row knows it.
func (w *world) fenced(t *testing.T, id uuid.UUID, status string) {
	t.Helper()
	r := w.row(t, id)
	want := fleettest.One[string](t, w.Pool, "SELECT server_id || '/' || incarnation FROM control.tenants WHERE id = $1", id)
	if r.Status != status || r.Fence != want || !w.shut(t, id) {
		t.Fatalf("%+v, want %s and a fence at %s", r, status, want)
	}
	conn, err := pgx.Connect(t.Context(), w.Login(t, id))
	if err == nil {
		_ = conn.Close(t.Context())
		t.Fatal("the role logs in")
	}
	if code := pg.Code(err); code != "28000" && code != pg.CodeTooManyConnections {
		t.Errorf("the role is refused with %v", err)
	}
}

// told counts the events and audit rows of the tenant.
func (w *world) told(t *testing.T, id uuid.UUID, event, action string, want int) {
	t.Helper()
	if n := fleettest.One[int](t, w.Pool, "SELECT count(*) FROM control.events WHERE tenant_id = $1 AND type = $2", id, event); n != want {
		t.Errorf("%d events %s, want %d", n, event, want)
	}
	if n := fleettest.One[int](t, w.Pool, "SELECT count(*) FROM control.audit_log WHERE tenant_id = $1 AND action = $2", id, action); n != want {
		t.Errorf("%d audit rows %s, want %d", n, action, want)
	}
}
