package httpapi_test

import (
	"bytes"
	"encoding/base32"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/testdb"
)

// appCode is what an authenticator app shows at present, or so many steps on.
func appCode(t *testing.T, secret string, steps int) string {
	t.Helper()
	code, err := totp.GenerateCode(secret, time.Now().Add(time.Duration(steps)*30*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// forgetSteps lets the codes of the present be used again.
func forgetSteps(t *testing.T, tenant tenanttest.Tenant) {
	t.Helper()
	exec(t, tenant, "UPDATE public.two_factors SET last_step = 0")
}

// withApp signs the owner in and gives them an authenticator app.
func (n *node) withApp(t *testing.T, tenant tenanttest.Tenant) (access, secret string, backup []string) {
	t.Helper()
	access, _ = n.login(t, tenant)
	enabled := n.post(t, tenant, "/auth/settings_enable-2fa", object{"method": "totp"}, bearer(access))
	expect(t, "enable", enabled, 200)
	secret = enabled.text("secret")
	expect(t, "confirm", n.post(t, tenant, "/auth/2fa/confirm", object{"code": appCode(t, secret, 0)}, bearer(access)), 200)
	forgetSteps(t, tenant)
	return access, secret, listOf(enabled, "backup_codes")
}

func listOf(a answer, field string) []string {
	var out []string
	list, _ := a.at(field).([]any)
	for _, v := range list {
		s, _ := v.(string)
		out = append(out, s)
	}
	return out
}

// halfLogin is the first half of the owner's login.
func (n *node) halfLogin(t *testing.T, tenant tenanttest.Tenant) string {
	t.Helper()
	a := n.post(t, tenant, "/auth/login", object{"identifier": tenant.OwnerEmail, "password": tenanttest.OwnerPassword})
	expect(t, "the first half", a, 200)
	if a.at("requires_2fa") != true || a.text("session_id") == "" || a.at("tokens") != nil || a.at("user") != nil {
		t.Fatalf("the first half answers %s", a.raw)
	}
	return a.text("session_id")
}

func (n *node) secondHalf(t *testing.T, tenant tenanttest.Tenant, session, code string) answer {
	t.Helper()
	return n.post(t, tenant, "/auth/login-2fa-verify-code", object{"session_id": session, "code": code})
}

func TestSecondFactorByApp(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	access, _ := n.login(t, n.A)
	expect(t, "confirm nothing", n.post(t, n.A, "/auth/2fa/confirm", object{"code": "123456"}, bearer(access)), 409, "nothing_to_confirm")
	enabled := n.post(t, n.A, "/auth/settings_enable-2fa", object{"method": "totp"}, bearer(access))
	expect(t, "enable", enabled, 200)
	secret := enabled.text("secret")
	address, err := url.Parse(enabled.text("qr_code"))
	if err != nil || address.Scheme != "otpauth" || address.Host != "totp" || address.Path != "/acme:"+n.A.OwnerEmail ||
		address.Query().Get("secret") != secret || address.Query().Get("issuer") != "acme" || len(secret) != 32 {
		t.Errorf("enable answers %s", enabled.raw)
	}
	defer n.neverLogged(t, secret)
	n.login(t, n.A) // it does not count yet
	if n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(access)).at("is_2fa_enabled") != false {
		t.Error("it counts before it is confirmed")
	}
	code := appCode(t, secret, 0)
	expect(t, "a wrong code", n.post(t, n.A, "/auth/2fa/confirm", object{"code": otherThan(code)}, bearer(access)), 422, "invalid_code")
	confirmed := n.post(t, n.A, "/auth/2fa/confirm", object{"code": code}, bearer(access))
	expect(t, "confirm", confirmed, 200)
	me := n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(access))
	if me.at("is_2fa_enabled") != true || me.text("two_fa_type") != "totp" || confirmed.text("two_fa_type") != "totp" {
		t.Errorf("confirm answers %s, the profile says %s", confirmed.raw, me.raw)
	}
	if mail := lastMessage(t, n, n.A, n.A.OwnerEmail); mail.Template != outbox.TemplateSecurity || mail.Values["event"] == "" {
		t.Errorf("the mail is %+v", mail)
	}
	exec(t, n.A, "UPDATE public.users SET primary_mobile = $1, username = 'the-owner' WHERE id = $2", mobile, n.A.OwnerID)
	for _, identifier := range []string{n.A.OwnerEmail, mobile, "The-Owner"} {
		forgetSteps(t, n.A)
		first := n.post(t, n.A, "/auth/login", object{"identifier": identifier, "password": tenanttest.OwnerPassword, "remember_me": true})
		expect(t, "the first half", first, 200)
		if first.at("requires_2fa") != true || first.at("tokens") != nil || first.text("two_fa_type") != "totp" || first.number("expires_in") != 600 {
			t.Errorf("the first half answers %s", first.raw)
		}
		session := first.text("session_id")
		expect(t, "the session as a token", n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(session)), 401)
		expect(t, "at B", n.secondHalf(t, n.B, session, appCode(t, secret, 0)), 401, "invalid_code")
		second := n.secondHalf(t, n.A, session, appCode(t, secret, 0))
		expect(t, "the second half", second, 200)
		if second.number("user", "id") != n.A.OwnerID {
			t.Errorf("the second half answers %s", second.raw)
		}
		expect(t, "me", n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(second.text("tokens", "access"))), 200)
		expect(t, "the session once more", n.secondHalf(t, n.A, session, appCode(t, secret, 1)), 401, "invalid_code")
	}
	if remembered := value[int](t, n.A, "SELECT count(*) FROM public.sessions WHERE remember"); remembered != 3 {
		t.Errorf("%d sessions are remembered, want 3", remembered)
	}
	wrong := n.post(t, n.A, "/auth/login", object{"identifier": n.A.OwnerEmail, "password": "wrong"})
	expect(t, "a wrong password", wrong, 401, "invalid_credentials")
}

