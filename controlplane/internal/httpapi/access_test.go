package httpapi_test

import (
	"encoding/json"
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/httpapi"
	"github.com/ouvira/ouvira/controlplane/internal/operator"
	"github.com/ouvira/ouvira/shared/pg"
)

// documented is an operation of the document.
type documented struct {
	Security    []map[string]any `json:"security"`
	Description string           `json:"description"`
	Parameters  []struct {
		Name string `json:"name"`
		In   string `json:"in"`
	} `json:"parameters"`
}

// document reads the OpenAPI document that the server gives.
func (w *world) document(t *testing.T) map[string]map[string]documented {
	t.Helper()
	var d struct {
		OpenAPI string                           `json:"openapi"`
		Paths   map[string]map[string]documented `json:"paths"`
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
	if open != 11 {
		t.Errorf("%d operations are open to anyone, and 11 are known to be: login, refresh, three with a mailed link, five of sign-ups, and what TLS asks", open)
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
func TestSec55TenantsTokensAreNoneHere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, token := range []string{
		"eyJhbGciOiJFUzI1NiIsImtpZCI6IjEifQ.eyJzdWIiOiIxIiwidHlwIjoiYWNjZXNzIiwiZXhwIjo5OTk5OTk5OTk5fQ." + strings.Repeat("A", 86),
		"ouk_" + strings.Repeat("a", 26) + "_" + strings.Repeat("a", 8) + "_" + strings.Repeat("a", 52),
		"ous_" + strings.Repeat("a", 26) + "_" + strings.Repeat("a", 52),
		"ovr_" + strings.Repeat("A", 65),
	} {
		w.want(t, 401, token, "GET", "/v1/tenants", nil)
	}
}

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

func TestAuditNeedsAnActor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	err := pg.InTx(t.Context(), w.control.Pool, func(tx pgx.Tx) error {
		return audit.Record(t.Context(), tx, audit.Entry{Action: "x", EntityType: "y", EntityID: "z"})
	})
	if err != audit.ErrNoActor {
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
