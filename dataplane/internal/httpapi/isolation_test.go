package httpapi_test

import (
	"bufio"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/route"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

func TestSec01TokenOfAAtB(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	access, refresh := n.login(t, n.A)
	expect(t, "at home, which fills the cache", n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(access)), 200)
	for _, call := range [][2]string{
		{http.MethodGet, "/account/me"},
		{http.MethodGet, "/account/profile"},
		{http.MethodGet, "/company"},
		{http.MethodPost, "/company"},
		{http.MethodGet, "/company/1"},
		{http.MethodPost, "/auth/logout"},
	} {
		for range 2 {
			expect(t, call[1], n.ask(t, call[0], hostOf(n.B), call[1], nil, bearer(access)), 401, "invalid_token")
		}
	}
	expect(t, "refresh", n.ask(t, http.MethodPost, hostOf(n.B), "/auth/token/refresh", object{"refresh": refresh}), 401)
	if asked := n.leases(n.B); asked != 0 {
		t.Errorf("B's database was asked %d times", asked)
	}
}

func TestSec02ForwardedNamesOfUntrustedPeers(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	const trusted = "10.1.2.3:4000"
	kid := func(a answer) string {
		keys, _ := a.at("keys").([]any)
		if len(keys) == 0 {
			return ""
		}
		key, _ := keys[0].(map[string]any)
		s, _ := key["kid"].(string)
		return s
	}
	ask := func(host string, edits ...edit) answer {
		return n.ask(t, http.MethodGet, host, "/.well-known/jwks.json", nil, edits...)
	}
	for _, name := range []string{"X-Tenant", "X-Forwarded-Host", "Forwarded", "X-Original-Host", "X-Host"} {
		for _, v := range []string{"globex", "globex.localhost", "host=globex.localhost"} {
			if a := ask("acme.localhost", header(name, v)); kid(a) != n.A.Kid {
				t.Errorf("%s: %s from an untrusted peer: %d %s", name, v, a.status, a.raw)
			}
			expect(t, name+" with an unknown host", ask("nobody.localhost", header(name, v)), 404, "unknown_host")
		}
	}
	for _, name := range []string{"X-Forwarded-Host", "Forwarded"} { // not even from proxies
		if a := ask("acme.localhost", peer(trusted), header(name, "globex.localhost")); kid(a) != n.A.Kid {
			t.Errorf("%s from a proxy: %d %s", name, a.status, a.raw)
		}
	}
	if a := ask("gateway.internal", peer(trusted), header("X-Tenant", "GLOBEX")); kid(a) != n.B.Kid {
		t.Errorf("X-Tenant from a proxy: %d %s", a.status, a.raw)
	}
	if a := ask("globex.localhost", peer(trusted), header("X-Tenant", "globex")); kid(a) != n.B.Kid {
		t.Errorf("both of the same: %d %s", a.status, a.raw)
	}
	expect(t, "a mismatch", ask("acme.localhost", peer(trusted), header("X-Tenant", "globex")), 400, "tenant_mismatch")
	expect(t, "an unknown tenant", ask("acme.localhost", peer(trusted), header("X-Tenant", "nobody")), 404, "unknown_tenant")
	expect(t, "two of them", ask("gateway.internal", peer(trusted), header("X-Tenant", "globex"), header("X-Tenant", "acme")), 400)
}

func TestSec03HostVariants(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.Table.Change(n.B.ID, func(r *route.Route) { r.Hosts = []string{"xn--mnchen-3ya.example"} })
	for host, tenant := range map[string]*tenanttest.Tenant{
		"acme.localhost": &n.A, "ACME.LOCALHOST": &n.A, "acme.localhost.": &n.A, "acme.localhost:8000": &n.A, "Acme.localhost.:1": &n.A,
		"münchen.example": &n.B, "MÜNCHEN.example:443": &n.B, "xn--mnchen-3ya.example": &n.B,
		"": nil, "localhost": nil, "127.0.0.1:8000": nil, "[::1]:8000": nil, "nobody.localhost": nil, "acme": nil, "a.acme.localhost": nil,
		"acme.localhost.evil.example": nil, "acme_.localhost": nil, "acme.localhost\x00.evil.example": nil, "acme.localhost@globex.localhost": nil, "acme.localhost, globex.localhost": nil,
	} {
		a := n.ask(t, http.MethodGet, host, "/.well-known/jwks.json", nil)
		switch {
		case tenant == nil && (a.status < 400 || a.status >= 500):
			t.Errorf("%q: %d %s", host, a.status, a.raw)
		case tenant != nil && (a.status != 200 || !strings.Contains(a.raw, tenant.Kid)):
			t.Errorf("%q is not %s: %d %s", host, tenant.Route.Slug, a.status, a.raw)
		}
	}
	expect(t, "an unknown host", n.ask(t, http.MethodPost, "nobody.localhost", "/auth/login", object{"identifier": "a", "password": "b"}), 404, "unknown_host")
}

func TestSec03DuplicatedHostHeader(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	server := httptest.NewServer(n.handler)
	t.Cleanup(server.Close)
	for _, head := range []string{
		"GET /.well-known/jwks.json HTTP/1.1\r\nHost: acme.localhost\r\nHost: globex.localhost\r\n\r\n",
		"GET /.well-known/jwks.json HTTP/1.1\r\n\r\n",
		"GET http://globex.localhost/.well-known/jwks.json HTTP/1.1\r\nHost: acme.localhost\r\n\r\n",
	} {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte(head)); err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		// RFC 9112, 3.2.2: the address in the request line replaces Host.
		if absolute := strings.HasPrefix(head, "GET http://"); absolute != (response.StatusCode == 200) {
			t.Errorf("%q: %d", head, response.StatusCode)
		}
	}
}