func TestTheSecondHalfEndsWithTimeThePasswordAndTheUser(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	_, secret, _ := n.withApp(t, n.A)
	for name, change := range map[string]string{
		"time":         "UPDATE public.login_challenges SET expires_at = now()",
		"the password": "UPDATE public.users SET password_hash = password_hash || ' '",
		"the user":     "SET session_replication_role = replica; UPDATE public.users SET is_active = false", // the company would have no owner
		"a lock":       "UPDATE public.users SET locked_until = now() + interval '1 min'",
		"the factor":   "UPDATE public.users SET is_2fa_enabled = false",
	} {
		session := n.halfLogin(t, n.A)
		hash := value[string](t, n.A, "SELECT password_hash FROM public.users")
		exec(t, n.A, change)
		expect(t, name, n.secondHalf(t, n.A, session, appCode(t, secret, 0)), 401, "invalid_code")
		exec(t, n.A, "UPDATE public.users SET is_active = true, locked_until = NULL, is_2fa_enabled = true, failed_logins = 0, password_hash = $1", hash)
	}
	expect(t, "as it was", n.secondHalf(t, n.A, n.halfLogin(t, n.A), appCode(t, secret, 0)), 200)
	if !value[bool](t, n.A, "SELECT bool_and(length(session_hash) = 32 AND expires_at > now()) FROM public.login_challenges") {
		t.Error("a challenge is kept that is over, or not as a digest")
	}
}

