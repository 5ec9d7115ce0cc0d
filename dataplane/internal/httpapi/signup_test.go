package httpapi_test

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/testdb"
)

const mobile = "+4915112345678"

// post sends a body to a path of a tenant.
func (n *node) post(t *testing.T, tenant tenanttest.Tenant, path string, body object, edits ...edit) answer {
	t.Helper()
	return n.ask(t, http.MethodPost, hostOf(tenant), path, body, edits...)
}

// signupCode starts a sign-up and reads its code out of the outbox.
func (n *node) signupCode(t *testing.T, tenant tenanttest.Tenant, number string) string {
	t.Helper()
	expect(t, "signup", n.post(t, tenant, "/auth/signup", object{"full_name": "Ada Example", "primary_mobile": number}), 201)
	return lastMessage(t, n, tenant, number).Values["code"]
}

// neverLogged fails the test if the node's log holds one of the secrets.
func (n *node) neverLogged(t *testing.T, secrets ...string) {
	t.Helper()
	for _, secret := range secrets {
		// A few digits may be part of a longer number, such as a time.
		if regexp.MustCompile(`(^|[^0-9.])` + regexp.QuoteMeta(secret) + `($|[^0-9])`).MatchString(n.log.String()) {
			t.Errorf("the log holds a secret: %s", secret)
		}
	}
}

// linedUp waits until so many sessions of the tenant's database wait for a lock.
func (n *node) linedUp(t *testing.T, tenant tenanttest.Tenant, sessions int) {
	t.Helper()
	const waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
	for deadline := time.Now().Add(10 * time.Second); value[int](t, tenant, waiting) < sessions; {
		if time.Now().After(deadline) {
			t.Fatalf("fewer than %d sessions wait for a lock", sessions)
		}
	}
}

// otherThan is a code that is not this one.
func otherThan(code string) string {
	if code == "000000" {
		return "000001"
	}
	return "000000"
}

func TestSignupByPhone(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	started := n.post(t, n.A, "/auth/signup", object{"full_name": " Ada Example ", "primary_mobile": mobile})
	expect(t, "signup", started, 201)
	if started.text("primary_mobile") != mobile || started.text("message") == "" {
		t.Errorf("signup answers %s", started.raw)
	}
	sms := lastMessage(t, n, n.A, mobile)
	if sms.Channel != outbox.SMS || sms.Template != outbox.TemplateOTP || len(sms.Values["code"]) != 6 || sms.Values["minutes"] != "5" {
		t.Errorf("the SMS is %+v", sms)
	}
	if strings.Contains(started.raw, sms.Values["code"]) {
		t.Error("the answer repeats the code")
	}
	defer n.neverLogged(t, sms.Values["code"], goodPassword)
	finish := object{"primary_mobile": mobile, "email": "Ada@Example.com", "password": goodPassword}
	expect(t, "before the code", n.post(t, n.A, "/auth/finalize-signup", finish), 422, "mobile_not_verified")

	verified := n.post(t, n.A, "/auth/verify-otp", object{"primary_mobile": mobile, "otp": sms.Values["code"]})
	expect(t, "verify", verified, 200)
	if verified.text("primary_mobile") != mobile || verified.text("message") == "" || verified.number("expires_in") != 900 {
		t.Errorf("verify answers %s", verified.raw)
	}
	for field, bad := range map[string]string{"email": "ada", "password": "short", "primary_mobile": "015112345678"} {
		wrong := object{"primary_mobile": mobile, "email": "ada@example.com", "password": goodPassword}
		wrong[field] = bad
		refused := n.post(t, n.A, "/auth/finalize-signup", wrong)
		expect(t, "bad "+field, refused, 422)
		if !strings.Contains(refused.raw, `"field":"`+field+`"`) {
			t.Errorf("the refusal does not name %s: %s", field, refused.raw)
		}
	}
	taken := object{"primary_mobile": mobile, "email": n.A.OwnerEmail, "password": goodPassword}
	expect(t, "an address that is taken", n.post(t, n.A, "/auth/finalize-signup", taken), 409, "email_taken")
	expect(t, "tenant B", n.post(t, n.B, "/auth/finalize-signup", finish), 422, "mobile_not_verified")

	made := n.post(t, n.A, "/auth/finalize-signin", finish)
	expect(t, "finalize", made, 201)
	if made.text("user", "email") != "ada@example.com" || made.text("user", "full_name") != "Ada Example" ||
		made.at("user", "phone_verified") != true || made.at("user", "email_verified") != false || made.text("message") == "" || made.text("tokens", "refresh") == "" {
		t.Errorf("finalize answers %s", made.raw)
	}
	expect(t, "me", n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(made.text("tokens", "access"))), 200)
	expect(t, "once more", n.post(t, n.A, "/auth/finalize-signup", object{"primary_mobile": mobile, "email": "b@example.com", "password": goodPassword}), 422, "mobile_not_verified")
	expect(t, "login", n.post(t, n.A, "/auth/login", object{"identifier": mobile, "password": goodPassword}), 200)
	expect(t, "login at B", n.post(t, n.B, "/auth/login", object{"identifier": mobile, "password": goodPassword}), 401)
	if left := value[int](t, n.A, "SELECT (SELECT count(*) FROM public.signups) + (SELECT count(*) FROM public.one_time_codes WHERE used_at IS NULL)"); left != 0 {
		t.Errorf("%d rows are left", left)
	}
	if events := value[string](t, n.A, "SELECT string_agg(action, ' ' ORDER BY id) FROM ledger.security_logs"); events != "signup_verified register login" {
		t.Errorf("the security log says %q", events)
	}
}

