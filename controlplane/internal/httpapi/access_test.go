package httpapi_test

import (
	"bufio"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/httpapi"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/operator"
	"github.com/ouvira/ouvira/shared/pg"

	"github.com/jackc/pgx/v5"
)

// document reads the OpenAPI document that the server gives.
func (w *world) document(t *testing.T) map[string]map[string]struct {
	Security    []map[string]any `json:"security"`
	Description string           `json:"description"`
} {
	t.Helper()
	var d struct {
		OpenAPI string `json:"openapi"`
		Paths   map[string]map[string]struct {
			Security    []map[string]any `json:"security"`
			Description string           `json:"description"`
		} `json:"paths"`
	}
	if err := json.Unmarshal([]byte(w.want(t, 200, "", "GET", "/openapi.json", nil).raw), &d); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(d.OpenAPI, "3.1") || len(d.Paths) < 20 {
		t.Fatalf("OpenAPI %s with %d paths", d.OpenAPI, len(d.Paths))
	}
	return d.Paths
}

var parameter = regexp.MustCompile(`\{[a-z]+\}`)

// Every operation of the document, asked by nobody and by every role: open ones
// answer all, the others 401 without a login and 403 without the permission
// that the document names.
func TestEveryOperationTimesEveryRole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tokens := map[operator.Role]string{}
	for _, role := range operator.Roles {
		tokens[role] = w.operator(t, role)
	}
	permission := regexp.MustCompile("Needs the permission `([a-z.]+)`")
	open := 0
	for path, operations := range w.document(t) {
		address := parameter.ReplaceAllString(path, "01900000-0000-7000-8000-000000000001")
		for method, o := range operations {
			method = strings.ToUpper(method)
			if path == "/v1/auth/logout" {
				continue
			}
			anonymous := w.call(t, "", method, address, nil).status
			if len(o.Security) == 0 {
				open++
				if anonymous == 401 && !strings.HasPrefix(path, "/v1/auth/") || anonymous == 403 {
					t.Errorf("%s %s is open and answers %d", method, path, anonymous)
				}
				continue
			}
			if anonymous != 401 {
				t.Errorf("%s %s answers %d without a login", method, path, anonymous)
			}
			needed := permission.FindStringSubmatch(o.Description)
			for role, token := range tokens {
				status := w.call(t, token, method, address, nil).status
				if may := needed == nil || role.May(operator.Permission(needed[1])); may == (status == 403) || status == 401 {
					t.Errorf("%s %s answers %d to %s", method, path, status, role)
				}
			}
		}
	}
	if open != 7 {
		t.Errorf("%d operations are open to anyone, and 7 are known to be: login, refresh, and five of sign-ups", open)
	}
}

// TestSec31 the server does not start with an operation that does not say who
// may.
func TestSec31UndeclaredAccessIsRefused(t *testing.T) {
	t.Parallel()
	if err := httpapi.CheckWith("/v1/tenants", operator.Permission("tenant.fly")); err == nil {
		t.Error("an operation that needs an unknown permission was accepted")
	}
	if err := httpapi.CheckWith("/v1/tenants", ""); err == nil {
		t.Error("an operation without a declaration was accepted")
	}
	if err := httpapi.CheckWith("", ""); err != nil {
		t.Errorf("the API itself is refused: %v", err)
	}
}

// TestSec40 tokens have at least 128 random bits and are stored hashed.
func TestSec40TokensAreLongAndStoredHashed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	account := operator.New{Email: "ada@ouvira.test", Role: operator.RoleOwner, Password: password}
	if _, err := w.rooms.Operators.Create(t.Context(), w.cli(), account); err != nil {
		t.Fatal(err)
	}
	login := map[string]any{"email": "ada@ouvira.test", "password": password}
	seen := map[string]bool{}
	form := regexp.MustCompile(`^[a-z]{4}_[A-Za-z0-9_-]{43}$`) // 43 characters of base64: 256 bits
	var last answer
	for range 20 {
		last = w.want(t, 200, "", "POST", "/v1/auth/login", login)
		for _, name := range []string{"access_token", "refresh_token"} {
			token := last.text(name)
			if !form.MatchString(token) || seen[token] {
				t.Fatalf("%s is short or came twice", name)
			}
			seen[token] = true
		}
	}
	rotated := w.want(t, 200, "", "POST", "/v1/auth/refresh", map[string]string{"refresh_token": last.text("refresh_token")})
	seen[rotated.text("access_token")], seen[rotated.text("refresh_token")] = true, true

	rows := one[string](t, w, "SELECT string_agg(s::text, E'\\n') FROM control.operator_sessions s")
	for token := range seen {
		if strings.Contains(rows, token) || strings.Contains(rows, token[5:]) {
			t.Error("a token is stored as it is")
		}
	}
	if n := one[int](t, w, "SELECT min(length(access_hash) + length(refresh_hash)) FROM control.operator_sessions"); n != 64 {
		t.Errorf("the hashes have %d bytes", n)
	}
}