func TestSecondFactorBySMS(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	access, _ := n.login(t, n.A)
	enable := func() answer {
		return n.post(t, n.A, "/auth/settings_enable-2fa", object{"method": "sms"}, bearer(access))
	}
	expect(t, "without a number", enable(), 422, "no_mobile")
	exec(t, n.A, "UPDATE public.users SET primary_mobile = $1 WHERE id = $2", mobile, n.A.OwnerID)
	enabled := enable()
	expect(t, "enable", enabled, 200)
	if enabled.at("secret") != nil || enabled.at("qr_code") != nil || len(listOf(enabled, "backup_codes")) != 10 {
		t.Errorf("enable answers %s", enabled.raw)
	}
	sms := lastMessage(t, n, n.A, mobile)
	if sms.Template != outbox.TemplateLoginCode {
		t.Errorf("the SMS is %+v", sms)
	}
	expect(t, "a wrong code", n.post(t, n.A, "/auth/2fa/confirm", object{"code": otherThan(sms.Values["code"])}, bearer(access)), 422, "invalid_code")
	expect(t, "confirm", n.post(t, n.A, "/auth/2fa/confirm", object{"code": sms.Values["code"]}, bearer(access)), 200)
	me := n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(access))
	if me.at("phone_verified") != true || me.text("two_fa_type") != "sms" {
		t.Errorf("the profile says %s", me.raw)
	}

	// Another number in the profile is not where codes go.
	exec(t, n.A, "UPDATE public.users SET primary_mobile = '+4915100000099' WHERE id = $1", n.A.OwnerID)
	first, second := n.halfLogin(t, n.A), n.halfLogin(t, n.A)
	all := messages(t, n, n.A)
	codes := []string{all[len(all)-2].Values["code"], all[len(all)-1].Values["code"]}
	if to := all[len(all)-1].To; to != mobile {
		t.Errorf("the code went to %s", to)
	}
	if codes[0] != codes[1] {
		expect(t, "the code of another login", n.secondHalf(t, n.A, first, codes[1]), 401, "invalid_code")
	}
	expect(t, "the second half", n.secondHalf(t, n.A, first, codes[0]), 200)
	exec(t, n.A, "UPDATE public.login_challenges SET code_expires_at = now()")
	expect(t, "after five minutes", n.secondHalf(t, n.A, second, codes[1]), 401, "invalid_code")

	expect(t, "ask for a code", n.post(t, n.A, "/auth/2fa/send-code", nil, bearer(access)), 200)
	code := lastMessage(t, n, n.A, mobile).Values["code"]
	off := n.post(t, n.A, "/auth/2fa/disable", object{"password": tenanttest.OwnerPassword, "code": code}, bearer(access))
	expect(t, "disable", off, 200)
	expect(t, "ask for a code without the factor", n.post(t, n.A, "/auth/2fa/send-code", nil, bearer(access)), 409, "not_by_sms")
	n.neverLogged(t, append(codes, code)...)
}

// Whoever asks too often gets no more codes, and can still use a backup code;
// sign-ups with the number use nothing up.
func TestCodesBySMSAreLimited(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	access, _ := n.login(t, n.A)
	exec(t, n.A, "UPDATE public.users SET primary_mobile = $1 WHERE id = $2", mobile, n.A.OwnerID)
	n.Table.Change(n.A.ID, func(r *route.Route) {
		r.Settings.Limits = maps.Clone(r.Settings.Limits)
		r.Settings.Limits[route.LimitOTPSendPerNumber.Name] = 3
	})
	for range 3 {
		expect(t, "a stranger's sign-up", n.post(t, n.A, "/auth/signup", object{"full_name": "Eve", "primary_mobile": mobile}), 201)
	}
	enabled := n.post(t, n.A, "/auth/settings_enable-2fa", object{"method": "sms"}, bearer(access))
	expect(t, "enable", enabled, 200)
	expect(t, "confirm", n.post(t, n.A, "/auth/2fa/confirm", object{"code": lastMessage(t, n, n.A, mobile).Values["code"]}, bearer(access)), 200)
	half := func() answer {
		return n.post(t, n.A, "/auth/login", object{"identifier": n.A.OwnerEmail, "password": tenanttest.OwnerPassword})
	}
	if a := half(); a.at("code_sent") != true {
		t.Errorf("the second code: %s", a.raw)
	}
	expect(t, "the third code", n.post(t, n.A, "/auth/2fa/send-code", nil, bearer(access)), 200)
	over := n.post(t, n.A, "/auth/2fa/send-code", nil, bearer(access))
	expect(t, "one more", over, 429, "rate_limited")
	if over.header.Get("Retry-After") == "" {
		t.Error("the refusal does not say when to try again")
	}
	a := half()
	if a.at("requires_2fa") != true || a.at("code_sent") != false {
		t.Errorf("one more at the login: %s", a.raw)
	}
	if sent := len(messages(t, n, n.A)); sent != 3+1 { // and the mail about the factor
		t.Errorf("%d messages, want 4", sent)
	}
	backup := object{"session_id": a.text("session_id"), "backup_code": listOf(enabled, "backup_codes")[0]}
	expect(t, "a backup code", n.post(t, n.A, "/auth/login-2fa-verify-backup", backup), 200)
}

