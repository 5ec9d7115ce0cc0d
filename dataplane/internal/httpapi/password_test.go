package httpapi_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/testdb"
)

func (n *node) changePassword(t *testing.T, access, current, next string) answer {
	t.Helper()
	return n.ask(t, http.MethodPost, hostOf(n.A), "/account/change-password", object{"current_password": current, "new_password": next}, bearer(access))
}

func (n *node) loginAs(t *testing.T, tenant tenanttest.Tenant, identifier, password string) answer {
	t.Helper()
	return n.ask(t, http.MethodPost, hostOf(tenant), "/auth/login", object{"identifier": identifier, "password": password})
}

func TestSec17AChangedPasswordEndsTheOtherSessions(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	me := func(tenant tenanttest.Tenant, access string) answer {
		return n.ask(t, http.MethodGet, hostOf(tenant), "/account/me", nil, bearer(access))
	}
	mine, refresh := n.login(t, n.A)
	other, otherRefresh := n.login(t, n.A)
	foreign, _ := n.login(t, n.B)
	exec(t, n.A, "INSERT INTO public.password_tokens (token_hash, user_id, purpose, expires_at) VALUES ('x', $1, 'reset', now() + interval '1 hour')", n.A.OwnerID)

	expect(t, "change", n.changePassword(t, mine, tenanttest.OwnerPassword, goodPassword), 200)
	expect(t, "the session that changed it", me(n.A, mine), 200)
	expect(t, "its refresh token", n.refresh(t, refresh), 200)
	expect(t, "another session", me(n.A, other), 401, "invalid_token")
	expect(t, "its refresh token", n.refresh(t, otherRefresh), 401)
	expect(t, "the same user id at B", me(n.B, foreign), 200)
	expect(t, "the old password", n.loginAs(t, n.A, n.A.OwnerEmail, tenanttest.OwnerPassword), 401)
	expect(t, "the new password", n.loginAs(t, n.A, n.A.OwnerEmail, goodPassword), 200)
	expect(t, "B's password", n.loginAs(t, n.B, n.B.OwnerEmail, tenanttest.OwnerPassword), 200)
	if live := value[int](t, n.A, "SELECT count(*) FROM public.password_tokens WHERE used_at IS NULL"); live != 0 {
		t.Error("a link to reset the password of before is still good")
	}
	if told := lastMessage(t, n, n.A, n.A.OwnerEmail); told.Template != outbox.TemplatePasswordSet {
		t.Errorf("the owner was told %q", told.Template)
	}
	if rows := value[int](t, n.A, "SELECT count(*) FROM ledger.security_logs WHERE action = 'password_set' AND user_id = $1", n.A.OwnerID); rows != 1 {
		t.Errorf("%d rows in the security log", rows)
	}
}

func TestSec22TheLastFivePasswordsAreNotReused(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	access, _ := n.login(t, n.A)
	nth := func(i int) string { return fmt.Sprintf("%d windmills over the plain", i) }
	expect(t, "the same again", n.changePassword(t, access, tenanttest.OwnerPassword, tenanttest.OwnerPassword), 422, "password_reused")
	current := tenanttest.OwnerPassword
	for i := range 4 {
		expect(t, "change", n.changePassword(t, access, current, nth(i)), 200)
		current = nth(i)
		expect(t, "back to the first", n.changePassword(t, access, current, tenanttest.OwnerPassword), 422, "password_reused")
	}
	passwordToken(t, n.A, "a-token-of-a-mailed-link", "1 hour")
	reset := n.ask(t, http.MethodPost, hostOf(n.A), "/auth/password/reset", object{"token": "a-token-of-a-mailed-link", "password": nth(1)})
	expect(t, "nor by a link", reset, 422, "password_reused")
	if !strings.Contains(reset.raw, `"field":"password"`) || strings.Contains(reset.raw, "windmills") {
		t.Errorf("the refusal: %s", reset.raw)
	}
	expect(t, "the fifth", n.changePassword(t, access, current, nth(4)), 200)
	expect(t, "the first, five later", n.changePassword(t, access, nth(4), tenanttest.OwnerPassword), 200)
	if kept := value[int](t, n.A, "SELECT count(*) FROM public.password_history"); kept != 4 {
		t.Errorf("%d earlier passwords are kept", kept)
	}
	weak := n.changePassword(t, access, tenanttest.OwnerPassword, "eleven char")
	expect(t, "too short", weak, 422, "password_policy")
	if !strings.Contains(weak.raw, `"field":"new_password"`) {
		t.Errorf("the refusal: %s", weak.raw)
	}
	exec(t, n.A, "UPDATE public.users SET is_2fa_enabled = true, two_fa_type = 'totp'")
	expect(t, "shorter, with a second factor", n.changePassword(t, access, tenanttest.OwnerPassword, "eleven char"), 200)
	expect(t, "too short even so", n.changePassword(t, access, "eleven char", "seven c"), 422, "password_policy")
}

