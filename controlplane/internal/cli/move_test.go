package cli_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/ouvira/ouvira/controlplane/internal/cli"
)

// Moves and drains are followed to their end.
func TestWaitForMoves(t *testing.T) {
	t.Parallel()
	const queued = `{"id":"o","status":"queued","steps":[{"name":"copy","status":"pending"}],"error":{"message":"No room.","next_action":"Add a server."}}`
	for name, command := range map[string][]string{
		"move":  {"tenant", "move", "acme", "--server", "b", "--wait"},
		"drain": {"server", "drain", "a", "--wait"},
		"adopt": {"tenant", "adopt", "t-1", "--server", "a", "--slug", "acme", "--wait"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			waits(t, queued, command)
		})
	}
}

// Each command asks for what it says, and shows how things are then.
func TestServerCommands(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		asks string // method, path and body
	}{
		"move":     {[]string{"tenant", "move", "acme", "--server", "b"}, `POST /v1/tenants/acme/move {"server":"b"}`},
		"drain":    {[]string{"server", "drain", "a"}, "POST /v1/servers/a/drain "},
		"adopt":    {[]string{"tenant", "adopt", "t-1", "--server", "a"}, `POST /v1/servers/a/adopt {"tenant_id":"t-1"}`},
		"adopt as": {[]string{"tenant", "adopt", "t-1", "--server", "a", "--slug", "acme", "--name", "Acme", "--plan", "big"}, `POST /v1/servers/a/adopt {"name":"Acme","plan":"big","slug":"acme","tenant_id":"t-1"}`},
		"activate": {[]string{"server", "activate", "a"}, "POST /v1/servers/a/activate "},
		"show":     {[]string{"server", "show", "a"}, "GET /v1/servers/a "},
		"capacity": {[]string{"server", "set", "a", "--databases", "9", "--connections", "50"}, `PATCH /v1/servers/a {"capacity":{"connections":50,"databases":9}}`},
		"failover": {[]string{"server", "set", "a", "--address", "pg-2.example:5433"}, `PATCH /v1/servers/a {"address":{"host":"pg-2.example","port":5433}}`},
		"status":   {[]string{"server", "set", "a", "--status", "offline", "--region", "eu"}, `PATCH /v1/servers/a {"region":"eu","status":"offline"}`},
		"prepare":  {[]string{"server", "prepare", "a", "--postgres-url", "-"}, `POST /v1/servers/a/prepare {"url":"postgres://x"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPerson(t)
			first := make(chan string, 10)
			p.env["OUVIRA_URL"] = serve(t, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				first <- r.Method + " " + r.URL.Path + " " + string(body)
				_, _ = w.Write([]byte(`{"name":"a","status":"draining","tenants":7,"operation":{"id":"o-1","kind":"x","status":"queued"}}`))
			})
			code, out, errOut := p.run(t, "postgres://x\n", append(c.args, "-o", "json")...)
			if code != cli.ExitOK {
				t.Fatalf("exit %d: %s", code, errOut)
			}
			if asked := <-first; asked != c.asks {
				t.Errorf("asked for %s", asked)
			}
			var shown map[string]any
			if err := json.Unmarshal([]byte(out), &shown); err != nil || shown["id"] != "o-1" && shown["tenants"] != 7.0 {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	for _, args := range [][]string{
		{"tenant", "move", "acme"},
		{"server", "set", "a"},
		{"server", "set", "a", "--address", "nowhere"},
		{"server", "prepare", "a"},
	} {
		p := newPerson(t)
		p.env["OUVIRA_URL"] = "http://127.0.0.1:1"
		if code, _, errOut := p.run(t, "", args...); code != cli.ExitUsage {
			t.Errorf("%s: exit %d: %s", strings.Join(args, " "), code, errOut)
		}
	}
}
