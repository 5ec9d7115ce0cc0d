package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	trace "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/testdb"
	"github.com/ouvira/ouvira/shared/tracing/tracetest"
)

// A caller's trace goes on through the node to the statements in the databases
// of two tenants, and nothing in it is a secret.
func TestSec39TracesReachTheStatementsAndHoldNoSecrets(t *testing.T) {
	t.Parallel()
	f := tenanttest.New(t)
	nodeURL, _ := controlDatabase(t, f)
	r := tracetest.New(t)
	n := start(t, f, nodeURL, "OUVIRA_TELEMETRY_ENDPOINT="+r.URL)

	const traceID, caller = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	secrets := []string{tenanttest.OwnerPassword, "canary-wrong-password", "canary-in-a-body", "canary-in-a-query", f.A.OwnerEmail, f.B.OwnerEmail, f.A.Password, f.B.Password}
	ask := func(tenant tenanttest.Tenant, method, path, token, body string) (int, string) {
		request, err := http.NewRequestWithContext(t.Context(), method, n.public+path, strings.NewReader(body))
		must(t, err)
		request.Host = tenant.Route.Slug + ".localhost"
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("Traceparent", "00-"+traceID+"-"+caller+"-01")
		if token != "" {
			request.Header.Set("Authorization", "Bearer "+token)
		}
		response, err := http.DefaultClient.Do(request)
		must(t, err)
		defer response.Body.Close()
		raw, err := io.ReadAll(response.Body)
		must(t, err)
		return response.StatusCode, string(raw)
	}
	for _, tenant := range []tenanttest.Tenant{f.A, f.B} {
		status, body := ask(tenant, http.MethodPost, "/auth/login", "", loginBody(tenant))
		var login struct {
			Tokens struct{ Access, Refresh string }
		}
		if status != http.StatusOK || json.Unmarshal([]byte(body), &login) != nil || login.Tokens.Access == "" {
			t.Fatalf("login: %d %s", status, body)
		}
		token := login.Tokens.Access
		secrets = append(secrets, token, login.Tokens.Refresh)
		ask(tenant, http.MethodPost, "/auth/login", "", `{"identifier": "canary-in-a-body", "password": "canary-wrong-password"}`)
		for path, want := range map[string]int{
			"/account/me": 200,
			"/audit/activity-logs?search=canary-in-a-query": 200,
		} {
			if status, body := ask(tenant, http.MethodGet, path, token, ""); status != want {
				t.Errorf("%s: %d %s", path, status, body)
			}
		}
		if status, body := ask(tenant, http.MethodPatch, "/account/profile", token, `{"full_name": "canary-in-a-body"}`); status != 200 {
			t.Errorf("PATCH /account/profile: %d %s", status, body)
		}
	}
	n.stop()
	must(t, <-n.ended) // what waits is sent before the end

	spans := r.Spans(traceID)
	for _, tenant := range []tenanttest.Tenant{f.A, f.B} {
		for route, want := range map[string][]string{
			"POST /auth/login":       {"directory", "lease", "connect"},
			"GET /account/me":        {"directory", "lease", "Authenticate"},
			"PATCH /account/profile": {"directory", "lease", "BEGIN", "Authenticate", "COMMIT"},
		} {
			server, ok := spans.Find(func(s tracetest.Span) bool {
				return s.GetName() == route && s.Attribute("ouvira.tenant") == tenant.Route.Slug && s.Attribute("http.response.status_code") == "200"
			})
			if !ok {
				t.Errorf("%s: no span of %s", tenant.Route.Slug, route)
				continue
			}
			if server.Parent() != caller || server.GetKind() != trace.Span_SPAN_KIND_SERVER || server.Attribute("ouvira.tenant_id") != tenant.ID.String() {
				t.Errorf("%s: the span of %s is %v", tenant.Route.Slug, route, server)
			}
			for _, name := range want {
				if !spans.Below(server, name) {
					t.Errorf("%s: %s has no span %s below it", tenant.Route.Slug, route, name)
				}
			}
		}
	}
	for _, s := range spans {
		if text := s.Attribute("db.query.text"); text != "" && !strings.HasPrefix(text, "-- name: ") {
			t.Errorf("the span %s tells the text of a statement that may hold values: %s", s.GetName(), text)
		}
	}
	for _, secret := range secrets {
		if r.Holds(secret) {
			t.Errorf("%.12s… was sent to the collector", secret)
		}
	}
	if t.Failed() {
		t.Log(spans)
	}
}

// readiness is what /readyz says.
type readiness struct {
	Status string
	Checks []struct {
		Name, Note string
		Ready      bool
		Age        *float64 `json:"age_seconds"`
	}
}

func (n running) readiness(t *testing.T) (status int, routes, shares string, age float64) {
	t.Helper()
	status, body := get(t, http.MethodGet, n.internal+"/readyz", "", "")
	var r readiness
	must(t, json.Unmarshal([]byte(body), &r))
	age = -1
	for _, c := range r.Checks {
		switch c.Name {
		case "routes":
			routes = c.Note
			if c.Age != nil {
				age = *c.Age
			}
		case "connections":
			shares = c.Note
		}
	}
	return status, routes, shares, age
}

