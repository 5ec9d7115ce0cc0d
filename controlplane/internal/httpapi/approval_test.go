package httpapi_test

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ouvira/ouvira/controlplane/internal/httpapi"
	"github.com/ouvira/ouvira/controlplane/internal/operator"
	"github.com/ouvira/ouvira/controlplane/internal/signup"
	"github.com/ouvira/ouvira/shared/httpserver"
)

// Where operators decide, a proven sign-up waits for them: who may decide is mailed,
// and who has signed up hears of the decision.
func TestApproval(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.rooms.Signups.Approval = true
	box := w.postman(t)
	token, support := w.operator(t, operator.RoleOperator), w.operator(t, operator.RoleSupport)
	decider := one[string](t, w, "SELECT email FROM control.operators WHERE role = 'operator'")
	waits := func(slug string) string {
		id := w.signUp(t, slug)
		code := map[string]string{"code": box.code(t, slug+"@initech.example", 1)}
		for range 2 { // asking again gives the same answer
			if a := w.want(t, 202, "", "POST", "/v1/signups/"+id+"/verify", code); a.text("status") != "pending_approval" || a.field("tenant") != nil {
				t.Errorf("unexpected answer: %s", a.raw)
			}
		}
		return id
	}
	good, bad := waits("initech"), waits("globex")
	eventually(t, "the operator's mail", func() bool { return len(box.to(decider)) == 2 })
	if text := box.to(decider)[0].text; strings.Contains(text, "Bill") || !strings.Contains(text, "ouvira signup approve") {
		t.Errorf("the operator's mail: %q", text)
	}
	if n := one[int](t, w, "SELECT count(*) FROM control.tenants"); n != 0 {
		t.Errorf("%d tenants before anybody has decided", n)
	}
	if a := w.want(t, 200, "", "GET", "/v1/signups/"+good, nil); a.text("status") != "pending_approval" || a.text("reason") == "" {
		t.Errorf("unexpected view: %s", a.raw)
	}
	w.want(t, 403, support, "POST", "/v1/signups/"+good+"/approve", map[string]string{})
	w.want(t, 422, token, "POST", "/v1/signups/"+bad+"/reject", map[string]string{"reason": " "})

	if a := w.want(t, 202, token, "POST", "/v1/signups/"+good+"/approve", map[string]string{}); a.text("tenant.slug") != "initech" || a.text("operation.status") != "queued" {
		t.Errorf("unexpected answer: %s", a.raw)
	}
	if a := w.want(t, 200, token, "POST", "/v1/signups/"+bad+"/reject", map[string]string{"reason": "We know this name."}); a.text("status") != "rejected" || a.text("reason") != "We know this name." {
		t.Errorf("unexpected answer: %s", a.raw)
	}
	for _, call := range []string{good + "/approve", good + "/reject", bad + "/approve", bad + "/reject"} {
		if a := w.want(t, 409, token, "POST", "/v1/signups/"+call, map[string]string{"reason": "Again."}); !strings.Contains(a.text("detail"), "pending_approval") {
			t.Errorf("%s: %s", call, a.raw)
		}
	}
	eventually(t, "the mails with the decisions", func() bool {
		return len(box.to("initech@initech.example")) == 2 && len(box.to("globex@initech.example")) == 2
	})
	if yes, no := box.to("initech@initech.example")[1].text, box.to("globex@initech.example")[1].text; !strings.Contains(yes, "was approved") ||
		!strings.Contains(no, "not approved") || !strings.Contains(no, "We know this name.") {
		t.Errorf("%q, %q", yes, no)
	}
	if kept := one[bool](t, w, "SELECT password_hash IS NOT NULL FROM control.signups WHERE id = $1", bad); kept {
		t.Error("the password of a rejected sign-up is kept")
	}
	if n := one[int](t, w, "SELECT count(*) FROM control.audit_log WHERE action IN ('signup.approve', 'signup.reject') AND actor_kind = 'operator'"); n != 2 {
		t.Errorf("%d audit entries", n)
	}
}

