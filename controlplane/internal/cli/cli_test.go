package cli_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ouvira/ouvira/controlplane/internal/cli"
)

// person is somebody at a terminal, with a home directory.
type person struct {
	home string
	env  map[string]string
}

func newPerson(t *testing.T) *person {
	t.Helper()
	return &person{home: t.TempDir(), env: map[string]string{}}
}

func (p *person) run(t *testing.T, in string, args ...string) (code int, out, errOut string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = cli.Run(t.Context(), args, cli.Process{
		In: strings.NewReader(in), Out: &stdout, Err: &stderr,
		Getenv: func(name string) string { return p.env[name] }, ConfigDir: func() (string, error) { return p.home, nil },
	})
	return code, stdout.String(), stderr.String()
}

// serve answers every request with fn.
func serve(t *testing.T, fn http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(fn)
	t.Cleanup(s.Close)
	return s.URL
}

func problem(w http.ResponseWriter, status int) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"status":%d,"detail":"What is wrong.","code":"x","request_id":"REQ-1","errors":[{"field":"slug","code":"taken","message":"Taken."}]}`, status)
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]int{
		400: cli.ExitFailure, 401: cli.ExitRefused, 403: cli.ExitRefused, 404: cli.ExitNotFound, 409: cli.ExitConflict,
		412: cli.ExitConflict, 413: cli.ExitFailure, 422: cli.ExitFailure, 429: cli.ExitFailure, 500: cli.ExitFailure, 503: cli.ExitFailure,
	} {
		p := newPerson(t)
		p.env["OUVIRA_URL"] = serve(t, func(w http.ResponseWriter, _ *http.Request) { problem(w, status) })
		code, out, errOut := p.run(t, "", "tenant", "show", "acme")
		if code != want || out != "" {
			t.Errorf("%d: exit %d, want %d; %q", status, code, want, out)
		}
		if !strings.Contains(errOut, "What is wrong.") || !strings.Contains(errOut, "slug: Taken.") || strings.Contains(errOut, "REQ-1") != (status >= 500) {
			t.Errorf("%d: %q", status, errOut)
		}
	}
	for _, args := range [][]string{
		{"fly"},
		{"tenant", "fly"},
		{"tenant", "show"},
		{"tenant", "show", "a", "b"},
		{"tenant", "create", "acme"},
		{"tenant", "list", "--fast"},
		{"tenant", "list", "-o", "xml"},
		{"login"},
		{"login", "--email", "a@b.example"},
		{"operator", "create", "--email", "a@b.example", "--password-stdin"},
		{"tenant", "list", "--url", "not a url"},
	} {
		if code, _, errOut := newPerson(t).run(t, "", args...); code != cli.ExitUsage {
			t.Errorf("%v: exit %d: %s", args, code, errOut)
		}
	}
	p := newPerson(t)
	p.env["OUVIRA_URL"] = "http://127.0.0.1:1"
	if code, _, errOut := p.run(t, "", "tenant", "list"); code != cli.ExitFailure || !strings.Contains(errOut, "does not answer at http://127.0.0.1:1") {
		t.Errorf("nobody there: exit %d: %s", code, errOut)
	}
}

// A saved login is the owner's alone to read, is refreshed when it has
// expired, and is sent to no address but its own.
func TestSavedLogin(t *testing.T) {
	t.Parallel()
	var generation atomic.Int32
	home := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/auth/login", "/v1/auth/refresh":
			if r.URL.Path == "/v1/auth/refresh" {
				var in map[string]string
				_ = json.NewDecoder(r.Body).Decode(&in)
				if in["refresh_token"] != fmt.Sprint("refresh-", generation.Load()) {
					problem(w, 401)
					return
				}
			}
			n := generation.Add(1)
			fmt.Fprintf(w, `{"access_token":"access-%d","refresh_token":"refresh-%d","expires_in":900}`, n, n)
		default:
			if r.Header.Get("Authorization") != fmt.Sprint("Bearer access-", generation.Load()) {
				problem(w, 401)
				return
			}
			_, _ = w.Write([]byte(`{"items":[{"slug":"acme","name":"A\u001b[2J"}],"next_cursor":null}`))
		}
	})
	var leaked atomic.Bool
	elsewhere := serve(t, func(w http.ResponseWriter, r *http.Request) {
		leaked.Store(leaked.Load() || r.Header.Get("Authorization") != "")
		problem(w, 401)
	})
	p := newPerson(t)
	p.env["OUVIRA_URL"] = home + "/"
	if code, _, errOut := p.run(t, "a secret of mine\n", "login", "--email", "ada@ouvira.test", "--password-stdin"); code != cli.ExitOK {
		t.Fatalf("login: %s", errOut)
	}
	file := filepath.Join(p.home, "ouvira", "sessions.json")
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the saved login: %v %v", info, err)
	}
	if raw, _ := os.ReadFile(file); bytes.Contains(raw, []byte("a secret of mine")) {
		t.Error("the password is saved")
	}
	delete(p.env, "OUVIRA_URL") // the last login says where to go
	code, out, errOut := p.run(t, "", "tenant", "list")
	if code != cli.ExitOK || !strings.Contains(out, "acme") {
		t.Errorf("exit %d: %s %s", code, out, errOut)
	}
	if strings.Contains(out, "\x1b") {
		t.Error("a name moves the cursor of the terminal")
	}
	spoil(t, file, "access-1", "access-0") // expired
	if code, _, errOut := p.run(t, "", "tenant", "list"); code != cli.ExitOK || generation.Load() != 2 {
		t.Errorf("exit %d after %d logins: %s", code, generation.Load(), errOut)
	}
	if code, _, _ := p.run(t, "", "tenant", "list"); code != cli.ExitOK || generation.Load() != 2 {
		t.Error("the refreshed tokens were not saved")
	}
	if code, _, _ := p.run(t, "", "tenant", "list", "--url", elsewhere); code != cli.ExitRefused || leaked.Load() {
		t.Errorf("elsewhere: exit %d, token sent: %v", code, leaked.Load())
	}
	p.env["OUVIRA_TOKEN"] = "from the environment"
	if code, _, _ := p.run(t, "", "tenant", "list"); code != cli.ExitRefused || generation.Load() != 2 {
		t.Error("a token of the environment was refreshed or not used")
	}
	delete(p.env, "OUVIRA_TOKEN")
	if code, _, _ := p.run(t, "", "logout"); code != cli.ExitOK {
		t.Error("logout")
	}
	if raw, _ := os.ReadFile(file); bytes.Contains(raw, []byte("access-")) {
		t.Error("tokens are left after the logout")
	}
}

func spoil(t *testing.T, file, old, replacement string) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, bytes.ReplaceAll(raw, []byte(old), []byte(replacement)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// --wait takes a broken stream up again and says how the operation ended.
func TestWait(t *testing.T) {
	t.Parallel()
	const queued = `{"id":"o","status":"queued","steps":[{"name":"place","status":"pending"}],"error":{"message":"No room.","next_action":"Add a server."}}`
	commands := map[string][]string{
		"create": {"tenant", "create", "acme", "--name", "Acme", "--owner-email", "a@b.example", "--owner-name", "A", "--wait"},
		"retry":  {"tenant", "retry", "acme", "--wait"},

		"delete":   {"tenant", "delete", "acme", "--confirm", "acme", "--wait"},
		"undelete": {"tenant", "undelete", "acme", "--wait"},
		"purge":    {"tenant", "purge", "acme", "--confirm", "acme", "--wait"},
	}
	for name, command := range commands {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			waits(t, queued, command)
		})
	}
}

func waits(t *testing.T, queued string, command []string) {
	t.Helper()
	for status, want := range map[string]int{"succeeded": cli.ExitOK, "failed": cli.ExitFailure} {
		var streams atomic.Int32
		p := newPerson(t)
		p.env["OUVIRA_URL"] = serve(t, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == http.MethodPost:
				w.WriteHeader(202)
				_, _ = w.Write([]byte(`{"tenant":{"id":"t","slug":"acme","status":"provisioning"},"operation":{"id":"o","status":"queued"}}`))
			case strings.HasSuffix(r.URL.Path, "/events") && streams.Add(1) == 1:
				fmt.Fprintf(w, "id: 1\ndata: %s\n\n", queued) // and breaks
			case strings.HasSuffix(r.URL.Path, "/events"):
				fmt.Fprintf(w, ": still here\n\ndata: {\"id\":\"o\",\"status\":%q,\"steps\":[],\"error\":{\"message\":\"Why.\"}}\n\n", status)
			case strings.HasPrefix(r.URL.Path, "/v1/operations/"):
				_, _ = w.Write([]byte(queued))
			default:
				_, _ = w.Write([]byte(`{"id":"t","slug":"acme","status":"active"}`))
			}
		})
		code, out, errOut := p.run(t, "", command...)
		if code != want || !strings.Contains(errOut, "waiting: No room. Add a server.") || streams.Load() != 2 {
			t.Errorf("%s: exit %d, %d streams: %s", status, code, streams.Load(), errOut)
		}
		if (status == "succeeded") != strings.Contains(out, "active") {
			t.Errorf("%s: %s", status, out)
		}
	}
}

// What cannot be undone is asked for by its name: typed, or given on the command line.
func TestConfirmation(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"delete", "purge"} {
		var asked atomic.Int32
		p := newPerson(t)
		p.env["OUVIRA_URL"] = serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				_, _ = w.Write([]byte(`{"id":"t","slug":"acme","name":"Acme\u001b[2J"}`))
				return
			}
			asked.Add(1)
			var in struct {
				ConfirmSlug string `json:"confirm_slug"`
			}
			_ = json.NewDecoder(r.Body).Decode(&in)
			if r.URL.Path != "/v1/tenants/t/"+verb || in.ConfirmSlug != "acme" {
				problem(w, 422)
				return
			}
			w.WriteHeader(202)
			fmt.Fprintf(w, `{"operation":{"id":"o","kind":"tenant.%s","status":"queued"}}`, verb)
		})
		for typed, want := range map[string]int{"acme\n": cli.ExitOK, "globex\n": cli.ExitFailure, "\n": cli.ExitFailure, "": cli.ExitFailure} {
			asked.Store(0)
			code, out, errOut := p.run(t, typed, "tenant", verb, "t")
			if code != want || (asked.Load() == 1) != (want == cli.ExitOK) || !strings.Contains(errOut, "(acme)") || strings.Contains(errOut, "\x1b") {
				t.Errorf("%s, typed %q: exit %d, asked %d times: %s", verb, typed, code, asked.Load(), errOut)
			}
			if (want == cli.ExitOK) != strings.Contains(out, "tenant."+verb) {
				t.Errorf("%s, typed %q: %s", verb, typed, out)
			}
		}
		if code, _, errOut := p.run(t, "", "tenant", verb, "t", "--confirm", "acme"); code != cli.ExitOK || strings.Contains(errOut, "Type") {
			t.Errorf("%s --confirm: exit %d: %s", verb, code, errOut)
		}
	}
}

// What is done at once shows the tenant as it is then.
func TestSuspendResumeSignOut(t *testing.T) {
	t.Parallel()
	p := newPerson(t)
	p.env["OUVIRA_URL"] = serve(t, func(w http.ResponseWriter, r *http.Request) {
		var in map[string]string
		_ = json.NewDecoder(r.Body).Decode(&in)
		fmt.Fprintf(w, `{"id":"t","slug":"acme","status":%q,"status_reason":%q}`, r.Method+" "+r.URL.Path, in["reason"])
	})
	for verb, more := range map[string][]string{"suspend": {"--reason", "Unpaid."}, "resume": nil, "sign-out-everyone": nil} {
		code, out, errOut := p.run(t, "", append([]string{"tenant", verb, "acme", "-o", "json"}, more...)...)
		var shown map[string]any
		if err := json.Unmarshal([]byte(out), &shown); code != cli.ExitOK || err != nil || shown["status"] != "POST /v1/tenants/acme/"+verb {
			t.Errorf("%s: exit %d: %s %s", verb, code, out, errOut)
		}
		if verb == "suspend" && shown["status_reason"] != "Unpaid." {
			t.Errorf("the reason was not sent: %s", out)
		}
	}
	if code, _, _ := p.run(t, "", "tenant", "suspend", "acme"); code != cli.ExitUsage {
		t.Errorf("without a reason: exit %d", code)
	}
}

func TestFormats(t *testing.T) {
	t.Parallel()
	p := newPerson(t)
	pages := 0
	p.env["OUVIRA_URL"] = serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("cursor") == "" {
			_, _ = w.Write([]byte(`{"items":[{"slug":"acme","name":"Acme: 1","settings":{"require_2fa":false},"server":null}],"next_cursor":"more"}`))
			return
		}
		pages++
		_, _ = w.Write([]byte(`{"items":[{"slug":"globex","server":"b"}],"next_cursor":null}`))
	})
	_, table, _ := p.run(t, "", "tenant", "list")
	if lines := strings.Split(strings.TrimSpace(table), "\n"); len(lines) != 3 || !strings.HasPrefix(lines[0], "SLUG") || !strings.HasPrefix(lines[2], "globex") {
		t.Errorf("table:\n%s", table)
	}
	_, raw, _ := p.run(t, "", "tenant", "list", "-o", "json")
	var items []map[string]any
	if err := json.Unmarshal([]byte(raw), &items); err != nil || len(items) != 2 || items[0]["server"] != nil || items[1]["server"] != "b" {
		t.Errorf("json: %v\n%s", err, raw)
	}
	_, text, _ := p.run(t, "", "tenant", "list", "-o", "yaml")
	if !strings.Contains(text, "slug: acme") || !strings.Contains(text, `name: 'Acme: 1'`) || strings.Contains(text, "{") {
		t.Errorf("yaml:\n%s", text)
	}
	pages = 0
	if _, one, _ := p.run(t, "", "tenant", "list", "--limit", "1"); strings.Contains(one, "globex") || pages != 0 {
		t.Errorf("--limit 1 read %d further pages:\n%s", pages, one)
	}
}

// The doctor mends first, and then looks; what could not be mended is said.
func TestDoctorFixes(t *testing.T) {
	t.Parallel()
	p := newPerson(t)
	var mended atomic.Bool
	p.env["OUVIRA_URL"] = serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.Method + " " + r.URL.Path {
		case "POST /v1/reconcile/repair":
			mended.Store(true)
			w.WriteHeader(http.StatusAccepted)
			_, _ = w.Write([]byte(`{"operations":[{"id":"1","kind":"tenant.repair","status":"queued"},{"id":"2","kind":"tenant.repair","status":"queued"}]}`))
		case "GET /v1/operations/1/events":
			_, _ = w.Write([]byte("data: {\"id\":\"1\",\"status\":\"succeeded\"}\n\n"))
		case "GET /v1/operations/2/events":
			_, _ = w.Write([]byte("data: {\"id\":\"2\",\"status\":\"failed\",\"error\":{\"message\":\"It comes back.\"}}\n\n"))
		case "GET /v1/reconcile":
			if !mended.Load() {
				t.Error("it looks before it has mended")
			}
			_, _ = w.Write([]byte(`{"findings":[],"servers":2,"tenants":3}`))
		case "GET /v1/servers":
			_, _ = w.Write([]byte(`{"items":[{"id":"s-1","name":"a","status":"active"}],"next_cursor":null}`))
		default:
			_, _ = w.Write([]byte(`{"items":[],"next_cursor":null}`))
		}
	})
	code, _, errOut := p.run(t, "", "doctor", "--fix")
	if code != cli.ExitOK || !strings.Contains(errOut, "It comes back.") || !strings.Contains(errOut, "1 tenant mended") {
		t.Errorf("exit %d: %s", code, errOut)
	}
}

// The doctor's exit code says whether tenants are affected. It asks for one server after
// the other, and for none that is offline.
func TestDoctor(t *testing.T) {
	t.Parallel()
	for severity, want := range map[string]int{"error": cli.ExitFailure, "warning": cli.ExitOK, "": cli.ExitOK} {
		p := newPerson(t)
		p.env["OUVIRA_URL"] = serve(t, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/v1/servers":
				_, _ = w.Write([]byte(`{"items":[{"id":"s-1","name":"a","status":"draining"},{"id":"s-2","name":"b","status":"offline"},{"id":"s-3","name":"c","status":"active"}],"next_cursor":null}`))
			case r.URL.Path == "/v1/operations" && r.URL.Query().Get("unresolved") != "true":
				t.Error("asked for operations that nobody has to look after")
			case r.URL.Path != "/v1/reconcile":
				_, _ = w.Write([]byte(`{"items":[],"next_cursor":null}`))
			case r.URL.Query().Get("server") == "s-2":
				t.Error("asked for a server that is offline")
			case severity == "" || r.URL.Query().Get("server") != "s-3":
				_, _ = w.Write([]byte(`{"findings":[],"servers":1,"tenants":1}`))
			default:
				fmt.Fprintf(w, `{"findings":[{"severity":%q,"message":"A database is missing.","action":"Restore it."}],"servers":1,"tenants":2}`, severity)
			}
		})
		code, out, errOut := p.run(t, "", "doctor")
		if code != want || !strings.Contains(errOut, map[bool]string{true: "2 servers, 2 tenants", false: "2 servers, 3 tenants"}[severity == ""]) {
			t.Errorf("%q: exit %d: %s", severity, code, errOut)
		}
		if !strings.Contains(out, "No active server has room") || (severity != "") != strings.Contains(out, "Restore it.") {
			t.Errorf("%q:\n%s", severity, out)
		}
	}
}

// A request whose answer is lost is sent again under its key, and is done once; what is
// shown once is not shown then, which is said. Where nobody listens nobody is waited for.
func TestALostAnswerIsAskedForAgain(t *testing.T) {
	t.Parallel()
	keys := make(chan string, 10)
	var omitted atomic.Bool
	p := newPerson(t)
	p.env["OUVIRA_URL"] = serve(t, func(w http.ResponseWriter, r *http.Request) {
		keys <- r.Header.Get("Idempotency-Key")
		switch {
		case len(keys) == 1:
			panic(http.ErrAbortHandler) // the connection breaks off
		case len(keys) == 2:
			problem(w, http.StatusServiceUnavailable)
			return
		case omitted.Load():
			w.Header().Set("Idempotency-Omitted", "secret")
		}
		w.Header().Set("Idempotency-Replayed", "true")
		fmt.Fprint(w, `{"id":"1","status":"active","secret":""}`)
	})
	if code, _, errOut := p.run(t, "", "tenant", "resume", "acme"); code != 0 || len(keys) != 3 {
		t.Fatalf("exit %d after %d requests: %s", code, len(keys), errOut)
	}
	first := <-keys
	if len(first) < 20 || <-keys != first || <-keys != first {
		t.Errorf("the requests have not one key: %q", first)
	}
	omitted.Store(true)
	code, out, errOut := p.run(t, "", "webhook", "add", "https://example.com/hook", "--event", "tenant.created")
	if code != cli.ExitFailure || out != "" || !strings.Contains(errOut, "answer was lost") || <-keys == first {
		t.Errorf("exit %d %q %q", code, out, errOut)
	}
}
