package httpapi_test

import (
	"encoding/hex"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/route"
)

const goodPassword = "seven plums on a windowsill"

func TestSignInAndOut(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	host := hostOf(n.A)
	login := n.ask(t, http.MethodPost, host, "/auth/login", object{"identifier": strings.ToUpper(n.A.OwnerEmail), "password": tenanttest.OwnerPassword, "remember_me": true})
	expect(t, "login", login, 200)
	if login.number("tokens", "expires_in") != 900 || login.number("user", "id") != n.A.OwnerID || login.text("user", "email") != n.A.OwnerEmail {
		t.Errorf("login answers %s", login.raw)
	}
	access, refresh := login.text("tokens", "access"), login.text("tokens", "refresh")

	for _, path := range []string{"/account/me", "/account/me/", "/api/account/me", "/api/account/me/", "/account/profile"} {
		me := n.ask(t, http.MethodGet, host, path, nil, bearer(access))
		expect(t, path, me, 200)
		if me.text("email") != n.A.OwnerEmail || !regexp.MustCompile(`^USR-[0-9A-F]{12}$`).MatchString(me.text("account_uid")) {
			t.Errorf("%s answers %s", path, me.raw)
		}
		for _, field := range []string{"id", "username", "full_name", "primary_mobile", "email_verified", "phone_verified", "is_2fa_enabled", "two_fa_type", "date_joined", "last_login", "created_at", "updated_at", "deleted_at", "is_deleted"} {
			if _, there := me.body[field]; !there {
				t.Errorf("%s lacks %s", path, field)
			}
		}
		if _, err := time.Parse(time.RFC3339, me.text("last_login")); err != nil {
			t.Errorf("last_login: %v", err)
		}
	}

	refreshed := n.ask(t, http.MethodPost, host, "/auth/token/refresh", object{"refresh": refresh})
	expect(t, "refresh", refreshed, 200)
	if refreshed.text("refresh") == refresh || refreshed.text("access") == "" || refreshed.number("expires_in") != 900 {
		t.Errorf("refresh answers %s", refreshed.raw)
	}

	expect(t, "logout", n.ask(t, http.MethodPost, host, "/auth/logout", object{"refresh": refreshed.text("refresh")}, bearer(access)), 205)
	expect(t, "me after logout", n.ask(t, http.MethodGet, host, "/account/me", nil, bearer(access)), 401, "invalid_token")
	expect(t, "refresh after logout", n.ask(t, http.MethodPost, host, "/auth/token/refresh", object{"refresh": refreshed.text("refresh")}), 401)
}

func TestLogoutWithoutABodyAndOfAnotherSession(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	host := hostOf(n.A)
	first, _ := n.login(t, n.A)
	second, otherRefresh := n.login(t, n.A)
	_, foreign := n.login(t, n.B)
	expect(t, "logout of both", n.ask(t, http.MethodPost, host, "/auth/logout", object{"refresh": otherRefresh}, bearer(first)), 205)
	expect(t, "the other session", n.ask(t, http.MethodGet, host, "/account/me", nil, bearer(second)), 401)

	third, _ := n.login(t, n.A)
	expect(t, "logout without a body", n.ask(t, http.MethodPost, host, "/auth/logout", nil, bearer(third)), 205)
	fourth, _ := n.login(t, n.A)
	expect(t, "logout with B's refresh token", n.ask(t, http.MethodPost, host, "/auth/logout", object{"refresh": foreign}, bearer(fourth)), 205)
	expect(t, "B is still signed in", n.ask(t, http.MethodPost, hostOf(n.B), "/auth/token/refresh", object{"refresh": foreign}), 200)
}