func TestBackupCodes(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	access, secret, backup := n.withApp(t, n.A)
	if len(backup) != 10 {
		t.Fatalf("%d backup codes", len(backup))
	}
	for _, code := range backup {
		if raw, err := base32.StdEncoding.DecodeString(strings.ReplaceAll(code, "-", "")); err != nil || len(raw) != 10 {
			t.Errorf("%s is not 80 bits", code)
		}
		if value[bool](t, n.A, "SELECT EXISTS (SELECT FROM public.backup_codes WHERE code_hash IN ($1, sha256($1), sha256($2)))", []byte(code), []byte(strings.ReplaceAll(code, "-", ""))) {
			t.Error("a code is stored so that a dump tells it")
		}
	}
	use := func(session, code string) answer {
		return n.post(t, n.A, "/auth/login-2fa-verify-backup", object{"session_id": session, "backup_code": code})
	}
	expect(t, "a backup code", use(n.halfLogin(t, n.A), backup[0]), 200)
	expect(t, "typed in its own way", use(n.halfLogin(t, n.A), strings.ToLower(strings.ReplaceAll(backup[1], "-", " "))), 200)
	session := n.halfLogin(t, n.A)
	expect(t, "once more", use(session, backup[0]), 401, "invalid_code")
	expect(t, "as a code of the app", n.secondHalf(t, n.A, session, backup[2][:16]), 401, "invalid_code")

	expect(t, "new ones with a backup code", n.post(t, n.A, "/auth/2fa/backup-codes", object{"code": backup[2][:16]}, bearer(access)), 422, "invalid_code")
	renewed := n.post(t, n.A, "/auth/2fa/backup-codes", object{"code": appCode(t, secret, 0)}, bearer(access))
	expect(t, "new ones", renewed, 200)
	fresh := listOf(renewed, "backup_codes")
	if len(fresh) != 10 {
		t.Fatalf("new ones: %s", renewed.raw)
	}
	session = n.halfLogin(t, n.A)
	expect(t, "an old one", use(session, backup[3]), 401, "invalid_code")
	expect(t, "a new one", use(session, fresh[0]), 200)
	if events := value[int](t, n.A, "SELECT count(*) FROM ledger.security_logs WHERE action = 'backup_code_used' AND user_id = $1", n.A.OwnerID); events != 3 {
		t.Errorf("%d events, want 3", events)
	}
	n.neverLogged(t, backup[0], fresh[0])
}