func TestSignupCanBeClosed(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	code := n.signupCode(t, n.A, mobile)
	closed := false
	n.Table.Change(n.A.ID, func(r *route.Route) { r.Settings.SelfRegistration = &closed })
	for path, body := range map[string]object{
		"/auth/signup":          {"full_name": "Ada", "primary_mobile": mobile},
		"/auth/resend-otp":      {"primary_mobile": mobile},
		"/auth/verify-otp":      {"primary_mobile": mobile, "otp": code},
		"/auth/finalize-signup": {"primary_mobile": mobile, "email": "a@example.com", "password": goodPassword},
	} {
		expect(t, path, n.post(t, n.A, path, body), 403, "registration_closed")
	}
	expect(t, "B is open", n.post(t, n.B, "/auth/signup", object{"full_name": "Ada", "primary_mobile": mobile}), 201)
}

// Whether a number has an account is told neither by an answer nor by what is
// stored; its owner gets no message that somebody else causes.
func TestSignupDoesNotTellWhoHasAnAccount(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	const owners, strangers = "+4915100000001", "+4915100000002"
	exec(t, n.A, "UPDATE public.users SET primary_mobile = $1 WHERE id = $2", owners, n.A.OwnerID)
	said := map[string][]string{}
	for _, number := range []string{owners, strangers} {
		say := func(a answer) {
			said[number] = append(said[number], fmt.Sprint(a.status, " ", strings.ReplaceAll(a.raw, number, "…")))
		}
		say(n.post(t, n.A, "/auth/signup", object{"full_name": "Ada", "primary_mobile": number}))
		say(n.post(t, n.A, "/auth/resend-otp", object{"primary_mobile": number}))
		for range 6 {
			say(n.post(t, n.A, "/auth/verify-otp", object{"primary_mobile": number, "otp": "12345"}))
		}
	}
	for i, a := range said[owners] {
		if withoutID(a) != withoutID(said[strangers][i]) {
			t.Errorf("answer %d tells them apart:\n%s\n%s", i, a, said[strangers][i])
		}
	}
	for _, m := range messages(t, n, n.A) {
		if m.To == owners {
			t.Error("the owner of the number got a message")
		}
	}
	if events := value[int](t, n.A, "SELECT count(*) FROM ledger.security_logs WHERE action = 'signup_of_existing_user' AND user_id = $1", n.A.OwnerID); events != 2 {
		t.Errorf("%d security events, want one for each message that was not sent", events)
	}
	expect(t, "at B the number is free", n.post(t, n.B, "/auth/signup", object{"full_name": "Ada", "primary_mobile": owners}), 201)
	lastMessage(t, n, n.B, owners)
}