func TestRegister(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	host := hostOf(n.A)
	body := object{"full_name": "Ada Example", "email": "Ada@Example.com", "password": goodPassword, "primary_mobile": "+4915112345678"}
	made := n.ask(t, http.MethodPost, host, "/account/register", body)
	expect(t, "register", made, 201)
	if made.text("user", "email") != "ada@example.com" || made.text("user", "username") != "ada@example.com" || made.text("tokens", "access") == "" {
		t.Errorf("register answers %s", made.raw)
	}
	expect(t, "me", n.ask(t, http.MethodGet, host, "/account/me", nil, bearer(made.text("tokens", "access"))), 200)
	for _, identifier := range []string{"ada@example.com", "+4915112345678", "ADA@example.COM"} {
		expect(t, "login as "+identifier, n.ask(t, http.MethodPost, host, "/auth/login", object{"identifier": identifier, "password": goodPassword}), 200)
	}
	expect(t, "nobody at B", n.ask(t, http.MethodPost, hostOf(n.B), "/auth/login", object{"identifier": "ada@example.com", "password": goodPassword}), 401)

	again := n.ask(t, http.MethodPost, host, "/account/register", object{"full_name": "B", "email": "ADA@example.com", "password": goodPassword})
	expect(t, "the same address", again, 409, "email_taken")
	body["email"] = "other@example.com"
	expect(t, "the same number", n.ask(t, http.MethodPost, host, "/account/register", body), 409, "mobile_taken")
	expect(t, "the same at B", n.ask(t, http.MethodPost, hostOf(n.B), "/account/register", body), 201)

	for field, bad := range map[string]any{
		"email":            `"x" <ada@example.com>`,
		"primary_mobile":   "015112345678",
		"full_name":        "   ",
		"password":         "short",
		"invitation_token": "made-up",
	} {
		wrong := object{"full_name": "A", "email": "c@example.com", "password": goodPassword}
		wrong[field] = bad
		refused := n.ask(t, http.MethodPost, host, "/account/register", wrong)
		expect(t, "bad "+field, refused, 422)
		if !strings.Contains(refused.raw, `"field":"`+field+`"`) {
			t.Errorf("the refusal does not name %s: %s", field, refused.raw)
		}
	}
}

func TestRegistrationCanBeClosed(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	closed := false
	n.Table.Change(n.A.ID, func(r *route.Route) { r.Settings.SelfRegistration = &closed })
	body := object{"full_name": "A", "email": "a@example.com", "password": goodPassword}
	expect(t, "closed", n.ask(t, http.MethodPost, hostOf(n.A), "/account/register", body), 403, "registration_closed")
	expect(t, "B is open", n.ask(t, http.MethodPost, hostOf(n.B), "/account/register", body), 201)
}

func TestSec36SmuggledAddressesAreRefused(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for _, email := range []string{"a@example.com\r\nBcc: b@example.com", "a@example.com\n", "\"a\\\"b\"@example.com", "A <a@example.com>", "a@[127.0.0.1]", "a b@example.com", "@example.com", "a@", "a@example.com,b@example.com"} {
		if strings.TrimSpace(email) == "a@example.com" {
			continue // white space around is taken off
		}
		expect(t, email, n.ask(t, http.MethodPost, hostOf(n.A), "/account/register", object{"full_name": "A", "email": email, "password": goodPassword}), 422)
	}
}

// passwordToken gives the tenant's owner a set-password token, as the control
// plane does for an owner that an operator has created.
func passwordToken(t *testing.T, tenant tenanttest.Tenant, token, expiry string) {
	t.Helper()
	exec(t, tenant, "INSERT INTO public.password_tokens (token_hash, user_id, purpose, expires_at) VALUES (sha256($1), $2, 'set', now() + $3::interval)",
		[]byte(token), tenant.OwnerID, expiry)
}

func TestSetPasswordWithAMailedToken(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	host := hostOf(n.A)
	access, refresh := n.login(t, n.A)
	exec(t, n.A, "UPDATE public.users SET password_hash = NULL")
	expect(t, "login without a password", n.ask(t, http.MethodPost, host, "/auth/login", object{"identifier": n.A.OwnerEmail, "password": "x"}), 401, "invalid_credentials")

	const token, expired, second = "set-password-token-0123456789", "expired-token-0123456789", "second-token-0123456789"
	passwordToken(t, n.A, token, "7 days")
	passwordToken(t, n.A, second, "7 days")
	passwordToken(t, n.A, expired, "-1 second")
	reset := func(tenant tenanttest.Tenant, token, password string) answer {
		return n.ask(t, http.MethodPost, hostOf(tenant), "/auth/password/reset", object{"token": token, "password": password})
	}
	expect(t, "weak password", reset(n.A, token, "password1234"), 422, "password_policy")
	expect(t, "unknown token", reset(n.A, "never-made", goodPassword), 422, "invalid_token")
	expect(t, "expired token", reset(n.A, expired, goodPassword), 422, "invalid_token")
	expect(t, "token of A at B", reset(n.B, token, goodPassword), 422, "invalid_token")
	expect(t, "the stored digest is no token", reset(n.A, hex.EncodeToString(value[[]byte](t, n.A, "SELECT sha256($1)", []byte(token))), goodPassword), 422)
	expect(t, "set", reset(n.A, token, goodPassword), 200)
	expect(t, "the token again", reset(n.A, token, goodPassword), 422, "invalid_token")
	expect(t, "another token of before", reset(n.A, second, goodPassword), 422, "invalid_token")
	expect(t, "login", n.ask(t, http.MethodPost, host, "/auth/login", object{"identifier": n.A.OwnerEmail, "password": goodPassword}), 200)
	expect(t, "the sessions of before", n.ask(t, http.MethodGet, host, "/account/me", nil, bearer(access)), 401)
	expect(t, "their refresh tokens", n.ask(t, http.MethodPost, host, "/auth/token/refresh", object{"refresh": refresh}), 401)
}