// A node that serves by what it has on disk is ready, and says so.
func TestANodeThatServesFromDiskIsReadyAndSaysSo(t *testing.T) {
	t.Parallel()
	f := tenanttest.New(t)
	nodeURL, superuserURL := controlDatabase(t, f)
	snapshot := "OUVIRA_SNAPSHOT_FILE=" + filepath.Join(t.TempDir(), "routes")
	n := start(t, f, nodeURL, snapshot)
	if status, routes, _, age := n.readiness(t); status != http.StatusOK || routes != "" || age < 0 {
		t.Errorf("with the control database: %d %q, %g s", status, routes, age)
	}
	// The database goes before the node does: else the node gives its share back.
	u, err := url.Parse(superuserURL)
	must(t, err)
	database := strings.TrimPrefix(u.Path, "/")
	server := testdb.Connect(t, f.SuperuserDB)
	_, err = server.Exec(t.Context(), "ALTER DATABASE "+database+" ALLOW_CONNECTIONS false")
	must(t, err)
	_, err = server.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", database)
	must(t, err)
	n.stop()
	must(t, <-n.ended)

	n = start(t, f, "postgres://ouvira_node@127.0.0.1:1/nowhere", snapshot)
	status, routes, shares, age := n.readiness(t)
	if status != http.StatusOK || !strings.Contains(routes, "served from the snapshot on disk") || !strings.Contains(shares, "since this node began") || age < 0 {
		t.Errorf("without it: %d %q %q, %g s", status, routes, shares, age)
	}
	if _, metrics := get(t, http.MethodGet, n.internal+"/metrics", "", ""); !strings.Contains(metrics, "\nouvira_routes_from_snapshot 1\n") {
		t.Error("the metrics do not say that the routes are the ones from disk")
	}
}

// The busiest tenants are shown where operators look, and nowhere else.
func TestTheBusiestTenantsAreShown(t *testing.T) {
	t.Parallel()
	f := tenanttest.New(t)
	nodeURL, _ := controlDatabase(t, f)
	n := start(t, f, nodeURL, "OUVIRA_TOP_TENANTS=1")
	for _, tenant := range []tenanttest.Tenant{f.A, f.B, f.A} {
		if status, body := get(t, http.MethodPost, n.public+"/auth/login", tenant.Route.Slug+".localhost", loginBody(tenant)); status != http.StatusOK {
			t.Fatalf("login: %d %s", status, body)
		}
	}
	for query, want := range map[string]string{"": "acme", "?by=requests&limit=5": "acme", "?by=errors": ""} {
		status, body := get(t, http.MethodGet, n.internal+"/debug/tenants"+query, "", "")
		var shown struct {
			Exact   bool
			Tenants []struct {
				Tenant   string
				Requests int
				Seconds  float64 `json:"database_seconds"`
			}
		}
		must(t, json.Unmarshal([]byte(body), &shown))
		switch {
		case status != http.StatusOK || !shown.Exact:
			t.Errorf("%s: %d %s", query, status, body)
		case want == "" && len(shown.Tenants) != 0:
			t.Errorf("%s: %s", query, body)
		case want != "" && (len(shown.Tenants) != 1 || shown.Tenants[0].Tenant != want || shown.Tenants[0].Requests != 2 || shown.Tenants[0].Seconds <= 0):
			t.Errorf("%s: %s", query, body)
		}
	}
	for _, wrong := range []string{"?by=size", "?limit=0", "?limit=many"} {
		if status, body := get(t, http.MethodGet, n.internal+"/debug/tenants"+wrong, "", ""); status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", wrong, status, body)
		}
	}
	if status, _ := get(t, http.MethodGet, n.public+"/debug/tenants", "acme.localhost", ""); status != http.StatusNotFound {
		t.Errorf("tenants are shown on the public listener: %d", status)
	}
	_, metrics := get(t, http.MethodGet, n.internal+"/metrics", "", "")
	// Whose statements took longer is not for a test to say.
	if !strings.Contains(metrics, `ouvira_top_tenant_requests{tenant="acme"} 2`) || strings.Contains(metrics, `ouvira_top_tenant_requests{tenant="globex"}`) ||
		strings.Count(metrics, "\nouvira_top_tenant_database_seconds{") != 1 {
		t.Error("the metrics show other tenants than the one that may be shown")
	}
}

// A node that has come, while others hold all connections, is not ready before
// they have given some up: it would answer every request with 503.
func TestANodeWithoutAShareIsNotReady(t *testing.T) {
	t.Parallel()
	f := tenanttest.New(t)
	nodeURL, superuserURL := controlDatabase(t, f)
	other := testdb.Connect(t, superuserURL)
	sequence := 0
	hold := func(limit int) {
		t.Helper()
		sequence++
		_, err := other.Exec(t.Context(), `SELECT node.lease_shares('aaaaaaaaaa', 'other', 'node', $1, 1, 1, NULL, NULL, 0,
			jsonb_build_array(jsonb_build_object('server', $2::uuid, 'limit', $3::int, 'open', $3::int, 'wanted', $3::int)))`, sequence, f.Server.ID, limit)
		must(t, err)
	}
	hold(0)
	var granted int
	must(t, other.QueryRow(t.Context(), "SELECT granted FROM control.shares").Scan(&granted))
	hold(granted)
	n := launch(t, f, nodeURL)
	heard := func() (count int) {
		must(t, other.QueryRow(t.Context(), "SELECT count(*) FROM control.instances").Scan(&count))
		return count
	}
	for deadline := time.Now().Add(20 * time.Second); heard() < 2; {
		if time.Now().After(deadline) {
			t.Fatal("the node does not report")
		}
	}
	if status, body := get(t, http.MethodGet, n.internal+"/readyz", "", ""); status != http.StatusServiceUnavailable {
		t.Errorf("without a share: %d %s", status, body)
	}
	hold(1)
	n.becomesReady(t)
	for _, tenant := range []tenanttest.Tenant{f.A, f.B} {
		if status, body := get(t, http.MethodPost, n.public+"/auth/login", tenant.Route.Slug+".localhost", loginBody(tenant)); status != http.StatusOK {
			t.Errorf("login at %s: %d %s", tenant.Route.Slug, status, body)
		}
	}
	n.stop()
	must(t, <-n.ended)
}