// A sign-up that nobody decides about ends, and its password goes.
func TestApprovalExpires(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.rooms.Signups.Approval = true
	box := w.postman(t)
	token := w.operator(t, operator.RoleOperator)
	id := w.signUp(t, "initech")
	w.want(t, 202, "", "POST", "/v1/signups/"+id+"/verify", map[string]string{"code": box.code(t, "initech@initech.example", 1)})
	w.exec(t, "UPDATE control.signups SET expires_at = now() - interval '1 s'")
	w.want(t, 409, token, "POST", "/v1/signups/"+id+"/approve", map[string]string{})
	if err := w.rooms.Signups.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if gone := one[bool](t, w, "SELECT status = 'expired' AND password_hash IS NULL FROM control.signups"); !gone {
		t.Error("it has not expired")
	}
}

// An address, and a network, starts so many sign-ups in an hour, however many ask at
// once; others are not concerned.
func TestSignupsAreLimited(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *httpapi.Options) {
		proxies, err := httpserver.ParseProxies([]string{"127.0.0.1/32"})
		if err != nil {
			t.Fatal(err)
		}
		o.TrustedProxies = proxies
	})
	w.rooms.Signups.Limits = signup.Limits{PerAddress: 3, PerNetwork: 5}
	var number atomic.Int64
	start := func(from string) answer {
		return w.call(t, "", "POST", "/v1/signups", form(fmt.Sprintf("tenant-%d", number.Add(1))), "X-Forwarded-For", from)
	}
	var made, refused atomic.Int64
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			switch a := start("203.0.113.7"); a.status {
			case 201:
				made.Add(1)
			case 429:
				refused.Add(1)
				if seconds, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || seconds < 1 || seconds > 1200 || a.text("code") != "signup_limit" {
					t.Errorf("Retry-After %q: %s", a.header.Get("Retry-After"), a.raw)
				}
			default:
				t.Errorf("%d %s", a.status, a.raw)
			}
		})
	}
	group.Wait()
	if made.Load() != 3 || refused.Load() != 5 {
		t.Errorf("%d made, %d refused", made.Load(), refused.Load())
	}
	for from, want := range map[string]int{"198.51.100.7": 201, "2001:db8::1": 201} {
		if a := start(from); a.status != want {
			t.Errorf("%s: %d %s", from, a.status, a.raw)
		}
	}
	statuses := []int{}
	for i := range 3 { // two are left of the network
		statuses = append(statuses, start(fmt.Sprintf("203.0.113.%d", 100+i)).status)
	}
	if statuses[0] != 201 || statuses[1] != 201 || statuses[2] != 429 {
		t.Errorf("of other addresses of the network: %v", statuses)
	}
	for i := range 4 { // addresses of one IPv6 client
		if a := start(fmt.Sprintf("2001:db8:0:1::%x", i)); (a.status == 429) != (i == 3) {
			t.Errorf("%d: %d", i, a.status)
		}
	}
	w.exec(t, "UPDATE control.signup_limits SET full_at = now() - interval '1 s'")
	if err := w.rooms.Signups.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := one[int](t, w, "SELECT count(*) FROM control.signup_limits"); n != 0 {
		t.Errorf("%d counters are kept", n)
	}
}

// Who has signed up is warned before what is paid ends.
func TestTheOwnerIsWarned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	box := w.postman(t)
	id := w.active(t, "initech")
	w.exec(t, `INSERT INTO control.signups (id, company_name, slug, full_name, email, status, tenant_id, expires_at)
		VALUES (gen_random_uuid(), 'Initech', 'initech', 'Bill', 'bill@initech.example', 'active', $1, now())`, id)
	w.exec(t, "UPDATE control.tenants SET paid_until = current_date + 3 WHERE id = $1", id)
	for range 2 {
		if err := w.rooms.Billing.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the warning", func() bool { return len(box.to("bill@initech.example")) == 1 })
	if text := box.to("bill@initech.example")[0].text; !strings.Contains(text, "initech.ouvira.test is paid until") {
		t.Errorf("%q", text)
	}
}
