package httpapi_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/ouvira/ouvira/dataplane/internal/httpapi"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/route"
)

const (
	accessCookie  = "__Host-ouvira_access"
	refreshCookie = "__Host-ouvira_refresh"
	csrfCookie    = "__Host-ouvira_csrf"
)

func withCookies(o *httpapi.Options) { o.Cookies = true }

// jar is the cookies of an answer, by their names.
func jar(a answer) map[string]*http.Cookie {
	found := map[string]*http.Cookie{}
	for _, c := range (&http.Response{Header: a.header}).Cookies() {
		found[c.Name] = c
	}
	return found
}

// send puts the cookies into a request.
func send(cookies map[string]*http.Cookie) edit {
	return func(r *http.Request) {
		for _, c := range cookies {
			r.AddCookie(c)
		}
	}
}

func (n *node) loginWith(t *testing.T, tenant tenanttest.Tenant, edits ...edit) answer {
	t.Helper()
	a := n.ask(t, http.MethodPost, hostOf(tenant), "/auth/login", object{"identifier": tenant.OwnerEmail, "password": tenanttest.OwnerPassword, "remember_me": true}, edits...)
	expect(t, "login", a, 200)
	return a
}

func TestSec52CookiesOfUsers(t *testing.T) {
	t.Parallel()
	n := newNode(t, withCookies)
	host := hostOf(n.A)
	a := n.loginWith(t, n.A)
	cookies := jar(a)
	if len(cookies) != 3 {
		t.Fatalf("%d cookies: %v", len(cookies), a.header.Values("Set-Cookie"))
	}
	for name, c := range cookies {
		if !c.Secure || c.HttpOnly != (name != csrfCookie) || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" || c.MaxAge != 30*24*3600 || !strings.HasPrefix(name, "__Host-") {
			t.Errorf("the cookie is %s", c)
		}
	}
	if cookies[accessCookie].Value != a.text("tokens", "access") || cookies[refreshCookie].Value != a.text("tokens", "refresh") || cookies[csrfCookie].Value != a.text("tokens", "csrf") {
		t.Error("the cookies are not the tokens")
	}
	expect(t, "reading needs no proof", n.ask(t, http.MethodGet, host, "/account/me", nil, send(cookies)), 200)

	proof := cookies[csrfCookie].Value
	create := func(edits ...edit) answer {
		return n.ask(t, http.MethodPost, host, "/company", object{"name": "New"}, edits...)
	}
	other := jar(n.loginWith(t, n.A))[csrfCookie].Value
	leases := n.leases(n.A)
	for name, edits := range map[string][]edit{
		"no proof":                       {send(cookies)},
		"an empty proof":                 {send(cookies), header("X-CSRF-Token", "")},
		"a wrong proof":                  {send(cookies), header("X-CSRF-Token", proof[1:]+"A")},
		"the proof of another session":   {send(cookies), header("X-CSRF-Token", other)},
		"another session's twice":        {send(map[string]*http.Cookie{"a": cookies[accessCookie], "c": {Name: csrfCookie, Value: other}}), header("X-CSRF-Token", other)},
		"a page of another site":         {send(cookies), header("X-CSRF-Token", proof), header("Sec-Fetch-Site", "cross-site"), header("Origin", "https://evil.example")},
		"a page of a neighbour":          {send(cookies), header("X-CSRF-Token", proof), header("Sec-Fetch-Site", "same-site"), header("Origin", "https://globex.localhost")},
		"another origin, an old browser": {send(cookies), header("X-CSRF-Token", proof), header("Origin", "https://globex.localhost")},
		"the origin null":                {send(cookies), header("X-CSRF-Token", proof), header("Origin", "null")},
	} {
		expect(t, name, create(edits...), 403)
	}
	expect(t, "refresh without proof", n.ask(t, http.MethodPost, host, "/auth/token/refresh", nil, send(cookies)), 403, "csrf")
	if n.leases(n.A) != leases {
		t.Error("a request without proof reached the database")
	}
	expect(t, "with proof", create(send(cookies), header("X-CSRF-Token", proof), header("Sec-Fetch-Site", "same-origin"), header("Origin", "https://"+host)), 201)
	expect(t, "a bearer needs none", create(bearer(a.text("tokens", "access"))), 201)
	expect(t, "a header goes before the cookie", create(send(cookies), header("X-CSRF-Token", proof), header("Authorization", "Bearer x")), 401)
	expect(t, "another scheme too", create(send(cookies), header("X-CSRF-Token", proof), header("Authorization", "Basic YTpi")), 401)
	expect(t, "the cookie twice", n.ask(t, http.MethodGet, host, "/account/me", nil, send(cookies), send(cookies)), 401)
	expect(t, "A's cookie at B", n.ask(t, http.MethodGet, hostOf(n.B), "/account/me", nil, send(cookies)), 401, "invalid_token")

	fresh := n.ask(t, http.MethodPost, host, "/auth/token/refresh", nil, send(cookies), header("X-CSRF-Token", proof), header("X-Auth-Mode", "cookie"))
	expect(t, "refresh by cookie", fresh, 200)
	renewed := jar(fresh)
	if fresh.text("access") != "" || fresh.text("refresh") != "" || fresh.text("csrf") != renewed[csrfCookie].Value || renewed[refreshCookie].Value == cookies[refreshCookie].Value {
		t.Errorf("refreshed by cookie alone: %s", fresh.raw)
	}
	out := n.ask(t, http.MethodPost, host, "/auth/logout", nil, send(renewed), header("X-CSRF-Token", renewed[csrfCookie].Value))
	expect(t, "logout", out, 205)
	for name, c := range jar(out) {
		if c.Value != "" || c.MaxAge != -1 || !c.Secure || c.Path != "/" {
			t.Errorf("after logout %s is %s", name, c)
		}
	}
	if len(jar(out)) != 3 {
		t.Errorf("logout removes %v", out.header.Values("Set-Cookie"))
	}
	expect(t, "afterwards", n.ask(t, http.MethodGet, host, "/account/me", nil, send(renewed)), 401)
}