// The mailed link opens a page, at a tenant's address only, that loads nothing
// from elsewhere.
func TestTheMailedLinkOpensAPage(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for _, tenant := range []tenanttest.Tenant{n.A, n.B} {
		page := n.ask(t, http.MethodGet, hostOf(tenant), "/auth/password/reset?token=abc", nil)
		expect(t, "page", page, 200)
		if !strings.Contains(page.raw, "/auth/password/reset.js") || !strings.HasPrefix(page.header.Get("Content-Type"), "text/html") ||
			!strings.Contains(page.header.Get("Content-Security-Policy"), "default-src 'none'") || strings.Contains(page.raw, "http") {
			t.Errorf("the page: %v %s", page.header, page.raw)
		}
		script := n.ask(t, http.MethodGet, hostOf(tenant), "/auth/password/reset.js", nil)
		if script.status != 200 || !strings.Contains(script.header.Get("Content-Type"), "javascript") {
			t.Errorf("the script: %d %v", script.status, script.header)
		}
	}
	expect(t, "no tenant", n.ask(t, http.MethodGet, "nobody.localhost", "/auth/password/reset?token=abc", nil), 404)
}

func TestCompanies(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	host := hostOf(n.A)
	access, _ := n.login(t, n.A)
	list := n.ask(t, http.MethodGet, host, "/company", nil, bearer(access))
	expect(t, "list", list, 200)
	if list.number("count") != 1 || list.at("next") != nil || list.at("previous") != nil {
		t.Errorf("the first list is %s", list.raw)
	}
	made := n.ask(t, http.MethodPost, host, "/company/", object{"name": "Works", "description": "d", "address": "a", "parent_company": n.A.CompanyID}, bearer(access))
	expect(t, "create", made, 201)
	if made.text("name") != "Works" || made.number("parent_company") != n.A.CompanyID || made.number("create_by") != n.A.OwnerID || made.text("status") != "active" ||
		made.text("settings", "default_currency") != "USD" || made.text("settings", "timezone") != "UTC" || made.number("settings", "company") != made.number("id") {
		t.Errorf("created %s", made.raw)
	}
	if flags, ok := made.at("settings", "feature_flags").(map[string]any); !ok || len(flags) != 0 {
		t.Errorf("feature_flags is %v", made.at("settings", "feature_flags"))
	}
	path := "/company/" + itoa(made.number("id"))
	expect(t, "get", n.ask(t, http.MethodGet, host, path, nil, bearer(access)), 200)
	role := value[string](t, n.A, `SELECT r.role FROM public.user_company_roles a JOIN public.roles r ON r.id = a.role_id JOIN public.user_companies m ON m.id = a.user_company_id WHERE m.company_id = $1`, made.number("id"))
	if role != "owner" {
		t.Errorf("the creator is %s", role)
	}

	pages := n.ask(t, http.MethodGet, host, "/api/company/?page=2&page_size=1", nil, bearer(access))
	expect(t, "second page", pages, 200)
	results, _ := pages.at("results").([]any)
	if pages.number("count") != 2 || len(results) != 1 || pages.text("previous") != "https://"+host+"/company?page=1&page_size=1" || pages.at("next") != nil {
		t.Errorf("the second page is %s", pages.raw)
	}
	expect(t, "page 0", n.ask(t, http.MethodGet, host, "/company?page=0", nil, bearer(access)), 422)
	expect(t, "page that is no number", n.ask(t, http.MethodGet, host, "/company?page=x", nil, bearer(access)), 422)

	stranger := n.ask(t, http.MethodPost, host, "/account/register", object{"full_name": "S", "email": "s@example.com", "password": goodPassword}).text("tokens", "access")
	expect(t, "a stranger sees nothing", n.ask(t, http.MethodGet, host, path, nil, bearer(stranger)), 404)
	under := n.ask(t, http.MethodPost, host, "/company", object{"name": "X", "parent_company": n.A.CompanyID}, bearer(stranger))
	expect(t, "nor under it", under, 422)
	own := n.ask(t, http.MethodPost, host, "/company", object{"name": "Own"}, bearer(stranger))
	expect(t, "but may found one", own, 201)
	if !value[bool](t, n.A, "SELECT is_primary_company FROM public.user_companies WHERE company_id = $1", own.number("id")) {
		t.Error("a user's first company is not their primary one")
	}

	exec(t, n.A, "INSERT INTO public.user_companies (user_id, company_id) SELECT id, $1 FROM public.users WHERE email = 's@example.com'", n.A.CompanyID)
	expect(t, "a member without a role", n.ask(t, http.MethodPost, host, "/company", object{"name": "X", "parent_company": n.A.CompanyID}, bearer(stranger)), 403)
	exec(t, n.A, "UPDATE public.companies SET status = 'deactivated' WHERE id = $1", n.A.CompanyID)
	expect(t, "under a deactivated one", n.ask(t, http.MethodPost, host, "/company", object{"name": "X", "parent_company": made.number("id")}, bearer(access)), 409, "company_deactivated")
}

