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
func controlDatabase(t *testing.T, f *tenanttest.Fixture) (nodeURL string) {
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
	return tenanttest.WithRole(address, migrations.NodeRole)
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

func TestServe(t *testing.T) {
	t.Parallel()
	f := tenanttest.New(t)
	environ := []string{
		"OUVIRA_NODE_DATABASE_URL=" + controlDatabase(t, f), "OUVIRA_DATA_KEY_FILE=" + f.KeyFile,
		"OUVIRA_LISTEN=127.0.0.1:0", "OUVIRA_INTERNAL_LISTEN=127.0.0.1:0", "OUVIRA_NODE_ID=node-1",
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	reader, writer := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"serve"}, environ, writer)
		_ = writer.Close()
	}()
	var listening struct{ Public, Internal string }
	log := bufio.NewScanner(reader)
	for listening.Public == "" && log.Scan() {
		must(t, json.Unmarshal(log.Bytes(), &listening))
	}
	go func() { _, _ = io.Copy(io.Discard, reader) }()
	if listening.Public == "" {
		t.Fatalf("the node does not listen: %v", <-ended)
	}

	internal := "http://" + listening.Internal
	for deadline := time.Now().Add(10 * time.Second); ; {
		status, body := get(t, http.MethodGet, internal+"/readyz", "", "")
		if status == 200 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not ready: %s", body)
		}
	}
	if _, err := try(t, []string{"OUVIRA_INTERNAL_LISTEN=" + listening.Internal}, "healthcheck"); err != nil {
		t.Errorf("healthcheck: %v", err)
	}
	login := `{"identifier":"` + f.A.OwnerEmail + `","password":"` + tenanttest.OwnerPassword + `"}`
	if status, body := get(t, http.MethodPost, "http://"+listening.Public+"/auth/login", "acme.localhost", login); status != 200 {
		t.Errorf("login at A: %d %s", status, body)
	}
	if status, _ := get(t, http.MethodPost, "http://"+listening.Public+"/auth/login", "globex.localhost", login); status != 401 {
		t.Errorf("A's owner at B: %d", status)
	}
	if status, _ := get(t, http.MethodGet, "http://"+listening.Public+"/metrics", "acme.localhost", ""); status != 404 {
		t.Errorf("metrics on the public listener: %d", status)
	}
	if status, body := get(t, http.MethodGet, internal+"/metrics", "", ""); status != 200 || !strings.Contains(body, "ouvira_http_request_duration_seconds") {
		t.Errorf("metrics: %d", status)
	}
	stop()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the end: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the node does not end")
	}
}

func TestServeSaysWhyItCannotStart(t *testing.T) {
	t.Parallel()
	f := tenanttest.New(t)
	good, err := url.Parse(controlDatabase(t, f))
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