func TestSec52AnotherSitesPageSignsNobodyIn(t *testing.T) {
	t.Parallel()
	n := newNode(t, withCookies)
	a := n.loginWith(t, n.A, header("Sec-Fetch-Site", "cross-site"), header("Origin", "https://evil.example"))
	if len(jar(a)) != 0 {
		t.Errorf("it sets %v", a.header.Values("Set-Cookie"))
	}
	n.Table.Change(n.A.ID, func(r *route.Route) { r.Settings.CORSOrigins = []string{"https://app.example"} })
	if a := n.loginWith(t, n.A, header("Sec-Fetch-Site", "cross-site"), header("Origin", "https://app.example")); len(jar(a)) != 3 {
		t.Errorf("a page that is allowed gets %v", a.header.Values("Set-Cookie"))
	}
}

func TestCookiesAreIgnoredUnlessSwitchedOn(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	a := n.loginWith(t, n.A, header("X-Auth-Mode", "cookie"))
	if len(jar(a)) != 0 || a.text("tokens", "access") == "" || a.at("tokens", "csrf") != nil {
		t.Fatalf("without the option: %s %v", a.raw, a.header)
	}
	cookie := send(map[string]*http.Cookie{"": {Name: accessCookie, Value: a.text("tokens", "access")}})
	expect(t, "a cookie", n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, cookie), 401, "invalid_token")
	refresh := send(map[string]*http.Cookie{"": {Name: refreshCookie, Value: a.text("tokens", "refresh")}})
	expect(t, "a refresh cookie", n.ask(t, http.MethodPost, hostOf(n.A), "/auth/token/refresh", nil, refresh), 422)
	expect(t, "no refresh token", n.ask(t, http.MethodPost, hostOf(n.A), "/auth/token/refresh", object{}), 422)
}