// TestSec57 a fresh installation has no account and no password that works.
func TestSec57FreshInstallHasNoDefaultCredentials(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if n := one[int](t, w, "SELECT count(*) FROM control.operators"); n != 0 {
		t.Errorf("%d operators after the migrations", n)
	}
	for _, table := range []string{"operator_sessions", "servers", "tenants", "signups"} {
		if n := one[int](t, w, "SELECT count(*) FROM control."+table); n != 0 {
			t.Errorf("%d rows in %s after the migrations", n, table)
		}
	}
	for _, email := range []string{"admin", "admin@localhost", "operator@ouvira.example", "root", ""} {
		for _, pw := range []string{"admin", "password", "ouvira", "changeme", ""} {
			w.want(t, 401, "", "POST", "/v1/auth/login", map[string]string{"email": email, "password": pw})
		}
	}
}

func TestLoginRefreshLogout(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := w.rooms.Operators.Create(t.Context(), w.cli(), operator.New{Email: "Ada@Ouvira.test", Role: operator.RoleSupport, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	first := w.want(t, 200, "", "POST", "/v1/auth/login", map[string]string{"email": "ADA@ouvira.TEST", "password": password})
	if first.field("expires_in") != float64(900) {
		t.Errorf("unexpected answer: %s", first.raw)
	}
	second := w.want(t, 200, "", "POST", "/v1/auth/refresh", map[string]string{"refresh_token": first.text("refresh_token")})
	w.want(t, 401, first.text("access_token"), "GET", "/v1/auth/me", nil)
	w.want(t, 401, "", "POST", "/v1/auth/refresh", map[string]string{"refresh_token": first.text("refresh_token")})
	w.want(t, 401, second.text("refresh_token"), "GET", "/v1/auth/me", nil) // no access token
	w.want(t, 401, "", "POST", "/v1/auth/refresh", map[string]string{"refresh_token": second.text("access_token")})
	if a := w.want(t, 200, second.text("access_token"), "GET", "/v1/auth/me", nil); a.text("email") != "ada@ouvira.test" || a.text("role") != "support" {
		t.Errorf("unexpected answer: %s", a.raw)
	}
	w.want(t, 204, second.text("access_token"), "POST", "/v1/auth/logout", nil)
	w.want(t, 401, second.text("access_token"), "GET", "/v1/auth/me", nil)
	w.want(t, 401, "", "POST", "/v1/auth/refresh", map[string]string{"refresh_token": second.text("refresh_token")})

	third := w.want(t, 200, "", "POST", "/v1/auth/login", map[string]string{"email": "ada@ouvira.test", "password": password})
	w.exec(t, "UPDATE control.operators SET is_active = false")
	w.want(t, 401, third.text("access_token"), "GET", "/v1/auth/me", nil)
	w.want(t, 401, "", "POST", "/v1/auth/refresh", map[string]string{"refresh_token": third.text("refresh_token")})
	w.want(t, 401, "", "GET", "/v1/auth/me", nil, "Authorization", "Basic YTpi")
}

// TestSec52 a cookie is HttpOnly, has the prefix where it is secure, opens
// /jobs, and is worth nothing to a page of another origin.
func TestSec52CookieLogin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *httpapi.Options) { o.SecureCookies = true })
	_, err := w.rooms.Operators.Create(t.Context(), w.cli(), operator.New{Email: "ada@ouvira.test", Role: operator.RoleOwner, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	login := map[string]any{"email": "ada@ouvira.test", "password": password, "cookie": true}
	w.want(t, 403, "", "POST", "/v1/auth/login", login, "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site")
	a := w.want(t, 200, "", "POST", "/v1/auth/login", login, "Sec-Fetch-Site", "same-origin")
	if a.text("access_token") != "" || a.text("refresh_token") != "" {
		t.Error("a cookie login shows tokens to scripts")
	}
	set := a.header.Get("Set-Cookie")
	for _, want := range []string{"__Host-ouvira_session=", "; Path=/", "; HttpOnly", "; Secure", "; SameSite=Lax"} {
		if !strings.Contains(set, want) {
			t.Errorf("the cookie lacks %q: %s", want, set)
		}
	}
	cookie, _, _ := strings.Cut(set, ";")
	w.want(t, 200, "", "GET", "/v1/auth/me", nil, "Cookie", cookie)
	w.want(t, 200, "", "GET", "/jobs/", nil, "Cookie", cookie)
	w.want(t, 401, "", "GET", "/jobs/", nil)
	w.want(t, 403, w.operator(t, operator.RoleSupport), "GET", "/jobs/", nil)
	w.want(t, 422, "", "POST", "/v1/tenants", "{}", "Cookie", cookie, "Sec-Fetch-Site", "same-origin")
	for _, path := range []string{"/v1/tenants", "/jobs/api/jobs/cancel"} {
		w.want(t, 403, "", "POST", path, "{}", "Cookie", cookie, "Sec-Fetch-Site", "cross-site")
		w.want(t, 403, "", "POST", path, "{}", "Cookie", cookie, "Origin", "https://evil.example")
		w.want(t, 403, "", "POST", path, "{}", "Cookie", cookie, "Origin", "null")
	}
	// A bearer token is no cookie, and the reverse.
	value := strings.TrimPrefix(cookie, "__Host-ouvira_session=")
	w.want(t, 401, value, "GET", "/v1/auth/me", nil)
	w.want(t, 401, "", "GET", "/v1/auth/me", nil, "Cookie", "__Host-ouvira_session="+w.operator(t, operator.RoleOwner))
	// Used, it lives on; unused, it ends.
	w.exec(t, "UPDATE control.operator_sessions SET access_expires_at = now() + interval '1 min'")
	w.want(t, 200, "", "GET", "/v1/auth/me", nil, "Cookie", cookie)
	if n := one[int](t, w, "SELECT count(*) FROM control.operator_sessions WHERE access_expires_at > now() + interval '25 min'"); n != 1 {
		t.Errorf("%d sessions were extended", n)
	}
	w.exec(t, "UPDATE control.operator_sessions SET access_expires_at = now()")
	w.want(t, 401, "", "GET", "/v1/auth/me", nil, "Cookie", cookie)
}

func TestCORSIsForSignupPagesOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	allowed := func(method, path, origin string) string {
		return w.call(t, "", method, path, nil, "Origin", origin, "Access-Control-Request-Method", "POST").
			header.Get("Access-Control-Allow-Origin")
	}
	if got := allowed("OPTIONS", "/v1/signups", "https://www.ouvira.test"); got != "https://www.ouvira.test" {
		t.Errorf("the sign-up page gets %q", got)
	}
	if got := allowed("OPTIONS", "/v1/signups/01900000-0000-7000-8000-000000000001/verify", "https://www.ouvira.test"); got != "https://www.ouvira.test" {
		t.Errorf("the sign-up page gets %q for verify", got)
	}
	for _, origin := range []string{"https://evil.example", "null", "http://www.ouvira.test"} {
		if got := allowed("OPTIONS", "/v1/signups", origin); got != "" {
			t.Errorf("%s gets %q", origin, got)
		}
	}
	for _, path := range []string{"/v1/tenants", "/v1/auth/login", "/v1/signupsandmore"} {
		if got := allowed("OPTIONS", path, "https://www.ouvira.test"); got != "" {
			t.Errorf("%s gives %q", path, got)
		}
	}
	closed := newWorld(t, func(o *httpapi.Options) { o.SignupOrigins = nil })
	if got := closed.call(t, "", "OPTIONS", "/v1/signups", nil, "Origin", "https://www.ouvira.test", "Access-Control-Request-Method", "POST").
		header.Get("Access-Control-Allow-Origin"); got != "" {
		t.Errorf("without configured origins %q is allowed", got)
	}
}