func TestMeIsOneRoundTrip(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	access, _ := n.login(t, n.A)
	c := n.counts(n.A.ID)
	leases, trips := c.leases.Load(), c.roundTrips.Load()
	expect(t, "me", n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(access)), 200)
	if c.leases.Load()-leases != 1 || c.roundTrips.Load()-trips != 1 {
		t.Errorf("%d leases, %d round trips", c.leases.Load()-leases, c.roundTrips.Load()-trips)
	}
}

func TestJWKS(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	a := n.ask(t, http.MethodGet, hostOf(n.A), "/.well-known/jwks.json", nil)
	expect(t, "jwks", a, 200)
	keys, _ := a.at("keys").([]any)
	if len(keys) != 1 || n.leases(n.A) != 0 {
		t.Fatalf("%s, %d leases", a.raw, n.leases(n.A))
	}
	key, _ := keys[0].(map[string]any)
	if key["kid"] != n.A.Kid || key["kty"] != "EC" || key["d"] != nil {
		t.Errorf("the key is %v", key)
	}
}

func TestModesOfARoute(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	access, _ := n.login(t, n.A)
	for _, mode := range []route.Mode{route.ModeMaintenance, route.ModeHold} {
		n.Table.Change(n.A.ID, func(r *route.Route) { r.Mode = mode })
		a := n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(access))
		expect(t, string(mode), a, 503)
		if a.header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", mode)
		}
	}
	n.Table.Change(n.A.ID, func(r *route.Route) { r.Mode = route.ModeServe })
	expect(t, "served again", n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(access)), 200)
}

func TestDocsAnswerOnAnyHost(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for _, host := range []string{"nowhere.example", "localhost:8000", "127.0.0.1", hostOf(n.A)} {
		for _, path := range []string{"/swagger", "/swagger.json", "/swagger.yaml", "/openapi.json"} {
			if a := n.ask(t, http.MethodGet, host, path, nil); a.status != 200 {
				t.Errorf("%s%s: %d", host, path, a.status)
			}
		}
	}
	document := n.ask(t, http.MethodGet, "x", "/openapi.json", nil)
	for path, wantsToken := range map[string]bool{"/auth/login": false, "/auth/logout": true} {
		post, _ := document.at("paths", path, "post").(map[string]any)
		if security, declared := post["security"].([]any); declared == wantsToken || len(security) != 0 {
			t.Errorf("%s: security %v", path, post["security"])
		}
	}
}

func TestSec44CanonicalLineAndMetrics(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	access, _ := n.login(t, n.A)
	n.ask(t, http.MethodGet, hostOf(n.A), "/company/1", nil, bearer(access), header("User-Agent", "x\ny"))
	for i := range 50 {
		n.ask(t, http.MethodGet, hostOf(n.A), "/company/"+itoa(int64(i+100)), nil, bearer(access))
		n.ask(t, "ODD"+itoa(int64(i)), "h"+itoa(int64(i))+".example", "/p"+itoa(int64(i)), nil)
	}
	log := n.log.String()
	if !strings.Contains(log, `"route":"/company/{id}"`) || !strings.Contains(log, `"tenant":"acme"`) || !strings.Contains(log, `"user_id":`+itoa(n.A.OwnerID)) {
		t.Errorf("the canonical line lacks something: %.600s", log)
	}
	for _, secret := range []string{access, tenanttest.OwnerPassword, n.A.Password} {
		if strings.Contains(log, secret) {
			t.Error("a secret is in the log")
		}
	}
	series, err := testutil.GatherAndCount(n.registry, "ouvira_http_request_duration_seconds")
	if err != nil || series > 8 {
		t.Errorf("%d series (%v)", series, err)
	}
	families, _ := n.registry.Gather()
	for _, family := range families {
		if strings.Contains(family.String(), "acme") {
			t.Errorf("a tenant is a label of %s", family.GetName())
		}
	}
}
