package httpapi_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"github.com/ouvira/ouvira/controlplane/internal/operator"
)

// key makes an API key of the caller.
func (w *world) key(t *testing.T, token string, scopes ...string) string {
	t.Helper()
	return w.want(t, 201, token, "POST", "/v1/api-keys", map[string]any{"name": "ci", "scopes": scopes}).text("key")
}

// stale makes all logins older than what cannot be undone wants.
func (w *world) stale(t *testing.T) {
	t.Helper()
	w.exec(t, "UPDATE control.operator_sessions SET authenticated_at = now() - interval '16 min'")
}

// TestSec56 what cannot be undone, and what gives power over others, wants
// credentials that were shown of late; refreshing shows none.
func TestSec56DangerousActsWantAFreshLogin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.operator(t, operator.RoleOwner)
	w.active(t, "acme")
	w.stale(t)
	// What cannot be undone, what gives power over others, and what lets data out. An
	// export keeps what it makes here, so it is the download that is asked for; a drain
	// moves tenants that are served meanwhile, and can be taken back; a rotation tells
	// nobody the password.
	known := map[string]bool{
		"GET /v1/backups/{id}/archive": true, "POST /v1/tenants/{tenant}/export": false, "POST /v1/servers/{server}/drain": false,
		"POST /v1/tenants/{tenant}/rotate": false,
		"POST /v1/auth/2fa":                true, "POST /v1/api-keys": true, "PATCH /v1/operators/{id}": true,
		"POST /v1/operators/{id}/reset-2fa": true, "POST /v1/operators/invitations": true,
	}
	found := map[string]bool{}
	for path, operations := range w.document(t) {
		for method, o := range operations {
			name := strings.ToUpper(method) + " " + path
			if !strings.Contains(o.Description, "fresh login") {
				continue
			}
			found[name] = true
			address := parameter.ReplaceAllString(path, "01900000-0000-7000-8000-000000000001")
			if a := w.call(t, token, strings.ToUpper(method), address, nil); a.status != 403 || a.text("code") != "fresh_login_required" {
				t.Errorf("%s answers %d after 16 minutes: %s", name, a.status, a.raw)
			}
		}
	}
	for name, fresh := range known {
		if found[name] != fresh {
			t.Errorf("%s wants a fresh login: %v, want %v", name, found[name], fresh)
		}
	}
	invitation := map[string]string{"email": "grace@ouvira.test", "role": "owner"}
	w.want(t, 403, token, "POST", "/v1/operators/invitations", invitation)
	w.want(t, 401, token, "POST", "/v1/auth/confirm", map[string]string{"password": "wrong password of mine"})
	w.want(t, 403, token, "POST", "/v1/operators/invitations", invitation)
	w.want(t, 204, token, "POST", "/v1/auth/confirm", map[string]string{"password": password})
	w.want(t, 201, token, "POST", "/v1/operators/invitations", invitation)
	// Of a key it is the scope that must be named.
	w.want(t, 201, w.key(t, token, "operator.edit"), "POST", "/v1/operators/invitations", invitation)
	if a := w.want(t, 403, w.key(t, token, "operator.read", "tenant.delete"), "POST", "/v1/operators/invitations", invitation); !strings.Contains(a.raw, "operator.edit") {
		t.Errorf("the refusal does not name what is missing: %s", a.raw)
	}
}

// TestSec56 refreshing a session does not make its login fresh.
func TestSec56RefreshingIsNoLogin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.operator(t, operator.RoleOwner)
	email := one[string](t, w, "SELECT email FROM control.operators")
	a := w.want(t, 200, "", "POST", "/v1/auth/login", map[string]string{"email": email, "password": password})
	w.stale(t)
	a = w.want(t, 200, "", "POST", "/v1/auth/refresh", map[string]string{"refresh_token": a.text("refresh_token")})
	w.want(t, 403, a.text("access_token"), "POST", "/v1/auth/2fa", nil)
}