// withoutID cuts what differs from request to request.
func withoutID(raw string) string {
	before, rest, found := strings.Cut(raw, `"request_id":"`)
	if !found {
		return raw
	}
	_, after, _ := strings.Cut(rest, `"`)
	return before + after
}

func TestACodeIsReplacedExpiresAndIsForOneNumber(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	verify := func(number, code string) answer {
		return n.post(t, n.A, "/auth/verify-otp", object{"primary_mobile": number, "otp": code})
	}
	first := n.signupCode(t, n.A, mobile)
	expect(t, "resend", n.post(t, n.A, "/auth/resent-otp", object{"primary_mobile": mobile}), 200)
	second := lastMessage(t, n, n.A, mobile).Values["code"]
	if first != second { // one time in a million they are equal
		expect(t, "the code before", verify(mobile, first), 422, "invalid_code")
	}
	expect(t, "a code that nobody asked for", n.post(t, n.A, "/auth/resend-otp", object{"primary_mobile": "+4915100000009"}), 200)
	if sent := len(messages(t, n, n.A)); sent != 2 {
		t.Errorf("%d messages, want 2", sent)
	}
	exec(t, n.A, "UPDATE public.one_time_codes SET expires_at = now() - interval '1 s'")
	expect(t, "after five minutes", verify(mobile, second), 422, "invalid_code")
	expect(t, "resend after it expired", n.post(t, n.A, "/auth/resend-otp", object{"primary_mobile": mobile}), 200)
	third := lastMessage(t, n, n.A, mobile).Values["code"]
	expect(t, "typed in two groups", verify(mobile, third[:3]+" "+third[3:]), 200)
	expect(t, "again", verify(mobile, third), 422, "invalid_code")
	expect(t, "resend after it was used", n.post(t, n.A, "/auth/resend-otp", object{"primary_mobile": mobile}), 200)
	if sent := len(messages(t, n, n.A)); sent != 3 {
		t.Errorf("%d messages, want 3", sent)
	}
	exec(t, n.A, "UPDATE public.signups SET expires_at = now() - interval '1 s'")
	late := object{"primary_mobile": mobile, "email": "a@example.com", "password": goodPassword}
	expect(t, "too late", n.post(t, n.A, "/auth/finalize-signup", late), 422, "mobile_not_verified")
}

// The last step belongs to who did the one before: by token from anywhere, or
// from the same address.
func TestAStrangerCannotFinishASignup(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	tests := []struct {
		name, verifiedFrom, finishedFrom, token string
		status                                  int
	}{
		{"another address", "198.51.100.7:1", "203.0.113.9:1", "", 422},
		{"another address with a made-up token", "198.51.100.7:1", "203.0.113.9:1", "ovs_made-up", 422},
		{"the same address with a made-up token", "198.51.100.7:1", "198.51.100.7:2", "ovs_made-up", 422},
		{"the same address", "198.51.100.7:1", "198.51.100.7:2", "", 201},
		{"the same network of IPv6", "[2001:db8::1]:1", "[2001:db8::2]:1", "", 201},
		{"another network of IPv6", "[2001:db8::1]:1", "[2001:db8:0:1::1]:1", "", 422},
		{"the token from another address", "198.51.100.7:1", "203.0.113.9:1", "yes", 201},
	}
	for i, tt := range tests {
		number := fmt.Sprintf("+49151000001%02d", i)
		code := n.signupCode(t, n.A, number)
		verified := n.post(t, n.A, "/auth/verify-otp", object{"primary_mobile": number, "otp": code}, peer(tt.verifiedFrom))
		expect(t, tt.name+": verify", verified, 200)
		body := object{"primary_mobile": number, "email": fmt.Sprintf("u%d@example.com", i), "password": goodPassword}
		if body["signup_token"] = tt.token; tt.token == "yes" {
			body["signup_token"] = verified.text("signup_token")
		}
		expect(t, tt.name, n.post(t, n.A, "/auth/finalize-signup", body, peer(tt.finishedFrom)), tt.status)
	}
	if stored := value[int](t, n.A, "SELECT count(*) FROM public.signups WHERE length(token_hash) = 32"); stored != 4 {
		t.Errorf("%d sign-ups wait with a digest, want 4", stored)
	}
}

