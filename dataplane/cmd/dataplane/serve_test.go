package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

// controlDatabase is a migrated control database that routes to the tenants.
func controlDatabase(t *testing.T, f *tenanttest.Fixture) (nodeURL, superuserURL string) {
	t.Helper()
	fingerprint, err := migrations.Control.Fingerprint()
	must(t, err)
	address := testdb.New(t, testdb.Template{Name: "node-control", Fingerprint: fingerprint, Build: func(ctx context.Context, address string) error {
		verifier, err := pg.SCRAMVerifier(testdb.RolePassword)
		if err != nil {
			return err
		}
		u, err := url.Parse(address)
		if err != nil {
			return err
		}
		err = migrations.BootstrapControl(ctx, address, migrations.ControlBootstrap{
			Database: strings.TrimPrefix(u.Path, "/"), ControlVerifier: verifier, NodeVerifier: verifier,
		})
		if err != nil {
			return err
		}
		_, err = migrations.Up(ctx, address, migrations.Control)
		return err
	}})
	conn := testdb.Connect(t, address)
	_, err = conn.Exec(t.Context(), `
		INSERT INTO control.servers (id, name, host, port, max_databases, max_connections, system_identifier, postgres_version, provisioner_credential)
		VALUES ($1, 'test', $2, $3, 10, 20, 1, 150000, '')`, f.Server.ID, f.Server.Host, int(f.Server.Port))
	must(t, err)
	for _, tenant := range []tenanttest.Tenant{f.A, f.B} {
		keys, err := json.Marshal(tenant.Route.Keys)
		must(t, err)
		_, err = conn.Exec(t.Context(), `
			INSERT INTO control.tenants (id, slug, name, status, plan_id, server_id, database_name, credential, schema_version, signing_keys)
			SELECT $1, $2, $2, 'active', p.id, $3, $4, $5, $6, $7 FROM control.plans p WHERE p.code = 'standard'`,
			tenant.ID, tenant.Route.Slug, f.Server.ID, tenant.Route.Database, tenant.Route.Credential, tenant.Route.SchemaVersion, keys)
		must(t, err)
		_, err = conn.Exec(t.Context(), "SELECT control.publish_route($1)", tenant.ID)
		must(t, err)
	}
	return tenanttest.WithRole(address, migrations.NodeRole), address
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// get asks an address; host may be empty.
func get(t *testing.T, method, address, host, body string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	must(t, err)
	request.Host = host
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	must(t, err)
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	must(t, err)
	return response.StatusCode, string(raw)
}

// running is a node in this process.
type running struct {
	public, internal string // addresses
	ended            <-chan error
	stop             context.CancelFunc
}

// start runs "serve" and waits until it is ready.
func start(t *testing.T, f *tenanttest.Fixture, nodeURL string, more ...string) running {
	t.Helper()
	n := launch(t, f, nodeURL, more...)
	n.becomesReady(t)
	return n
}

// becomesReady waits until the node says so.
func (n running) becomesReady(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		status, body := get(t, http.MethodGet, n.internal+"/readyz", "", "")
		if status == http.StatusOK {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not ready: %s", body)
		}
	}
}

// launch runs "serve" and waits until it listens.
func launch(t *testing.T, f *tenanttest.Fixture, nodeURL string, more ...string) running {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"serve"}, append([]string{
			"OUVIRA_NODE_DATABASE_URL=" + nodeURL, "OUVIRA_DATA_KEY_FILE=" + f.KeyFile,
			"OUVIRA_LISTEN=127.0.0.1:0", "OUVIRA_INTERNAL_LISTEN=127.0.0.1:0", "OUVIRA_NODE_ID=node-1", "OUVIRA_AUDIT_SEAL_EVERY=1s",
		}, more...), writer)
		_ = writer.Close()
	}()
	t.Cleanup(stop)
	var listening struct{ Public, Internal string }
	log := bufio.NewScanner(reader)
	for listening.Public == "" && log.Scan() {
		must(t, json.Unmarshal(log.Bytes(), &listening))
	}
	go func() { _, _ = io.Copy(io.Discard, reader) }()
	if listening.Public == "" {
		t.Fatalf("the node does not listen: %v", <-ended)
	}
	return running{"http://" + listening.Public, "http://" + listening.Internal, ended, stop}
}