func TestReplacingAndDisablingWantProof(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	access, secret, backup := n.withApp(t, n.A)
	enable := func(proof object) answer {
		proof["method"] = "totp"
		return n.post(t, n.A, "/auth/settings_enable-2fa", proof, bearer(access))
	}
	disable := func(body object) answer { return n.post(t, n.A, "/auth/2fa/disable", body, bearer(access)) }
	expect(t, "replace without proof", enable(object{}), 403, "proof_required")
	expect(t, "replace with a wrong code", enable(object{"code": otherThan(appCode(t, secret, 0))}), 422, "invalid_code")
	expect(t, "replace with a wrong password", enable(object{"password": "wrong"}), 422, "wrong_password")
	expect(t, "replace by code", enable(object{"code": appCode(t, secret, 0)}), 200)
	expect(t, "replace by backup code", enable(object{"backup_code": backup[0]}), 200)
	replaced := enable(object{"password": tenanttest.OwnerPassword})
	expect(t, "replace by password", replaced, 200)
	forgetSteps(t, n.A)
	expect(t, "the old one counts until the new one is confirmed", n.secondHalf(t, n.A, n.halfLogin(t, n.A), appCode(t, secret, 0)), 200)
	expect(t, "confirm", n.post(t, n.A, "/auth/2fa/confirm", object{"code": appCode(t, replaced.text("secret"), 0)}, bearer(access)), 200)
	session := n.halfLogin(t, n.A)
	expect(t, "the old one after that", n.secondHalf(t, n.A, session, appCode(t, secret, 1)), 401, "invalid_code")
	expect(t, "the new one", n.secondHalf(t, n.A, session, appCode(t, replaced.text("secret"), 1)), 200)

	forgetSteps(t, n.A)
	code := func() string { return appCode(t, replaced.text("secret"), 0) }
	expect(t, "disable without a code", disable(object{"password": tenanttest.OwnerPassword}), 422)
	expect(t, "disable with a wrong code", disable(object{"password": tenanttest.OwnerPassword, "code": otherThan(code())}), 422, "invalid_code")
	expect(t, "disable with a wrong password", disable(object{"password": "wrong", "code": code()}), 422, "wrong_password")
	n.Table.Change(n.A.ID, func(r *route.Route) { r.Settings.Require2FA = true })
	expect(t, "disable where all must have one", disable(object{"password": tenanttest.OwnerPassword, "code": code()}), 409, "two_factor_required")
	n.Table.Change(n.A.ID, func(r *route.Route) { r.Settings.Require2FA = false })
	expect(t, "disable", disable(object{"password": tenanttest.OwnerPassword, "code": code()}), 200)
	n.login(t, n.A)
	expect(t, "disable again", disable(object{"password": tenanttest.OwnerPassword, "code": code()}), 409, "no_second_factor")
	if left := value[int](t, n.A, "SELECT (SELECT count(*) FROM public.two_factors) + (SELECT count(*) FROM public.backup_codes)"); left != 0 {
		t.Errorf("%d rows are left", left)
	}
	for _, action := range []string{"second_factor_enabled", "second_factor_disabled", "second_factor_failed"} {
		if value[int](t, n.A, "SELECT count(*) FROM ledger.security_logs WHERE action = $1 AND user_id = $2", action, n.A.OwnerID) == 0 {
			t.Errorf("no event %s", action)
		}
	}
}

// A password that is only long enough with a second factor keeps it.
func TestAShortPasswordKeepsTheSecondFactor(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	access, secret, _ := n.withApp(t, n.A)
	const short = "plum-tart"
	change := object{"current_password": tenanttest.OwnerPassword, "new_password": short}
	expect(t, "a short password", n.post(t, n.A, "/account/change-password", change, bearer(access)), 200)
	off := n.post(t, n.A, "/auth/2fa/disable", object{"password": short, "code": appCode(t, secret, 0)}, bearer(access))
	expect(t, "disable", off, 409, "password_policy")
}