func TestSec05EqualIdsWithWarmCaches(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	if n.A.OwnerID != n.B.OwnerID || n.A.CompanyID != n.B.CompanyID {
		t.Fatal("the fixture's ids differ: the test proves nothing")
	}
	accessA, _ := n.login(t, n.A)
	accessB, _ := n.login(t, n.B)
	var callers sync.WaitGroup
	for range 4 {
		for _, caller := range []struct {
			tenant tenanttest.Tenant
			token  string
		}{{n.A, accessA}, {n.B, accessB}} {
			callers.Go(func() {
				for range 25 {
					me := n.ask(t, http.MethodGet, hostOf(caller.tenant), "/account/me", nil, bearer(caller.token))
					company := n.ask(t, http.MethodGet, hostOf(caller.tenant), "/company/"+itoa(caller.tenant.CompanyID), nil, bearer(caller.token))
					if me.text("email") != caller.tenant.OwnerEmail || company.text("name") != caller.tenant.CompanyName {
						t.Errorf("%s sees %s and %s", caller.tenant.Route.Slug, me.raw, company.raw)
						return
					}
				}
			})
		}
	}
	callers.Wait()
}

func TestSec06SuspendedTenant(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	access, refresh := n.login(t, n.A)
	n.Table.Change(n.A.ID, func(r *route.Route) { r.Status = route.StatusSuspended })
	asked := n.leases(n.A)
	expect(t, "request", n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(access)), 403, "tenant_suspended")
	expect(t, "refresh", n.ask(t, http.MethodPost, hostOf(n.A), "/auth/token/refresh", object{"refresh": refresh}), 403, "tenant_suspended")
	expect(t, "login", n.ask(t, http.MethodPost, hostOf(n.A), "/auth/login", object{"identifier": n.A.OwnerEmail, "password": tenanttest.OwnerPassword}), 403)
	if n.leases(n.A) != asked {
		t.Error("the database of a suspended tenant was asked")
	}
	n.login(t, n.B)
}

func TestSec06FenceInTheDatabaseBeforeTheRouteArrives(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	access, _ := n.login(t, n.A)
	exec(t, n.A, "REVOKE ouvira_app FROM "+n.A.Route.Database)
	a := n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(access))
	expect(t, "fenced, reason unknown", a, 503)
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	n.Table.OnRefresh = func() {
		n.Table.Change(n.A.ID, func(r *route.Route) { r.Status = route.StatusSuspended })
	}
	expect(t, "fenced because suspended", n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(access)), 403, "tenant_suspended")
}

// Everyone is signed out of a tenant: neither access nor refresh tokens nor API keys
// of before count, those of the other tenant do, and who signs in again is in.
func TestSec07EveryoneIsSignedOut(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	type holder struct{ access, refresh, rotated string }
	renew := func(host, refresh string) string {
		t.Helper()
		a := n.ask(t, http.MethodPost, host, "/auth/token/refresh", object{"refresh": refresh})
		expect(t, "a refresh", a, 200)
		return a.text("refresh")
	}
	hold := func(f tenanttest.Tenant) (h holder) {
		h.access, h.rotated = n.login(t, f)
		h.refresh = renew(hostOf(f), h.rotated)
		return h
	}
	of, other := hold(n.A), hold(n.B)
	for range 2 { // also from the second epoch to the third
		n.Table.Change(n.A.ID, func(r *route.Route) { r.TokenEpoch++ })
		expect(t, "access", n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(of.access)), 401)
		for what, token := range map[string]string{"refresh": of.refresh, "rotated, within the grace": of.rotated} {
			expect(t, what, n.ask(t, http.MethodPost, hostOf(n.A), "/auth/token/refresh", object{"refresh": token}), 401, "invalid_refresh_token")
		}
		of = hold(n.A)
		expect(t, "signed in again", n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(of.access)), 200)
		expect(t, "logout", n.ask(t, http.MethodPost, hostOf(n.A), "/auth/logout", object{"refresh": of.refresh}, bearer(of.access)), 205)
		expect(t, "after the logout", n.ask(t, http.MethodPost, hostOf(n.A), "/auth/token/refresh", object{"refresh": of.refresh}), 401)
		of = hold(n.A)
	}
	expect(t, "the other tenant's access", n.ask(t, http.MethodGet, hostOf(n.B), "/account/me", nil, bearer(other.access)), 200)
	renew(hostOf(n.B), other.refresh)
}

func TestSec07RecreatedSlugAndRaisedEpoch(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	access, refresh := n.login(t, n.A)
	expect(t, "before", n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(access)), 200)
	n.Table.Change(n.A.ID, func(r *route.Route) { r.TokenEpoch++ })
	expect(t, "after the epoch was raised", n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(access)), 401)
	fresh, _ := n.login(t, n.A)
	expect(t, "a token of the new epoch", n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(fresh)), 200)

	// The slug goes to a new tenant, which even has the old one's key.
	old := n.A.Route
	n.Table.Change(n.A.ID, func(r *route.Route) { r.Deleted = true })
	reborn := n.Tenant(t, "acme")
	n.Table.Change(reborn.ID, func(r *route.Route) { r.Keys = append(append([]route.JWK{}, old.Keys...), r.Keys...); r.TokenEpoch = 2 })
	for _, token := range []string{access, fresh} {
		expect(t, "a token of the old tenant", n.ask(t, http.MethodGet, "acme.localhost", "/account/me", nil, bearer(token)), 401)
	}
	expect(t, "its refresh token", n.ask(t, http.MethodPost, "acme.localhost", "/auth/token/refresh", object{"refresh": refresh}), 401)
	if reborn.ID == uuid.Nil || n.leases(reborn) != 0 {
		t.Errorf("the new tenant's database was asked %d times", n.leases(reborn))
	}
}