func TestWrongCurrentPasswordsLockTheAccount(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	access, _ := n.login(t, n.A)
	for range 5 {
		wrong := n.changePassword(t, access, "a wrong guess", goodPassword)
		expect(t, "wrong", wrong, 422, "wrong_password")
		if !strings.Contains(wrong.raw, `"field":"current_password"`) {
			t.Errorf("the refusal: %s", wrong.raw)
		}
	}
	expect(t, "the right one", n.changePassword(t, access, tenanttest.OwnerPassword, goodPassword), 429, "account_locked")
	expect(t, "and at the login", n.loginAs(t, n.A, n.A.OwnerEmail, tenanttest.OwnerPassword), 401, "invalid_credentials")
	n.login(t, n.B)
	exec(t, n.A, "UPDATE public.users SET locked_until = now()")
	expect(t, "after the lock", n.changePassword(t, access, tenanttest.OwnerPassword, goodPassword), 200)
}

func TestLockoutAfterFiveFailuresForHalfAnHour(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	fail := func(times int) {
		for range times {
			expect(t, "wrong", n.loginAs(t, n.A, n.A.OwnerEmail, "a wrong guess"), 401, "invalid_credentials")
		}
	}
	locked := func() string {
		return value[string](t, n.A, "SELECT COALESCE(extract(epoch FROM date_trunc('minute', locked_until - now() + interval '30 s'))::int::text, '') FROM public.users WHERE id = $1", n.A.OwnerID)
	}
	fail(4)
	n.login(t, n.A) // the fourth failure locks nothing, and a success begins anew
	fail(4)
	if at := locked(); at != "" {
		t.Errorf("locked for %s s after four", at)
	}
	fail(1)
	if at := locked(); at != "1800" {
		t.Errorf("locked for %q s after five", at)
	}
	exec(t, n.A, "UPDATE public.users SET locked_until = now() + interval '1 minute'")
	expect(t, "the right one", n.loginAs(t, n.A, n.A.OwnerEmail, tenanttest.OwnerPassword), 401, "invalid_credentials")
	fail(6)
	if at := locked(); at != "60" {
		t.Errorf("what came while it was locked made it %s s", at)
	}
	exec(t, n.A, "UPDATE public.users SET locked_until = now()")
	fail(4)
	n.login(t, n.A)
	n.login(t, n.B)
}