// Suspending and resuming change the route, in the transaction of the change.
func TestSuspendAndResume(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.operator(t, operator.RoleOperator)
	id := w.active(t, "acme")
	before := w.routeVersion(t, id)
	a := w.want(t, 200, token, "POST", "/v1/tenants/acme/suspend", map[string]string{"reason": "Unpaid since June."})
	if a.text("status") != "suspended" || a.text("status_reason") != "Unpaid since June." {
		t.Errorf("unexpected answer: %s", a.raw)
	}
	if got := one[string](t, w, "SELECT status FROM node.routes_v1 WHERE tenant_id = $1 AND version > $2", id, before); got != "suspended" {
		t.Errorf("the route says %q", got)
	}
	if a := w.want(t, 409, token, "POST", "/v1/tenants/acme/suspend", map[string]string{"reason": "Again."}); !strings.Contains(a.text("detail"), "suspended") || !strings.Contains(a.text("detail"), "resume") {
		t.Errorf("the refusal does not name the status and what is allowed: %s", a.raw)
	}
	if a := w.want(t, 200, token, "POST", "/v1/tenants/"+id+"/resume", map[string]string{}); a.text("status") != "active" || a.text("status_reason") != "" {
		t.Errorf("unexpected answer: %s", a.raw)
	}
	w.want(t, 200, token, "POST", "/v1/tenants/acme/suspend", map[string]string{"reason": "Unpaid."})
	w.want(t, 200, token, "POST", "/v1/tenants/acme/resume", nil) // without a body
	events := one[[]string](t, w, "SELECT array_agg(type ORDER BY created_at, id) FROM control.events")
	if want := []string{"tenant.suspended", "tenant.resumed", "tenant.suspended", "tenant.resumed"}; !slices.Equal(events, want) {
		t.Errorf("events %v", events)
	}
	log := w.want(t, 200, w.operator(t, operator.RoleAuditor), "GET", "/v1/tenants/acme/audit?limit=4", nil)
	if log.text("items.0.action") != "tenant.resume" || log.text("items.3.detail.reason") != "Unpaid since June." || log.text("items.0.ip_address") != "127.0.0.1" {
		t.Errorf("unexpected audit log: %s", log.raw)
	}
}

