package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/deploy/stack"
	"github.com/ouvira/ouvira/shared/pg"
)

// shellBlock is a block of the README that a reader is meant to run.
var shellBlock = regexp.MustCompile("(?s)```sh\n(.*?)```")

// defaultPort is a port of the README's addresses.
var defaultPort = regexp.MustCompile(`(localhost):(80[0-9]{2})`)

// The README's conversation, run as it stands, signs a third tenant up. Then
// the servers are looked at with a superuser's eyes.
func TestTheReadmesConversation(t *testing.T) {
	t.Parallel()
	s, _ := start(t, stack.Options{})
	root, err := stack.Root()
	must(t, err)
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	must(t, err)
	script := "set -euo pipefail\n"
	for _, block := range shellBlock.FindAllSubmatch(readme, -1) {
		script += string(block[1])
	}
	base := s.Ports().Control - 8080
	script = defaultPort.ReplaceAllStringFunc(script, func(address string) string {
		host, port, _ := strings.Cut(address, ":")
		n, _ := strconv.Atoi(port)
		return host + ":" + strconv.Itoa(n+base)
	})
	shell := exec.CommandContext(t.Context(), "bash", "-c", script)
	shell.Dir = t.TempDir()
	out, err := shell.CombinedOutput()
	if err != nil {
		t.Fatalf("the README's lines end with %v:\n%s", err, out)
	}
	text := string(out)
	for _, want := range []string{
		`"status":"active"`, `"email":"bill@initech.example"`, `"account_uid":"USR-`,
		`"code":"permission_denied"`, `"allowed":false`, `"address":"the basement"`, `"user_display":"Milton Waddams"`, `"valid":true`,
	} {
		if !strings.Contains(strings.ReplaceAll(text, `": `, `":`), want) {
			t.Errorf("the conversation does not show %s:\n%s", want, text)
		}
	}
	if !strings.HasSuffix(strings.TrimSpace(text), "401") {
		t.Errorf("the token of initech at globex is not answered with 401:\n%s", text)
	}
	seenByASuperuser(t, s)
	docs(t, s)
}

// seenByASuperuser: three tenant databases with three roles on two servers, and
// a role enters no database but its own.
func seenByASuperuser(t *testing.T, s *stack.Stack) {
	t.Helper()
	total := 0
	for _, server := range s.Demo().Postgres.Servers {
		databases := column[string](t, server.URL, "SELECT datname::text FROM pg_database WHERE datname LIKE 'ov\\_%' ORDER BY 1")
		roles := column[string](t, server.URL, "SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'ov\\_%' ORDER BY 1")
		if strings.Join(databases, " ") != strings.Join(roles, " ") {
			t.Errorf("server %s: databases %v, roles %v", server.Name, databases, roles)
		}
		if len(databases) == 0 {
			t.Errorf("server %s holds no tenant: placement does not spread", server.Name)
		}
		total += len(databases)
		for _, role := range roles {
			entered := enters(t, server.URL, role)
			if strings.Join(entered, " ") != role {
				t.Errorf("role %s on server %s enters %v", role, server.Name, entered)
			}
		}
	}
	if total != 3 {
		t.Errorf("tenant databases: %d, want 3", total)
	}
}

// enters gives the role a password for the occasion and tries every database.
func enters(t *testing.T, server, role string) []string {
	t.Helper()
	quoted := pgx.Identifier{role}.Sanitize()
	superuser := sql(t, server)
	eventually(t, recovery, func() (bool, string) { // a worker may be at the role too
		_, err := superuser.Exec(t.Context(), "ALTER ROLE "+quoted+" PASSWORD 'for-this-test'")
		if pg.Code(err) != "XX000" {
			must(t, err)
		}
		return err == nil, fmt.Sprint(err)
	})
	var entered []string
	for _, database := range column[string](t, server, "SELECT datname::text FROM pg_database ORDER BY 1") {
		conn, err := pgx.Connect(t.Context(), inDatabase(t, server, database, url.UserPassword(role, "for-this-test")))
		if err == nil {
			_ = conn.Close(t.Context())
			entered = append(entered, database)
		}
	}
	return entered
}

// docs: both planes describe themselves, on any Host, without a network.
func docs(t *testing.T, s *stack.Stack) {
	t.Helper()
	unknown := s.TenantAPI(0, "nobody")
	for _, api := range []stack.API{s.ControlAPI(), unknown, s.TenantAPI(1, "acme")} {
		answer, err := api.Call(t.Context(), http.MethodGet, "/openapi.json", nil)
		must(t, err)
		var document struct {
			OpenAPI string         `json:"openapi"`
			Paths   map[string]any `json:"paths"`
		}
		if err := json.Unmarshal(answer.Body, &document); err != nil || !strings.HasPrefix(document.OpenAPI, "3.1") || len(document.Paths) == 0 {
			t.Errorf("%s %s: openapi %q with %d paths, %v", api.Base, api.Host, document.OpenAPI, len(document.Paths), err)
		}
		page, err := api.Call(t.Context(), http.MethodGet, "/swagger/", nil)
		must(t, err)
		if page.Status != http.StatusOK || bytes.Contains(page.Body, []byte(`src="http`)) || bytes.Contains(page.Body, []byte(`src="//`)) {
			t.Errorf("%s: the Swagger page (%d) needs a network", api.Base, page.Status)
		}
	}
	answer, err := unknown.Call(t.Context(), http.MethodGet, "/account/me", nil)
	must(t, err)
	if answer.Status != http.StatusNotFound {
		t.Errorf("an unknown host is answered with %d, want 404", answer.Status)
	}
}

// A sign-up that finds no server with room waits, says so, and goes on when one
// is added.
func TestASignUpWaitsForCapacity(t *testing.T) {
	t.Parallel()
	s, _ := start(t, stack.Options{NoTenants: true, Capacity: stack.Capacity{Databases: 1, Connections: 20}})
	for _, slug := range []string{"first", "second"} {
		c := signUp(t, s, slug)
		eventually(t, recovery, func() (bool, string) {
			got := c.state(t.Context(), s)
			return got.Status == "active", got.Status + " " + got.Reason
		})
	}
	third := signUp(t, s, "third")
	eventually(t, 20*time.Second, func() (bool, string) {
		got := third.state(t.Context(), s)
		return got.Status == "provisioning" && strings.Contains(got.Reason, "room"), got.Status + " " + got.Reason
	})
	if _, err := sql(t, s.Demo().Postgres.Control).Exec(t.Context(), "UPDATE control.servers SET max_databases = 5 WHERE name = 'a'"); err != nil {
		t.Fatal(err)
	}
	eventually(t, recovery, func() (bool, string) {
		got := third.state(t.Context(), s)
		return got.Status == "active", got.Status + " " + got.Reason
	})
	third.login(t, s, 1)
}