// Of fifty guesses at once five are compared, and the code is dead after them.
func TestSec20FiftyParallelGuesses(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	code := n.signupCode(t, n.A, mobile)
	// The guesses line up at a lock, so that they are under way at once.
	conn := testdb.Connect(t, n.A.AdminURL)
	gate, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gate.Exec(t.Context(), "SELECT FROM public.one_time_codes FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	var answered atomic.Int64
	var guesses sync.WaitGroup
	for range 50 {
		guesses.Go(func() {
			for { // the pool is small on purpose: who finds it full comes again
				a := n.post(t, n.A, "/auth/verify-otp", object{"primary_mobile": mobile, "otp": otherThan(code)})
				if a.status == http.StatusTooManyRequests || a.status == http.StatusServiceUnavailable {
					continue
				}
				if a.text("code") == "invalid_code" {
					answered.Add(1)
				}
				return
			}
		})
	}
	n.linedUp(t, n.A, 4)
	if err := gate.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	guesses.Wait()
	if answered.Load() != 50 {
		t.Errorf("%d of 50 guesses were refused", answered.Load())
	}
	if compared := value[int](t, n.A, "SELECT attempts FROM public.one_time_codes"); compared != 5 {
		t.Errorf("%d guesses were compared, want 5", compared)
	}
	expect(t, "the right code after them", n.post(t, n.A, "/auth/verify-otp", object{"primary_mobile": mobile, "otp": code}), 422, "invalid_code")
}

// A code counts for its tenant, its number and its purpose, also for somebody
// who can move rows about; and a dump does not tell it.
func TestSec20ACodeIsBoundToWhatItIsFor(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	const other = "+4915100000002"
	code := n.signupCode(t, n.A, mobile)
	n.signupCode(t, n.A, other)
	n.signupCode(t, n.B, mobile)
	verify := func(tenant tenanttest.Tenant, number string) answer {
		return n.post(t, tenant, "/auth/verify-otp", object{"primary_mobile": number, "otp": code})
	}
	if lastMessage(t, n, n.A, other).Values["code"] != code {
		expect(t, "another number", verify(n.A, other), 422, "invalid_code")
	}
	if lastMessage(t, n, n.B, mobile).Values["code"] != code {
		expect(t, "another tenant", verify(n.B, mobile), 422, "invalid_code")
	}
	sealed := value[[]byte](t, n.A, "SELECT code_sealed FROM public.one_time_codes WHERE recipient = $1", mobile)
	if strings.Contains(string(sealed), code) || len(sealed) < 16+len(code) {
		t.Error("the code is stored in clear")
	}
	exec(t, n.A, "UPDATE public.one_time_codes SET code_sealed = $1 WHERE recipient = $2", sealed, other)
	exec(t, n.B, "UPDATE public.one_time_codes SET code_sealed = $1", sealed)
	expect(t, "moved to another number", verify(n.A, other), 500)
	expect(t, "moved to another tenant", verify(n.B, mobile), 500)
	exec(t, n.A, "UPDATE public.one_time_codes SET purpose = 'second_factor' WHERE recipient = $1", mobile)
	expect(t, "made for another purpose", verify(n.A, mobile), 422, "invalid_code")
	exec(t, n.A, "UPDATE public.one_time_codes SET purpose = 'signup' WHERE recipient = $1", mobile)
	expect(t, "where it belongs", verify(n.A, mobile), 200)
}