// TestSec13 no kind of token does for another.
func TestSec13TokensAreOfOneKind(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.operator(t, operator.RoleOwner)
	key := w.key(t, token, "tenant.read")
	body := func(t string) map[string]string { return map[string]string{"token": t, "password": password} }
	w.want(t, 200, key, "GET", "/v1/tenants", nil)
	for _, kind := range []string{"ovoa_", "ovoc_", "ovor_", "ovoi_", "ovop_", "ouk_"} {
		w.want(t, 401, kind+key[5:], "GET", "/v1/tenants", nil)
		w.want(t, 401, "", "GET", "/v1/tenants", nil, "Cookie", "ouvira_session="+kind+key[5:])
	}
	w.want(t, 401, "ovok_"+token[5:], "GET", "/v1/tenants", nil)
	w.want(t, 401, "", "GET", "/v1/tenants", nil, "Cookie", "ouvira_session="+key)
	w.want(t, 401, "", "POST", "/v1/auth/refresh", map[string]string{"refresh_token": key})
	for _, other := range []string{token, key} {
		w.want(t, 422, "", "POST", "/v1/operators/invitations/accept", body(other))
		w.want(t, 422, "", "POST", "/v1/auth/password/reset", body(other))
	}
	// What is for people is not for keys.
	for _, path := range []string{"/v1/auth/confirm", "/v1/auth/password", "/v1/auth/2fa", "/v1/auth/2fa/confirm", "/v1/auth/2fa/disable", "/v1/auth/2fa/backup-codes", "/v1/api-keys"} {
		if a := w.want(t, 403, key, "POST", path, nil); a.text("code") != "not_for_api_keys" {
			t.Errorf("%s: %s", path, a.raw)
		}
	}
}

// TestSec40 keys and links have 256 bits and are stored hashed; a key is shown once.
func TestSec40KeysAndLinksAreStoredHashed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.operator(t, operator.RoleOwner)
	form := regexp.MustCompile(`^ovok_[A-Za-z0-9_-]{43}$`)
	keys := map[string]bool{}
	for range 10 {
		k := w.key(t, token, "tenant.read")
		if !form.MatchString(k) || keys[k] {
			t.Fatalf("the key %q is short or came twice", k)
		}
		keys[k] = true
	}
	w.want(t, 201, token, "POST", "/v1/operators/invitations", map[string]string{"email": "grace@ouvira.test", "role": "support"})
	w.want(t, 202, "", "POST", "/v1/auth/password/forgot", map[string]string{"email": one[string](t, w, "SELECT email FROM control.operators")})
	list := w.want(t, 200, token, "GET", "/v1/api-keys", nil)
	rows := one[string](t, w, "SELECT string_agg(k::text, ' ') FROM control.operator_api_keys k")
	for k := range keys {
		if strings.Contains(rows, k) || strings.Contains(list.raw, k) {
			t.Error("a key is stored, or shown again, as it is")
		}
		if !strings.Contains(list.raw, k[:12]) {
			t.Error("the list does not show how the key begins")
		}
	}
	links := one[string](t, w, "SELECT (SELECT string_agg(i::text, ' ') FROM control.operator_invitations i) || (SELECT string_agg(r::text, ' ') FROM control.operator_password_resets r)")
	if jobs := one[string](t, w, "SELECT string_agg(args::text, ' ') FROM river.river_job"); strings.Contains(links+jobs, "ovoi_") || strings.Contains(links+jobs, "ovop_") {
		t.Error("a link is stored as it is")
	}
	if n := one[int](t, w, "SELECT min(length(token_hash)) FROM control.operator_invitations"); n != 32 {
		t.Errorf("a hash of %d bytes", n)
	}
}