// A code of an app signs in once, also when it comes twenty times at once, and
// a code from before it does not count after it.
func TestSec21TOTPIsNotReplayed(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	access, secret, _ := n.withApp(t, n.A)
	code := appCode(t, secret, 1)
	sessions := make([]string, 4)
	for i := range sessions {
		sessions[i] = n.halfLogin(t, n.A)
	}
	var signedIn atomic.Int64
	var logins sync.WaitGroup
	for _, session := range sessions {
		logins.Go(func() {
			for { // the pool is small on purpose: who finds it full comes again
				switch a := n.secondHalf(t, n.A, session, code); a.status {
				case http.StatusTooManyRequests, http.StatusServiceUnavailable:
					continue
				case http.StatusOK:
					signedIn.Add(1)
				}
				return
			}
		})
	}
	logins.Wait()
	if signedIn.Load() != 1 {
		t.Errorf("one code signed in %d times", signedIn.Load())
	}
	exec(t, n.A, "UPDATE public.users SET failed_logins = 0, locked_until = NULL")
	session := n.halfLogin(t, n.A)
	expect(t, "the code before", n.secondHalf(t, n.A, session, appCode(t, secret, 0)), 401, "invalid_code")
	expect(t, "for new backup codes", n.post(t, n.A, "/auth/2fa/backup-codes", object{"code": code}, bearer(access)), 422, "invalid_code")
	forgetSteps(t, n.A)
	expect(t, "had it not been used", n.secondHalf(t, n.A, session, code), 200)
}

