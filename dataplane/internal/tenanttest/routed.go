package tenanttest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/directory"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/testdb"
)

// Directory is a real one that has pulled the routes of the tenants out of a
// real control database; they all get the limits of the standard plan. It runs
// until the test ends.
func (f *Fixture) Directory(t testing.TB, subscriber func(directory.Event), tenants ...Tenant) *directory.Directory {
	t.Helper()
	return f.DirectoryOf(t, f.Control(t, tenants...), len(tenants), subscriber)
}

// DirectoryOf is Directory for a control database that is there already, with
// that many tenants: that of another node.
func (f *Fixture) DirectoryOf(t testing.TB, address string, tenants int, subscriber func(directory.Event)) *directory.Directory {
	t.Helper()
	d, err := directory.New(directory.Options{
		DSN: WithRole(address, migrations.NodeRole), NodeID: "n-" + uuid.NewString()[:8], BaseDomain: "localhost",
	})
	must(t, err)
	if subscriber != nil {
		d.Subscribe(subscriber)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the directory ended: %v", err)
		}
	})
	pulled, done := context.WithTimeout(t.Context(), 20*time.Second)
	defer done()
	must(t, d.Refresh(pulled, 0))
	if d.Len() != tenants {
		t.Fatalf("the directory knows %d tenants of %d", d.Len(), tenants)
	}
	return d
}

// Control is a control database that knows the tenants: its URL, as superuser.
// WithRole makes it a node's.
func (f *Fixture) Control(t testing.TB, tenants ...Tenant) (address string) {
	t.Helper()
	fingerprint, err := migrations.Control.Fingerprint()
	must(t, err)
	address = testdb.New(t, testdb.Template{Name: "routes", Fingerprint: fingerprint, Build: buildControl})
	control := testdb.Connect(t, address)
	exec := func(sql string, args ...any) {
		t.Helper()
		_, err := control.Exec(t.Context(), sql, args...)
		must(t, err)
	}
	s := f.Server
	exec(`INSERT INTO control.servers (id, name, host, port, tls_mode, max_databases, max_connections, system_identifier, postgres_version, provisioner_credential)
		VALUES ($1, $2, $3, $4, $5, 1000, $6, 1, 150000, '')`, s.ID, s.Name, s.Host, s.Port, s.TLSMode, s.MaxConnections)
	exec("SELECT control.publish_server($1)", s.ID)
	raised := map[string]int{}
	for _, l := range route.Limits() { // tests and benchmarks ask more often than people do
		raised[l.Name] = route.MaxLimit
	}
	exec("UPDATE control.plans SET limits = $1, max_connections = $2", raised, f.A.Route.MaxConnections)
	for _, tenant := range tenants {
		insertRoute(t, exec, tenant.Route)
	}
	return address
}

func insertRoute(t testing.TB, exec func(sql string, args ...any), r *route.Route) {
	t.Helper()
	keys, err := json.Marshal(r.Keys)
	must(t, err)
	exec(`INSERT INTO control.tenants (id, slug, name, status, plan_id, server_id, incarnation, database_name, credential,
		                               token_epoch, schema_version, signing_keys)
		SELECT $1, $2, $2, $3, id, $4, $5, $6, $7, $8, $9, $10 FROM control.plans WHERE code = 'standard'`,
		r.TenantID, r.Slug, string(r.Status), r.Server.ID, r.Incarnation, r.Database, r.Credential, r.TokenEpoch, r.SchemaVersion, keys)
	exec("SELECT control.publish_route($1)", r.TenantID)
}

// buildControl migrates an empty database as the control database's owner.
func buildControl(ctx context.Context, address string) error {
	u, err := url.Parse(address)
	if err != nil {
		return fmt.Errorf("parse the template's address: %w", err)
	}
	name := strings.TrimPrefix(u.Path, "/")
	if err := migrations.BootstrapControl(ctx, address, migrations.ControlBootstrap{Database: name}); err != nil {
		return fmt.Errorf("prepare the control database: %w", err)
	}
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		return fmt.Errorf("connect to the template: %w", err)
	}
	_, err = conn.Exec(ctx, "ALTER DATABASE "+name+" OWNER TO "+migrations.ControlOwnerRole)
	_ = conn.Close(ctx)
	if err != nil {
		return fmt.Errorf("give the template to its owner: %w", err)
	}
	_, err = migrations.Up(ctx, WithRole(address, migrations.ControlOwnerRole), migrations.Control)
	return err
}

// Fill makes n tenants tenant-1, tenant-2, … that have a route and no database,
// one in ten with a domain of its own: for what depends on how many are known.
func Fill(t testing.TB, controlURL string, server uuid.UUID, keysJSON string, n int) {
	t.Helper()
	control := testdb.Connect(t, controlURL)
	for _, step := range []struct {
		sql       string
		arguments []any
	}{
		{`INSERT INTO control.tenants (id, slug, name, status, plan_id, server_id, database_name, credential, signing_keys, settings)
			SELECT gen_random_uuid(), 'tenant-' || i, 'Tenant ' || i, 'active', '01900000-0000-7000-8000-000000000001', $1,
			       'ov_' || md5(i::text), decode(repeat('5a', 96), 'hex'), $2, '{"locale": "en"}'
			FROM generate_series(1, $3) i`, []any{server, keysJSON, n}},
		{`INSERT INTO control.domains (id, tenant_id, hostname, status, challenge)
			SELECT gen_random_uuid(), id, slug || '.example', 'verified', 'x' FROM control.tenants WHERE slug LIKE 'tenant-%0'`, nil},
		{`INSERT INTO control.routes (tenant_id, version)
			SELECT t.id, c.version + row_number() OVER () FROM control.tenants t, control.route_clock c WHERE t.slug LIKE 'tenant-%'`, nil},
		{`UPDATE control.route_clock SET version = version + $1`, []any{n}},
	} {
		_, err := control.Exec(t.Context(), step.sql, step.arguments...)
		must(t, err)
	}
	must(t, control.Close(t.Context()))
}
