package httpapi

import (
	"net/http"
	"strings"

	"github.com/ouvira/ouvira/shared/route"
)

// elsewhere is where a browser is led that opens a page by another name than the
// tenant's primary domain; "" where it is served. Only what a person has followed
// a link to is led away: programs, and pages that call us, would lose their tokens
// on the way. The host is what is stored of the tenant, never what a request says.
func (s *server) elsewhere(r *http.Request, tenant *route.Route) string {
	if !tenant.Settings.RedirectToPrimary || !tenant.CustomPrimary || len(tenant.Hosts) == 0 ||
		(r.Method != http.MethodGet && r.Method != http.MethodHead) || !navigates(r.Header) {
		return ""
	}
	host, err := route.NormalizeHost(r.Host)
	if err != nil || host == tenant.Hosts[0] {
		return ""
	}
	// A gateway that names the tenant in X-Tenant has a host of its own.
	if byHost, err := s.Routes.Lookup(host); err != nil || byHost.TenantID != tenant.TenantID {
		return ""
	}
	to := s.Tokens.Primary(tenant) + r.URL.EscapedPath()
	if r.URL.RawQuery != "" {
		to += "?" + r.URL.RawQuery
	}
	return to
}

// navigates tells whether a browser asks for a page to show. Those that send no
// Sec-Fetch-Mode (it is of 2020, and of https) ask for HTML.
func navigates(h http.Header) bool {
	if h.Get("Authorization") != "" {
		return false
	}
	if mode := h.Get("Sec-Fetch-Mode"); mode != "" {
		return mode == "navigate"
	}
	return strings.Contains(h.Get("Accept"), "text/html")
}
