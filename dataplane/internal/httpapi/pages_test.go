package httpapi_test

import (
	"net/http"
	"strings"
	"testing"
)

func TestPagesOfMailedLinks(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for _, tenant := range []string{hostOf(n.A), hostOf(n.B)} {
		for _, path := range []string{"/auth/password/reset", "/invitations/accept"} {
			page := n.ask(t, http.MethodGet, tenant, path+"?token=x", nil)
			script := n.ask(t, http.MethodGet, tenant, path+".js", nil)
			if page.status != 200 || !strings.Contains(page.raw, `src="`+path+`.js"`) || !strings.Contains(page.header.Get("Content-Security-Policy"), "default-src 'none'") || page.header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: %d %v", path, page.status, page.header)
			}
			if script.status != 200 || !strings.HasPrefix(script.header.Get("Content-Type"), "text/javascript") || !strings.Contains(script.raw, "history.replaceState") {
				t.Errorf("%s.js: %d %v", path, script.status, script.header)
			}
		}
	}
	expect(t, "on an unknown host", n.ask(t, http.MethodGet, "nowhere.example", "/invitations/accept", nil), 404)
}
