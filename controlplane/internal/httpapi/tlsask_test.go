package httpapi_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ouvira/ouvira/controlplane/internal/httpapi"
	"github.com/ouvira/ouvira/controlplane/internal/operator"
	"github.com/ouvira/ouvira/shared/httpserver"
)

// A stranger who shows 10,000 names in handshakes gets no certificate ordered, and
// most of the questions are not even looked up; others are answered meanwhile.
func TestSec10TenThousandUnknownNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *httpapi.Options) {
		proxies, err := httpserver.ParseProxies([]string{"127.0.0.1/32"})
		if err != nil {
			t.Fatal(err)
		}
		o.TrustedProxies = proxies
	})
	w.active(t, "acme")
	const names, askers = 10_000, 8
	var next atomic.Int64
	var mu sync.Mutex
	answers := map[int]int{}
	begun := time.Now()
	var group sync.WaitGroup
	for range askers {
		group.Go(func() {
			for i := next.Add(1); i <= names; i = next.Add(1) {
				a := w.call(t, "", "GET", fmt.Sprintf("/v1/tls/ask?domain=n%d.unknown.example", i), nil, "X-Forwarded-For", "203.0.113.7")
				mu.Lock()
				answers[a.status]++
				mu.Unlock()
				if a.status == 429 && a.header.Get("Retry-After") == "" {
					t.Error("a refusal does not say when to come again")
				}
				if i%1000 == 0 {
					w.want(t, 200, "", "GET", "/v1/tls/ask?domain=acme.ouvira.test", nil, "X-Forwarded-For", "203.0.113.8")
				}
			}
		})
	}
	group.Wait()
	looked := answers[404]
	if bound := 200 + int(20*time.Since(begun).Seconds()) + 1; looked > bound || looked < 200 {
		t.Errorf("%d names were looked up, want at most %d", looked, bound)
	}
	if looked+answers[429] != names {
		t.Errorf("answers: %v", answers)
	}
}

func TestTLSAsk(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.active(t, "acme")
	for path, want := range map[string]int{
		"?domain=acme.ouvira.test": 200, "?domain=ACME.ouvira.test.": 200, "?domain=globex.ouvira.test": 404, "?domain=ouvira.test": 404,
		"?domain=127.0.0.1": 404, "?domain=": 422, "": 422,
	} {
		if a := w.call(t, "", "GET", "/v1/tls/ask"+path, nil); a.status != want {
			t.Errorf("%s: %d %s", path, a.status, a.raw)
		}
	}
}

// The operations on a domain, and who may.
func TestDomainsOfATenant(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token, support := w.operator(t, operator.RoleOperator), w.operator(t, operator.RoleSupport)
	id := w.active(t, "acme")
	a := w.want(t, 201, token, "POST", "/v1/tenants/acme/domains", map[string]string{"hostname": "Bücher.example"})
	if a.text("hostname") != "xn--bcher-kva.example" || a.text("display_name") != "bücher.example" || a.text("expires_at") == "" || a.text("dns.name") != "_ouvira.xn--bcher-kva.example" {
		t.Errorf("unexpected answer: %s", a.raw)
	}
	path := "/v1/domains/" + a.text("id")
	w.want(t, 403, support, "POST", path+"/primary", nil)
	if a := w.want(t, 409, token, "POST", path+"/primary", nil); a.text("code") != "domain_pending" {
		t.Errorf("unexpected answer: %s", a.raw)
	}
	w.exec(t, "UPDATE control.domains SET status = 'verified', verified_at = now()")
	before := w.routeVersion(t, id)
	if a := w.want(t, 200, token, "POST", path+"/primary", nil); a.field("is_primary") != true {
		t.Errorf("unexpected answer: %s", a.raw)
	}
	if a := w.want(t, 200, token, "GET", "/v1/tenants/acme", nil); a.text("primary_domain") != "xn--bcher-kva.example" || w.routeVersion(t, id) != before+1 {
		t.Errorf("unexpected answer: %s", a.raw)
	}
	if a := w.want(t, 200, token, "DELETE", path+"/primary", nil); a.field("is_primary") != false {
		t.Errorf("unexpected answer: %s", a.raw)
	}
	if a := w.want(t, 200, token, "PATCH", "/v1/tenants/acme", map[string]any{"settings": map[string]any{"redirect_to_primary": true}}); a.field("settings.redirect_to_primary") != true {
		t.Errorf("unexpected answer: %s", a.raw)
	}
	w.want(t, 204, token, "DELETE", path, nil)
}