func loginBody(tenant tenanttest.Tenant) string {
	return `{"identifier":"` + tenant.OwnerEmail + `","password":"` + tenanttest.OwnerPassword + `"}`
}

func TestServe(t *testing.T) {
	t.Parallel()
	f := tenanttest.New(t)
	nodeURL, _ := controlDatabase(t, f)
	n := start(t, f, nodeURL)
	if _, err := try(t, []string{"OUVIRA_INTERNAL_LISTEN=" + strings.TrimPrefix(n.internal, "http://")}, "healthcheck"); err != nil {
		t.Errorf("healthcheck: %v", err)
	}
	if status, body := get(t, http.MethodPost, n.public+"/auth/login", "acme.localhost", loginBody(f.A)); status != 200 {
		t.Errorf("login at A: %d %s", status, body)
	}
	if status, _ := get(t, http.MethodPost, n.public+"/auth/login", "globex.localhost", loginBody(f.A)); status != 401 {
		t.Errorf("A's owner at B: %d", status)
	}
	if status, _ := get(t, http.MethodGet, n.public+"/metrics", "acme.localhost", ""); status != 404 {
		t.Errorf("metrics on the public listener: %d", status)
	}
	if status, body := get(t, http.MethodGet, n.internal+"/metrics", "", ""); status != 200 || !strings.Contains(body, "ouvira_http_request_duration_seconds") {
		t.Errorf("metrics: %d", status)
	}
	n.stop()
	select {
	case err := <-n.ended:
		if err != nil {
			t.Errorf("the end: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the node does not end")
	}
}

func TestSec06ASuspendedTenantHears403BeforeItsRouteArrives(t *testing.T) {
	t.Parallel()
	f := tenanttest.New(t)
	nodeURL, control := controlDatabase(t, f)
	n := start(t, f, nodeURL)
	if status, body := get(t, http.MethodPost, n.public+"/auth/login", "acme.localhost", loginBody(f.A)); status != 200 {
		t.Fatalf("login: %d %s", status, body)
	}
	// The new route is not notified, and the fence is there already: the node
	// must ask before it answers.
	fence := testdb.Connect(t, f.A.AdminURL)
	_, err := fence.Exec(t.Context(), "REVOKE ouvira_app FROM "+f.A.Route.Database)
	must(t, err)
	_, err = testdb.Connect(t, control).Exec(t.Context(), `
		WITH tenant AS (UPDATE control.tenants SET status = 'suspended' WHERE slug = 'acme' RETURNING id),
		     clock AS (UPDATE control.route_clock SET version = version + 1 RETURNING version)
		UPDATE control.routes r SET version = clock.version FROM tenant, clock WHERE r.tenant_id = tenant.id`)
	must(t, err)
	if status, body := get(t, http.MethodPost, n.public+"/auth/login", "acme.localhost", loginBody(f.A)); status != 403 || !strings.Contains(body, "tenant_suspended") {
		t.Errorf("got %d %s", status, body)
	}
	if status, body := get(t, http.MethodPost, n.public+"/auth/login", "globex.localhost", loginBody(f.B)); status != 200 {
		t.Errorf("the other tenant: %d %s", status, body)
	}
}

func TestServeSaysWhyItCannotStart(t *testing.T) {
	t.Parallel()
	f := tenanttest.New(t)
	nodeURL, _ := controlDatabase(t, f)
	good, err := url.Parse(nodeURL)
	must(t, err)
	wrong := *good
	wrong.RawQuery = "sslmode=disable"
	wrong.User = url.UserPassword("ouvira_node", "hunter2")
	absent := *good
	absent.Path = "/no_such_database"
	for address, want := range map[string]string{
		wrong.String():  "refused the user or the password",
		absent.String(): "does not exist",
	} {
		_, err := try(t, []string{
			"OUVIRA_NODE_DATABASE_URL=" + address, "OUVIRA_DATA_KEY_FILE=" + f.KeyFile,
			"OUVIRA_LISTEN=127.0.0.1:0", "OUVIRA_INTERNAL_LISTEN=127.0.0.1:0", "OUVIRA_NODE_ID=node-2",
		}, "serve")
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