func TestSecondFactorOverTheAPI(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.operator(t, operator.RoleOwner)
	email := w.want(t, 200, token, "GET", "/v1/auth/me", nil).text("email")
	enrolled := w.want(t, 201, token, "POST", "/v1/auth/2fa", nil)
	code := func(ahead time.Duration) string {
		c, err := totp.GenerateCode(enrolled.text("secret"), time.Now().Add(ahead))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	w.want(t, 204, token, "POST", "/v1/auth/2fa/confirm", map[string]string{"code": code(-30 * time.Second)})
	if me := w.want(t, 200, token, "GET", "/v1/auth/me", nil); me.field("second_factor") != true {
		t.Errorf("me: %s", me.raw)
	}
	login := map[string]any{"email": email, "password": password}
	if a := w.want(t, 401, "", "POST", "/v1/auth/login", login); a.text("code") != "otp_required" {
		t.Errorf("without a code: %s", a.raw)
	}
	login["otp"] = code(30 * time.Second)
	w.want(t, 200, "", "POST", "/v1/auth/login", login)
	w.want(t, 401, "", "POST", "/v1/auth/login", login)
	login["otp"] = enrolled.text("backup_codes.0")
	w.want(t, 200, "", "POST", "/v1/auth/login", login)
	w.want(t, 409, token, "POST", "/v1/auth/2fa", nil)
	w.want(t, 204, token, "POST", "/v1/auth/2fa/disable", map[string]string{"password": password, "otp": enrolled.text("backup_codes.1")})
	log := w.want(t, 200, token, "GET", "/v1/audit", nil).raw
	for _, action := range []string{"operator.factor_enrolled", "operator.factor_enabled", "operator.backup_code_used", "operator.factor_disabled"} {
		if !strings.Contains(log, `"`+action+`"`) {
			t.Errorf("the audit lacks %s", action)
		}
	}
	if strings.Contains(log, enrolled.text("secret")) {
		t.Error("the audit shows the secret")
	}
}

// The audit names the key by which somebody acted, and the pages of links load.
func TestKeysInTheAuditAndPagesOfLinks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.operator(t, operator.RoleOwner)
	w.active(t, "acme")
	w.want(t, 200, w.key(t, token, "tenant.suspend"), "POST", "/v1/tenants/acme/suspend", map[string]string{"reason": "Unpaid."})
	if a := w.want(t, 200, token, "GET", "/v1/audit", nil); !strings.HasSuffix(a.text("items.0.actor_name"), " (key ci)") {
		t.Errorf("the audit: %s", a.raw)
	}
	for _, path := range []string{operator.PageInvitation, operator.PageReset} {
		a := w.want(t, 200, "", "GET", path, nil)
		if !strings.Contains(a.raw, "/operators/link.js") || !strings.Contains(a.header.Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("%s: %s", path, a.raw)
		}
	}
	w.want(t, 200, "", "GET", "/operators/link.js", nil)
	w.want(t, 200, "", "GET", "/operators/link.css", nil)
}

func TestChangingOperatorsOverTheAPI(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	owner, support := w.operator(t, operator.RoleOwner), w.operator(t, operator.RoleSupport)
	id := w.want(t, 200, support, "GET", "/v1/auth/me", nil).text("id")
	me := w.want(t, 200, owner, "GET", "/v1/auth/me", nil).text("id")
	w.want(t, 403, support, "PATCH", "/v1/operators/"+id, map[string]any{"role": "owner"})
	w.want(t, 422, owner, "PATCH", "/v1/operators/"+id, map[string]any{"role": "god"})
	w.want(t, 404, owner, "PATCH", "/v1/operators/01900000-0000-7000-8000-000000000001", map[string]any{"role": "owner"})
	if a := w.want(t, 409, owner, "PATCH", "/v1/operators/"+me, map[string]any{"is_active": false}); a.text("code") != "last_owner" {
		t.Errorf("the last owner: %s", a.raw)
	}
	if a := w.want(t, 200, owner, "PATCH", "/v1/operators/"+id, map[string]any{"role": "auditor", "full_name": "Sue"}); a.text("role") != "auditor" || a.text("full_name") != "Sue" {
		t.Errorf("changed: %s", a.raw)
	}
	w.want(t, 401, support, "GET", "/v1/auth/me", nil)
}
