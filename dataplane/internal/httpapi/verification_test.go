package httpapi_test

import (
	"net/http"
	"sync"
	"testing"

	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/route"
)

// verify asks for a code, or gives one back.
func (n *node) verify(t *testing.T, tenant tenanttest.Tenant, what, token, code string) answer {
	t.Helper()
	var body any
	if code != "" {
		body = object{"code": code}
	}
	return n.ask(t, http.MethodPost, hostOf(tenant), "/account/"+what+"/verify", body, bearer(token))
}

func wrong(code string) string {
	if code == "000000" {
		return "000001"
	}
	return "000000"
}

func TestAddressAndNumberAreVerifiedByCodes(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	const mobile = "+4915112345678"
	access, id := n.member(t, n.A, "new@example.com", "employee", n.A.CompanyID)
	foreign, _ := n.member(t, n.B, "new@example.com", "employee", n.B.CompanyID)
	expect(t, "no number", n.verify(t, n.A, "phone", access, ""), 409, "nothing_to_verify")
	exec(t, n.A, "UPDATE public.users SET primary_mobile = $1 WHERE id = $2", mobile, id)

	for _, c := range []struct {
		what, to, flag string
		template       outbox.Template
		channel        outbox.Channel
	}{
		{"email", "new@example.com", "email_verified", outbox.TemplateEmailCode, outbox.Email},
		{"phone", mobile, "phone_verified", outbox.TemplatePhoneCode, outbox.SMS},
	} {
		expect(t, "send", n.verify(t, n.A, c.what, access, ""), 200)
		first := lastMessage(t, n, n.A, c.to)
		if first.Template != c.template || first.Channel != c.channel || len(first.Values["code"]) != 6 || first.Values["minutes"] != "5" {
			t.Errorf("the message is %+v", first)
		}
		expect(t, "send again", n.verify(t, n.A, c.what, access, ""), 200)
		code := lastMessage(t, n, n.A, c.to).Values["code"]
		if first.Values["code"] != code {
			expect(t, "the first code", n.verify(t, n.A, c.what, access, first.Values["code"]), 422, "invalid_code")
		}
		expect(t, "a wrong code", n.verify(t, n.A, c.what, access, wrong(code)), 422, "invalid_code")
		if got := n.get(t, n.A, "/account/me", access); got.at(c.flag) != false {
			t.Errorf("verified by a wrong code: %s", got.raw)
		}
		expect(t, "at B", n.verify(t, n.B, "email", foreign, code), 422, "invalid_code")
		expect(t, "the code", n.verify(t, n.A, c.what, access, code), 200)
		if got := n.get(t, n.A, "/account/me", access); got.at(c.flag) != true {
			t.Errorf("not verified: %s", got.raw)
		}
		expect(t, "once", n.verify(t, n.A, c.what, access, code), 409, "already_verified")
		expect(t, "no more codes", n.verify(t, n.A, c.what, access, ""), 409, "already_verified")
	}
	if got := n.get(t, n.B, "/account/me", foreign); got.at("email_verified") != false {
		t.Errorf("B's user is verified: %s", got.raw)
	}
	if rows := value[int](t, n.A, "SELECT count(*) FROM ledger.activity_logs WHERE entity_type = 'user' AND entity_id = $1 AND new_values->>'phone_verified' = 'true'", id); rows != 1 {
		t.Errorf("%d rows in the audit", rows)
	}
}

func TestACodeDiesWithTheAddress(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	access, _ := n.member(t, n.A, "mine@example.com", "employee", n.A.CompanyID)
	other, _ := n.member(t, n.A, "theirs@example.com", "employee", n.A.CompanyID)
	rename := func(token, email string) {
		t.Helper()
		expect(t, "rename to "+email, n.ask(t, http.MethodPatch, hostOf(n.A), "/account/profile", object{"email": email}, bearer(token)), 200)
	}
	expect(t, "send", n.verify(t, n.A, "email", access, ""), 200)
	code := lastMessage(t, n, n.A, "mine@example.com").Values["code"]
	rename(access, "changed@example.com")
	expect(t, "for another address", n.verify(t, n.A, "email", access, code), 422, "invalid_code")
	rename(other, "mine@example.com")
	expect(t, "by another user", n.verify(t, n.A, "email", other, code), 422, "invalid_code")

	expect(t, "send", n.verify(t, n.A, "email", other, ""), 200)
	code = lastMessage(t, n, n.A, "mine@example.com").Values["code"]
	exec(t, n.A, "UPDATE public.one_time_codes SET expires_at = now()")
	expect(t, "too late", n.verify(t, n.A, "email", other, code), 422, "invalid_code")
}

func TestSec20FiveGuessesAtAVerificationCode(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	access, _ := n.member(t, n.A, "new@example.com", "employee", n.A.CompanyID)
	expect(t, "send", n.verify(t, n.A, "email", access, ""), 200)
	code := lastMessage(t, n, n.A, "new@example.com").Values["code"]
	var callers sync.WaitGroup
	for range 20 {
		callers.Go(func() {
			for { // the pool is small: who finds it full comes again
				a := n.verify(t, n.A, "email", access, wrong(code))
				if a.status == http.StatusTooManyRequests || a.status == http.StatusServiceUnavailable {
					continue
				}
				expect(t, "a guess", a, 422, "invalid_code")
				return
			}
		})
	}
	callers.Wait()
	if compared := value[int](t, n.A, "SELECT attempts FROM public.one_time_codes WHERE purpose = 'verify_email'"); compared != 5 {
		t.Errorf("%d guesses were compared", compared)
	}
	expect(t, "the right one, too late", n.verify(t, n.A, "email", access, code), 422, "invalid_code")
	expect(t, "another code", n.verify(t, n.A, "email", access, ""), 200)
	expect(t, "counts", n.verify(t, n.A, "email", access, lastMessage(t, n, n.A, "new@example.com").Values["code"]), 200)
}

func TestVerificationCodesAreLimited(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	access, _ := n.member(t, n.A, "new@example.com", "employee", n.A.CompanyID)
	n.Table.Change(n.A.ID, func(r *route.Route) { r.Settings.Limits = nil })
	for range 3 {
		expect(t, "send", n.verify(t, n.A, "email", access, ""), 200)
	}
	expect(t, "the fourth in an hour", n.verify(t, n.A, "email", access, ""), 429, "rate_limited")
	for range 5 {
		expect(t, "guess", n.verify(t, n.A, "email", access, "12345"), 422, "invalid_code")
	}
	expect(t, "the sixth guess in a minute", n.verify(t, n.A, "email", access, "12345"), 429, "rate_limited")
	for range 5 {
		expect(t, "forgot by email and by identifier", n.forgot(t, n.B, object{"email": "nobody@example.com"}), 200)
	}
	byMail, byName := object{"email": n.A.OwnerEmail}, object{"identifier": n.A.OwnerEmail}
	for _, body := range []object{byMail, byName, byMail} {
		expect(t, "forgot", n.forgot(t, n.A, body), 200)
	}
	expect(t, "the fourth by mail", n.forgot(t, n.A, byMail), 429, "rate_limited")
	expect(t, "the fourth by name", n.forgot(t, n.A, byName), 429, "rate_limited")
}
