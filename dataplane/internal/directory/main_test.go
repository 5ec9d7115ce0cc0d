package directory_test

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/ouvira/ouvira/dataplane/internal/directory"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
)

func TestMain(m *testing.M) {
	// The guardian of the test server lives as long as the process.
	testdb.Main(m, func() error {
		return goleak.Find(goleak.IgnoreAnyFunction("github.com/ouvira/ouvira/shared/testdb/guardian.(*guardian).start.func1"))
	})
}

// control is a control database as one test sees it: the control plane's side
// by the superuser, the node's side by a login of its own.
type control struct {
	database string
	admin    *pgx.Conn // superuser
	adminURL string
	nodeURL  string
	server   uuid.UUID
}

func newControl(t testing.TB) *control {
	t.Helper()
	fingerprint, err := migrations.Control.Fingerprint()
	if err != nil {
		t.Fatal(err)
	}
	c := &control{adminURL: testdb.New(t, testdb.Template{Name: "route table", Fingerprint: fingerprint, Build: build})}
	u, err := url.Parse(c.adminURL)
	if err != nil {
		t.Fatal(err)
	}
	c.database = strings.TrimPrefix(u.Path, "/")
	c.admin = testdb.Connect(t, c.adminURL)
	// A login of this test's own: roles are shared by all databases of the
	// server, and another test may change the password of ouvira_node.
	role, password := "node_"+strings.ReplaceAll(uuid.NewString(), "-", ""), pg.NewPassword()
	verifier, err := pg.SCRAMVerifier(password)
	if err != nil {
		t.Fatal(err)
	}
	c.exec(t, fmt.Sprintf("CREATE ROLE %s LOGIN INHERIT PASSWORD '%s' IN ROLE %s", role, verifier, migrations.NodeRole))
	t.Cleanup(func() { forget(t, c, role) })
	c.exec(t, fmt.Sprintf("REVOKE ALL ON DATABASE %s FROM PUBLIC", c.database))
	c.exec(t, fmt.Sprintf("GRANT CONNECT ON DATABASE %s TO %s", c.database, role))
	u.User = url.UserPassword(role, password)
	c.nodeURL = u.String()
	c.server = uuid.New()
	c.exec(t, `INSERT INTO control.servers (id, name, host, port, max_databases, max_connections, system_identifier, postgres_version, provisioner_credential)
		VALUES ($1, 'a', '127.0.0.1', 5432, 100, 40, 1, 150000, '')`, c.server)
	c.exec(t, "SELECT control.publish_server($1)", c.server)
	return c
}

// forget drops the login. The test's context has ended, and so have its
// connections.
func forget(t testing.TB, c *control, role string) {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, c.adminURL)
	if err != nil {
		t.Errorf("clean up: %v", err)
		return
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, fmt.Sprintf("REVOKE ALL ON DATABASE %s FROM %s; DROP ROLE %s", c.database, role, role)); err != nil {
		t.Errorf("clean up: %v", err)
	}
}

func build(ctx context.Context, address string) error {
	u, err := url.Parse(address)
	if err != nil {
		return err
	}
	name := strings.TrimPrefix(u.Path, "/")
	if err := migrations.BootstrapControl(ctx, address, migrations.ControlBootstrap{Database: name}); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "ALTER DATABASE "+name+" OWNER TO "+migrations.ControlOwnerRole)
	_ = conn.Close(ctx)
	if err != nil {
		return err
	}
	_, err = migrations.Up(ctx, tenanttest.WithRole(address, migrations.ControlOwnerRole), migrations.Control)
	return err
}

func (c *control) exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	if _, err := c.admin.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

const keysJSON = `[{"kid": "k1", "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig",
	"x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]`

// tenant makes an active tenant with a published route.
func (c *control) tenant(t testing.TB, slug string) uuid.UUID {
	t.Helper()
	id := uuid.New()
	c.exec(t, `INSERT INTO control.tenants (id, slug, name, status, plan_id, server_id, database_name, credential, signing_keys, schema_version)
		VALUES ($1::uuid, $2, $2, 'active', '01900000-0000-7000-8000-000000000001', $3, 'ov_' || replace(($1::uuid)::text, '-', ''), decode(repeat('5a', 96), 'hex'), $4, 2)`,
		id, slug, c.server, keysJSON)
	c.publish(t, id)
	return id
}

func (c *control) publish(t testing.TB, tenant uuid.UUID) {
	t.Helper()
	c.exec(t, "SELECT control.publish_route($1)", tenant)
}

// silently changes a tenant and its route's version without a notice.
func (c *control) silently(t testing.TB, tenant uuid.UUID, set string, args ...any) {
	t.Helper()
	c.exec(t, "UPDATE control.tenants SET "+set+" WHERE id = $1", append([]any{tenant}, args...)...)
	c.exec(t, `WITH v AS (UPDATE control.route_clock SET version = version + 1 RETURNING version)
		UPDATE control.routes SET version = v.version FROM v WHERE tenant_id = $1`, tenant)
}

// domain gives the tenant a verified domain; the route is not published.
func (c *control) domain(t testing.TB, tenant uuid.UUID, host string, primary bool) {
	t.Helper()
	c.exec(t, `INSERT INTO control.domains (id, tenant_id, hostname, status, is_primary, challenge)
		VALUES ($1, $2, $3, 'verified', $4, 'x')`, uuid.New(), tenant, host, primary)
}

// options are those of a node that polls rarely: what it learns, it learns by
// notification.
func (c *control) options() directory.Options {
	return directory.Options{
		DSN: c.nodeURL, NodeID: "n-" + uuid.NewString()[:8], BaseDomain: "localhost", PollEvery: time.Hour,
	}
}

// run starts a directory and waits until it is ready; it ends with the test.
func run(t testing.TB, o directory.Options, before ...func(*directory.Directory)) *directory.Directory {
	t.Helper()
	d, err := directory.New(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, fn := range before {
		fn(d)
	}
	start(t, d)
	eventually(t, "the directory is ready", d.Ready)
	return d
}

func start(t testing.TB, d *directory.Directory) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the directory ended: %v", err)
		}
	})
}

// eventually polls until ok, or fails the test.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("this did not come true: %s", what)
		}
		<-tick.C
	}
}

// finds tells whether the host leads to the tenant.
func finds(d *directory.Directory, host string, tenant uuid.UUID) bool {
	r, err := d.Lookup(host)
	return err == nil && r.TenantID == tenant
}