// Guesses that are under way when the account is locked do not count for the
// time after the lock.
func TestGuessesUnderWayAtTheLockDoNotCount(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	exec(t, n.A, "UPDATE public.users SET failed_logins = 4")
	conn := testdb.Connect(t, n.A.AdminURL)
	defer conn.Close(t.Context())
	gate, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gate.Exec(t.Context(), "SELECT FROM public.users FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	var callers sync.WaitGroup
	for range 3 {
		callers.Go(func() {
			expect(t, "wrong", n.loginAs(t, n.A, n.A.OwnerEmail, "a wrong guess"), 401, "invalid_credentials")
		})
	}
	n.lineUp(t, n.A, 3)
	if err := gate.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	callers.Wait()
	state := value[string](t, n.A, "SELECT failed_logins || ' ' || (locked_until > now())::text FROM public.users WHERE id = $1", n.A.OwnerID)
	if state != "0 true" {
		t.Errorf("failures and lock: %s", state)
	}
}

func (n *node) forgot(t *testing.T, tenant tenanttest.Tenant, body object, edits ...edit) answer {
	t.Helper()
	return n.ask(t, http.MethodPost, hostOf(tenant), "/auth/password/forgot", body, edits...)
}

// mailedToken is the token of the last link that was mailed, which must lead to
// the page.
func mailedToken(t *testing.T, n *node, tenant tenanttest.Tenant, page string) string {
	t.Helper()
	m := lastMessage(t, n, tenant, tenant.OwnerEmail)
	link, err := url.Parse(m.Values["link"])
	if err != nil || m.Template != outbox.TemplatePasswordReset || m.Values["minutes"] != "60" {
		t.Fatalf("the message is %+v (%v)", m, err)
	}
	token := link.Query().Get("token")
	query := link.Query()
	query.Del("token")
	link.RawQuery = query.Encode()
	if link.String() != page {
		t.Errorf("the link leads to %s, want %s", link, page)
	}
	return token
}

func TestForgottenPasswordIsResetByMail(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	access, refresh := n.login(t, n.A)
	expect(t, "forgot", n.forgot(t, n.A, object{"email": strings.ToUpper(n.A.OwnerEmail)}), 200)
	first := mailedToken(t, n, n.A, "https://acme.localhost/auth/password/reset")
	expect(t, "forgot again", n.forgot(t, n.A, object{"identifier": n.A.OwnerEmail}), 200)
	second := mailedToken(t, n, n.A, "https://acme.localhost/auth/password/reset")
	expect(t, "still signed in", n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(access)), 200)

	reset := func(tenant tenanttest.Tenant, token, password string) answer {
		return n.ask(t, http.MethodPost, hostOf(tenant), "/auth/password/reset", object{"token": token, "password": password})
	}
	expect(t, "the first link", reset(n.A, first, goodPassword), 422, "invalid_token")
	expect(t, "the second at B", reset(n.B, second, goodPassword), 422, "invalid_token")
	exec(t, n.A, "UPDATE public.users SET locked_until = now() + interval '30 minutes', email_verified = false")
	expect(t, "weak", reset(n.A, second, "password1234"), 422, "password_policy")
	expect(t, "reset", reset(n.A, second, goodPassword), 200)
	expect(t, "once", reset(n.A, second, "nine other plums on a sill"), 422, "invalid_token")
	expect(t, "the sessions of before", n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(access)), 401)
	expect(t, "their refresh tokens", n.refresh(t, refresh), 401)
	login := n.loginAs(t, n.A, n.A.OwnerEmail, goodPassword)
	expect(t, "login", login, 200)
	if login.at("user", "email_verified") != true {
		t.Error("the link proves the address")
	}
	if told := lastMessage(t, n, n.A, n.A.OwnerEmail); told.Template != outbox.TemplatePasswordSet {
		t.Errorf("the owner was told %q", told.Template)
	}
	expect(t, "forgot", n.forgot(t, n.A, object{"email": n.A.OwnerEmail}), 200)
	exec(t, n.A, "UPDATE public.password_tokens SET expires_at = created_at WHERE used_at IS NULL")
	expect(t, "too late", reset(n.A, mailedToken(t, n, n.A, "https://acme.localhost/auth/password/reset"), "nine other plums on a sill"), 422, "invalid_token")
	if sent := messages(t, n, n.B); len(sent) != 0 {
		t.Errorf("B has %d messages", len(sent))
	}
}

func TestSec04ResetLinksUseStoredAddresses(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	forged := []edit{
		peer("10.1.2.3:4000"), header("X-Forwarded-Host", "evil.example"), header("X-Forwarded-Proto", "http"), header("Forwarded", "host=evil.example;proto=http"),
		header("X-Original-Host", "evil.example"), header("Origin", "https://evil.example"), header("Referer", "https://evil.example/"),
	}
	ask := func(host string) {
		t.Helper()
		expect(t, "forgot at "+host, n.ask(t, http.MethodPost, host, "/auth/password/forgot", object{"email": n.A.OwnerEmail}, forged...), 200)
	}
	ask(hostOf(n.A) + ":4444")
	mailedToken(t, n, n.A, "https://acme.localhost/auth/password/reset")
	n.Table.Change(n.A.ID, func(r *route.Route) {
		r.Hosts, r.CustomPrimary = []string{"erp.acme.example", "old.acme.example"}, true
	})
	for _, host := range []string{hostOf(n.A), "old.acme.example", "ERP.acme.example."} {
		ask(host)
		mailedToken(t, n, n.A, "https://erp.acme.example/auth/password/reset")
	}
	n.Table.Change(n.A.ID, func(r *route.Route) { r.Settings.ResetURL = "https://app.acme.example/reset?theme=dark" })
	ask(hostOf(n.A))
	mailedToken(t, n, n.A, "https://app.acme.example/reset?theme=dark")
}