// Guesses at a second factor: five under a challenge, and five at the account
// over all its challenges and operations, also when they come at once.
func TestSec20GuessesAtASecondFactorLockTheAccount(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	access, secret, backup := n.withApp(t, n.A)
	wrong := otherThan(appCode(t, secret, 0))
	var sessions []string
	for range 6 {
		sessions = append(sessions, n.halfLogin(t, n.A))
	}
	// The guesses line up at a lock, so that they are under way at once.
	conn := testdb.Connect(t, n.A.AdminURL)
	gate, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gate.Exec(t.Context(), "SELECT FROM public.users FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	var guesses sync.WaitGroup
	for i := range 50 {
		guesses.Go(func() {
			for { // the pool is small on purpose: who finds it full comes again
				a := n.secondHalf(t, n.A, sessions[i%5], wrong)
				if a.status != http.StatusTooManyRequests && a.status != http.StatusServiceUnavailable {
					expect(t, "a guess", a, 401, "invalid_code")
					return
				}
			}
		})
	}
	n.linedUp(t, n.A, 4)
	if err := gate.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	guesses.Wait()
	if compared := value[int](t, n.A, "SELECT count(*) FROM ledger.security_logs WHERE action = 'second_factor_failed' AND NOT metadata ? 'reason'"); compared != 5 {
		t.Errorf("%d guesses were compared, want 5", compared)
	}
	if most := value[int](t, n.A, "SELECT max(attempts) FROM public.login_challenges"); most > 5 {
		t.Errorf("%d guesses were taken under one challenge", most)
	}
	if !value[bool](t, n.A, "SELECT locked_until > now() + interval '29 min' FROM public.users WHERE id = $1", n.A.OwnerID) {
		t.Fatal("the account is not locked")
	}
	expect(t, "the right code", n.secondHalf(t, n.A, sessions[5], appCode(t, secret, 0)), 401, "invalid_code")
	expect(t, "a backup code", n.post(t, n.A, "/auth/login-2fa-verify-backup", object{"session_id": sessions[5], "backup_code": backup[0]}), 401, "invalid_code")
	expect(t, "the password", n.post(t, n.A, "/auth/login", object{"identifier": n.A.OwnerEmail, "password": tenanttest.OwnerPassword}), 401, "invalid_credentials")
	expect(t, "somebody who is signed in", n.post(t, n.A, "/auth/2fa/backup-codes", object{"code": appCode(t, secret, 0)}, bearer(access)), 429, "account_locked")

	// Five in a row: a right password between them forgives none, the whole
	// login does.
	exec(t, n.A, "UPDATE public.users SET failed_logins = 0, locked_until = NULL")
	for range 4 {
		expect(t, "a guess", n.secondHalf(t, n.A, n.halfLogin(t, n.A), wrong), 401)
	}
	if failed := value[int](t, n.A, "SELECT failed_logins FROM public.users WHERE id = $1", n.A.OwnerID); failed != 4 {
		t.Errorf("%d failures are counted, want 4", failed)
	}
	expect(t, "the right code", n.secondHalf(t, n.A, n.halfLogin(t, n.A), appCode(t, secret, 0)), 200)
	if failed := value[int](t, n.A, "SELECT failed_logins FROM public.users WHERE id = $1", n.A.OwnerID); failed != 0 {
		t.Errorf("%d failures are counted after the login", failed)
	}
}

// The secret of an app is sealed for its user: a dump does not tell it, and
// moved to another user or tenant it does not open.
func TestSec21TheSecretIsSealedForItsUser(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	_, secret, _ := n.withApp(t, n.A)
	_, _, _ = n.withApp(t, n.B)
	raw, err := base32.StdEncoding.DecodeString(secret)
	if err != nil {
		t.Fatal(err)
	}
	sealed := value[[]byte](t, n.A, "SELECT secret_sealed FROM public.two_factors")
	if bytes.Contains(sealed, raw) || strings.Contains(string(sealed), secret) {
		t.Error("the secret is stored in clear")
	}
	session := n.halfLogin(t, n.B)
	exec(t, n.B, "UPDATE public.two_factors SET secret_sealed = $1", sealed)
	expect(t, "with A's secret", n.secondHalf(t, n.B, session, appCode(t, secret, 0)), 500)
}

// Where the tenant wants a second factor of everybody, who has none can do
// nothing but get one, and leave.
func TestARequiredSecondFactor(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	access, _ := n.login(t, n.A)
	n.Table.Change(n.A.ID, func(r *route.Route) { r.Settings.Require2FA = true })
	allowed := map[string]bool{"me": true, "profile": true, "logout": true, "enable-2fa": true, "confirm-2fa": true, "verify-phone": true}
	document := n.ask(t, http.MethodGet, "any.example", "/openapi.json", nil)
	paths, _ := document.at("paths").(map[string]any)
	refused := 0
	for path, item := range paths {
		operations, _ := item.(map[string]any)
		for method, described := range operations {
			operation, _ := described.(map[string]any)
			id, _ := operation["operationId"].(string)
			if _, open := operation["security"]; open || allowed[id] {
				continue
			}
			a := n.ask(t, strings.ToUpper(method), hostOf(n.A), strings.ReplaceAll(path, "{id}", "1"), nil, bearer(access))
			if a.status == http.StatusForbidden && a.text("code") == "two_factor_required" {
				refused++
			} else if a.status != http.StatusUnprocessableEntity && a.status != http.StatusBadRequest { // refused before the frame is asked
				t.Errorf("%s: %d %s", id, a.status, a.raw)
			}
		}
	}
	if refused < 4 {
		t.Errorf("only %d operations were refused for want of a second factor", refused)
	}
	for _, path := range []string{"/account/me", "/account/profile"} {
		expect(t, path, n.ask(t, http.MethodGet, hostOf(n.A), path, nil, bearer(access)), 200)
	}
	enabled := n.post(t, n.A, "/auth/settings_enable-2fa", object{"method": "totp"}, bearer(access))
	expect(t, "enable", enabled, 200)
	expect(t, "confirm", n.post(t, n.A, "/auth/2fa/confirm", object{"code": appCode(t, enabled.text("secret"), 0)}, bearer(access)), 200)
	expect(t, "after that", n.ask(t, http.MethodGet, hostOf(n.A), fmt.Sprintf("/company/%d", n.A.CompanyID), nil, bearer(access)), 200)

	other, _ := n.login(t, n.B)
	expect(t, "B wants none", n.ask(t, http.MethodGet, hostOf(n.B), fmt.Sprintf("/company/%d", n.B.CompanyID), nil, bearer(other)), 200)
}