func TestSec53OriginsOfATenant(t *testing.T) {
	t.Parallel()
	n := newNode(t, withCookies, func(o *httpapi.Options) { o.CORSOrigins = []string{"https://everywhere.example"} })
	n.Table.Change(n.A.ID, func(r *route.Route) { r.Settings.CORSOrigins = []string{"https://app.a.example", "null", "*"} })
	n.Table.Change(n.B.ID, func(r *route.Route) { r.Settings.CORSOrigins = []string{"https://app.b.example"} })
	cookies := jar(n.loginWith(t, n.B))
	for _, c := range []struct {
		origin string
		tenant tenanttest.Tenant
		grant  bool
	}{
		{"https://app.a.example", n.A, true},
		{"https://app.b.example", n.B, true},
		{"https://everywhere.example", n.B, true},
		{"https://app.a.example", n.B, false}, // with B's cookie
		{"https://app.b.example.evil.example", n.B, false},
		{"http://app.b.example", n.B, false},
		{"https://app.b.example:8443", n.B, false},
		{"https://APP.b.example", n.B, false},
		{"null", n.A, false},
		{"null", n.B, false},
		{"*", n.A, false},
		{"https://" + hostOf(n.A), n.B, false},
	} {
		for _, method := range []string{http.MethodGet, http.MethodOptions} {
			edits := []edit{header("Origin", c.origin), send(cookies)}
			if method == http.MethodOptions {
				edits = append(edits, header("Access-Control-Request-Method", "PATCH"), header("Access-Control-Request-Headers", "authorization,x-csrf-token"))
			}
			a := n.ask(t, method, hostOf(c.tenant), "/account/me", nil, edits...)
			want, credentials := "", ""
			if c.grant {
				want, credentials = c.origin, "true"
			}
			h := a.header
			if h.Get("Access-Control-Allow-Origin") != want || h.Get("Access-Control-Allow-Credentials") != credentials {
				t.Errorf("%s %s at %s: %v", method, c.origin, hostOf(c.tenant), h)
			}
			if !strings.Contains(strings.Join(h.Values("Vary"), ","), "Origin") {
				t.Errorf("%s %s: Vary is %v", method, c.origin, h.Values("Vary"))
			}
			if c.grant && method == http.MethodOptions && (a.status != 200 || h.Get("Access-Control-Allow-Methods") != "PATCH") {
				t.Errorf("preflight: %d %v", a.status, h)
			}
			if c.grant && method == http.MethodGet && !strings.Contains(strings.ToLower(h.Get("Access-Control-Expose-Headers")), "etag") {
				t.Errorf("exposes %q", h.Get("Access-Control-Expose-Headers"))
			}
		}
	}
	if a := n.ask(t, http.MethodGet, "nobody.localhost", "/account/me", nil, header("Origin", "https://everywhere.example")); a.header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("an unknown host grants")
	}
	refused := n.ask(t, http.MethodOptions, hostOf(n.B), "/account/me", nil, header("Origin", "https://app.a.example"), header("Access-Control-Request-Method", "GET"))
	for name := range refused.header {
		if strings.HasPrefix(name, "Access-Control-") {
			t.Errorf("a preflight that is refused says %s", name)
		}
	}
}

func TestSec53WithoutCookiesNoCredentials(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.Table.Change(n.A.ID, func(r *route.Route) { r.Settings.CORSOrigins = []string{"https://app.a.example"} })
	a := n.ask(t, http.MethodGet, hostOf(n.A), "/.well-known/jwks.json", nil, header("Origin", "https://app.a.example"))
	if a.header.Get("Access-Control-Allow-Origin") != "https://app.a.example" || a.header.Get("Access-Control-Allow-Credentials") != "" {
		t.Errorf("%v", a.header)
	}
}