func TestSettingsReachTheRoute(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.operator(t, operator.RoleOperator)
	id := w.active(t, "acme")
	before := w.routeVersion(t, id)
	w.want(t, 200, token, "PATCH", "/v1/tenants/acme", map[string]any{"name": "Acme Corporation"})
	if w.routeVersion(t, id) != before {
		t.Error("a new name, which no route carries, published the route")
	}
	a := w.want(t, 200, token, "PATCH", "/v1/tenants/acme", map[string]any{"settings": map[string]any{
		"self_registration": false, "cors_origins": []string{"https://app.acme.example"}, "locale": "pt-BR",
	}})
	if a.text("name") != "Acme Corporation" || a.field("settings.self_registration") != false || a.text("settings.cors_origins.0") != "https://app.acme.example" {
		t.Errorf("unexpected answer: %s", a.raw)
	}
	if w.routeVersion(t, id) != before+1 {
		t.Error("the settings were not published")
	}
	a = w.want(t, 200, token, "PATCH", "/v1/tenants/acme", map[string]any{"settings": map[string]any{"cors_origins": []string{}, "require_2fa": true}})
	if a.field("settings.self_registration") != false || a.text("settings.locale") != "pt-BR" || a.field("settings.require_2fa") != true {
		t.Errorf("a patch touches what it does not name: %s", a.raw)
	}
	bad := w.want(t, 422, token, "PATCH", "/v1/tenants/acme", map[string]any{"settings": map[string]any{
		"cors_origins": []string{"https://ok.example", "*", "null"}, "reset_url": "javascript:alert(1)", "invite_url": "http://acme.example", "locale": "english",
	}})
	want := []string{"settings.locale", "settings.reset_url", "settings.invite_url", "settings.cors_origins[1]", "settings.cors_origins[2]"}
	if !slices.Equal(bad.fields(), want) {
		t.Errorf("named %v", bad.fields())
	}
}