func TestSec19ForgottenPasswordsLookAlike(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	exec(t, n.A, "INSERT INTO public.users (username, full_name, email, is_active) VALUES ('off', 'Off', 'off@example.com', false), ('mute', 'Mute', NULL, true)")
	work := func(identifier string) (string, [2]int64) {
		c := n.counts(n.A.ID)
		leases, trips := c.leases.Load(), c.roundTrips.Load()
		a := n.forgot(t, n.A, object{"email": identifier})
		expect(t, identifier, a, 200)
		return a.raw, [2]int64{c.leases.Load() - leases, c.roundTrips.Load() - trips}
	}
	known, effort := work(n.A.OwnerEmail)
	for _, other := range []string{"nobody@example.com", "off@example.com", "mute", n.B.OwnerEmail} {
		if raw, cost := work(other); raw != known || cost != effort {
			t.Errorf("%s: %v %s; of the owner: %v %s", other, cost, raw, effort, known)
		}
	}
	if sent := messages(t, n, n.A); len(sent) != 1 {
		t.Errorf("%d messages, want the owner's", len(sent))
	}
	if tokens := value[int](t, n.A, "SELECT count(*) FROM public.password_tokens"); tokens != 1 {
		t.Errorf("%d tokens", tokens)
	}
	if leaked := value[bool](t, n.A, "SELECT EXISTS (SELECT FROM ledger.security_logs l WHERE l::text LIKE '%nobody@%')"); leaked {
		t.Error("what was typed is in the log")
	}
	if rows := value[int](t, n.A, "SELECT count(*) FROM ledger.security_logs WHERE action = 'password_forgot'"); rows != 5 {
		t.Errorf("%d rows in the security log", rows)
	}
	expect(t, "nothing said", n.forgot(t, n.A, object{}), 422)
}

func TestOneLinkOfManyAskedForAtOnceIsGood(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			if a := n.forgot(t, n.A, object{"email": n.A.OwnerEmail}); a.status != 200 && a.status != 429 && a.status != 503 {
				t.Errorf("forgot: %d %s", a.status, a.raw)
			}
		})
	}
	callers.Wait()
	if live := value[int](t, n.A, "SELECT count(*) FROM public.password_tokens WHERE used_at IS NULL"); live != 1 {
		t.Errorf("%d links are good", live)
	}
}

func TestSec40ResetTokensAreLongAndStoredHashed(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	expect(t, "forgot", n.forgot(t, n.A, object{"email": n.A.OwnerEmail}), 200)
	token := mailedToken(t, n, n.A, "https://acme.localhost/auth/password/reset")
	if len(token) != 43 { // 256 bits in base64url
		t.Errorf("the token has %d characters", len(token))
	}
	if !value[bool](t, n.A, "SELECT EXISTS (SELECT FROM public.password_tokens WHERE token_hash = sha256($1))", []byte(token)) {
		t.Error("the digest is not stored")
	}
	for _, table := range []string{"public.password_tokens", "public.outbox", "ledger.security_logs", "ledger.activity_logs"} {
		if value[bool](t, n.A, "SELECT EXISTS (SELECT FROM "+table+" r WHERE strpos(r::text, $1) > 0 OR strpos(r::text, encode($1::bytea, 'hex')) > 0)", token) {
			t.Errorf("the token is in %s as it is", table)
		}
	}
	if strings.Contains(n.log.String(), token) {
		t.Error("the token is in the log")
	}
}
