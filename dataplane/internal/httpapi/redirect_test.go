package httpapi_test

import (
	"net/http"
	"testing"

	"github.com/ouvira/ouvira/shared/route"
)

// Browsers are led to the primary domain where the tenant wants that, and nobody
// else is; its neighbour's are not.
func TestBrowsersAreLedToThePrimaryDomain(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	browser := []edit{header("Accept", "text/html,application/xhtml+xml"), header("Sec-Fetch-Mode", "navigate")}
	const page = "/auth/password/reset?token=a%20b&next=//evil.example"
	led := func(what, method, host, want string, edits ...edit) {
		t.Helper()
		a := n.ask(t, method, host, page, nil, edits...)
		if (a.status == http.StatusPermanentRedirect) != (want != "") || a.header.Get("Location") != want {
			t.Errorf("%s: %d to %q, want %q", what, a.status, a.header.Get("Location"), want)
		}
	}
	const primary = "https://erp.acme.example" + page
	n.Table.Change(n.A.ID, func(r *route.Route) {
		r.Hosts, r.CustomPrimary = []string{"erp.acme.example", "old.acme.example"}, true
	})
	n.Table.Change(n.B.ID, func(r *route.Route) {
		r.Hosts, r.CustomPrimary = []string{"globex.example"}, true
	})
	led("before the tenant wants it", http.MethodGet, hostOf(n.A), "", browser...)
	n.Table.Change(n.A.ID, func(r *route.Route) { r.Settings.RedirectToPrimary = true })

	led("the platform's name", http.MethodGet, hostOf(n.A), primary, browser...)
	led("with a port", http.MethodGet, hostOf(n.A)+":8000", primary, browser...)
	led("another domain", http.MethodHead, "OLD.acme.example.", primary, browser...)
	led("an old browser", http.MethodGet, hostOf(n.A), primary, header("Accept", "text/html"))
	led("behind a proxy that says otherwise", http.MethodGet, hostOf(n.A), primary, append(browser, peer("10.1.2.3:4000"), header("X-Forwarded-Host", "evil.example"))...)

	led("the primary itself", http.MethodGet, "ERP.acme.example", "", browser...)
	led("a program", http.MethodGet, hostOf(n.A), "")
	led("a page that calls", http.MethodGet, hostOf(n.A), "", header("Accept", "text/html"), header("Sec-Fetch-Mode", "cors"))
	led("with a token", http.MethodGet, hostOf(n.A), "", append(browser, bearer("x"))...)
	led("an unsafe method", http.MethodPost, hostOf(n.A), "", browser...)
	led("a gateway's own host", http.MethodGet, "gateway.internal", "", append(browser, peer("10.1.2.3:4000"), header("X-Tenant", "acme"))...)
	led("the neighbour", http.MethodGet, hostOf(n.B), "", browser...)

	n.Table.Change(n.A.ID, func(r *route.Route) { r.Hosts, r.CustomPrimary = []string{"old.acme.example"}, false })
	led("the primary domain is lost", http.MethodGet, hostOf(n.A), "", browser...)
}