// The stream shows the state at once, then each change, and ends by itself.
func TestOperationEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.operator(t, operator.RoleSupport)
	var id uuid.UUID
	err := pg.InTx(t.Context(), w.control.Pool, func(tx pgx.Tx) (err error) {
		id, err = w.rooms.Operations.Enqueue(t.Context(), tx, operation.Spec{Kind: "test.walk", Steps: []string{"left", "right"}, CreatedBy: "test"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	w.want(t, 404, token, "GET", "/v1/operations/01900000-0000-7000-8000-000000000001/events", nil)
	stream := w.open(t, token, "/v1/operations/"+id.String()+"/events")
	if got := stream.next(t); got.Status != operation.Queued || len(got.Steps) != 2 {
		t.Errorf("first event: %+v", got)
	}
	w.exec(t, "UPDATE control.operations SET status = 'running', updated_at = clock_timestamp() WHERE id = $1", id)
	if got := stream.next(t); got.Status != operation.Running {
		t.Errorf("second event: %+v", got)
	}
	w.exec(t, "UPDATE control.operation_steps SET status = 'succeeded' WHERE operation_id = $1", id)
	w.exec(t, "UPDATE control.operations SET status = 'succeeded', updated_at = clock_timestamp() WHERE id = $1", id)
	if got := stream.next(t); got.Status != operation.Succeeded || got.Progress != 1 {
		t.Errorf("third event: %+v", got)
	}
	if _, err := stream.lines.ReadString('\n'); err != io.EOF {
		t.Errorf("the stream goes on after the end: %v", err)
	}
	if a := w.want(t, 200, token, "GET", "/v1/operations?kind=test.walk", nil); a.text("items.0.id") != id.String() {
		t.Errorf("unexpected list: %s", a.raw)
	}
}

// A process that is told to stop does not wait for those who watch.
func TestStreamsEndWhenDraining(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var id uuid.UUID
	err := pg.InTx(t.Context(), w.control.Pool, func(tx pgx.Tx) (err error) {
		id, err = w.rooms.Operations.Enqueue(t.Context(), tx, operation.Spec{Kind: "test.walk", Steps: []string{"left"}, CreatedBy: "test"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	stream := w.open(t, w.operator(t, operator.RoleOwner), "/v1/operations/"+id.String()+"/events")
	stream.next(t)
	close(w.draining)
	if _, err := stream.lines.ReadString('\n'); err != io.EOF {
		t.Errorf("the stream goes on: %v", err)
	}
}

// Streams outlive the timeouts that end slow requests.
func TestStreamsOutliveTheTimeouts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	handler, err := httpapi.New(w.rooms, httpapi.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	const limit = 400 * time.Millisecond
	s := httptest.NewUnstartedServer(handler)
	s.Config.ReadTimeout, s.Config.WriteTimeout = limit, limit
	s.Start()
	t.Cleanup(s.Close)
	w.url = s.URL
	var id uuid.UUID
	err = pg.InTx(t.Context(), w.control.Pool, func(tx pgx.Tx) (err error) {
		id, err = w.rooms.Operations.Enqueue(t.Context(), tx, operation.Spec{Kind: "test.walk", Steps: []string{"left"}, CreatedBy: "test"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	stream := w.open(t, w.operator(t, operator.RoleOwner), "/v1/operations/"+id.String()+"/events")
	for begun := time.Now(); time.Since(begun) < 4*limit; { // each turn waits for the stream's own look
		stream.next(t)
		w.exec(t, "UPDATE control.operations SET updated_at = clock_timestamp() WHERE id = $1", id)
	}
	w.exec(t, "UPDATE control.operations SET status = 'failed', updated_at = clock_timestamp() WHERE id = $1", id)
	for stream.next(t).Status != operation.Failed {
	}
}

type events struct{ lines *bufio.Reader }

func (w *world) open(t *testing.T, token, path string) *events {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	client := &http.Client{Timeout: 20 * time.Second}
	res, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%d %s", res.StatusCode, res.Header.Get("Content-Type"))
	}
	return &events{bufio.NewReader(res.Body)}
}

func (e *events) next(t *testing.T) (o operation.Operation) {
	t.Helper()
	for {
		line, err := e.lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		data, ok := strings.CutPrefix(line, "data: ")
		if !ok {
			continue
		}
		if err := json.Unmarshal([]byte(data), &o); err != nil {
			t.Fatal(err)
		}
		if line, err = e.lines.ReadString('\n'); err != nil || line != "\n" {
			t.Fatalf("the event does not end: %q %v", line, err)
		}
		return o
	}
}

func TestAuditNeedsAnActor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	err := pg.InTx(t.Context(), w.control.Pool, func(tx pgx.Tx) error {
		return audit.Record(t.Context(), tx, audit.Entry{Action: "x", EntityType: "y", EntityID: "z"})
	})
	if err != audit.ErrNoActor { //nolint:errorlint // exactly this one
		t.Errorf("an entry without an actor: %v", err)
	}
}

// The log line of a request has no secret of it.
func TestRequestLogHasNoSecrets(t *testing.T) {
	t.Parallel()
	var out syncBuffer
	w := newWorld(t, func(o *httpapi.Options) { o.Log = slog.New(slog.NewJSONHandler(&out, nil)) })
	w.want(t, 401, "", "POST", "/v1/auth/login", map[string]string{"email": "ada@ouvira.test", "password": "CANARY-password"})
	w.want(t, 401, "CANARY-token", "GET", "/v1/tenants?q=CANARY-query", nil)
	w.want(t, 422, "", "POST", "/v1/signups", map[string]string{"password": "CANARY-password"})
	eventually(t, "three lines", func() bool { return strings.Count(out.String(), "\n") == 3 })
	if strings.Contains(out.String(), "CANARY") {
		t.Errorf("the log shows a secret: %s", out.String())
	}
}
