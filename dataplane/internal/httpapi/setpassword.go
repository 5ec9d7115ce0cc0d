package httpapi

import (
	"embed"
	"net/http"

	"github.com/go-chi/chi/v5"
)

// The page that a mailed set-password link opens when the tenant has no
// reset_url, which names a page of its own.
//
//go:embed setpassword.html setpassword.css setpassword.js
var setPasswordFiles embed.FS

// setPasswordPolicy lets the page load its own two files and call its own host.
//
//nolint:gosec // a policy, no credential
const setPasswordPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"

func mountSetPassword(router chi.Router) {
	for path, file := range map[string]string{
		"/auth/password/reset":     "setpassword.html",
		"/auth/password/reset.css": "setpassword.css",
		"/auth/password/reset.js":  "setpassword.js",
	} {
		router.Get(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Security-Policy", setPasswordPolicy)
			w.Header().Set("Cache-Control", "no-store")
			http.ServeFileFS(w, r, setPasswordFiles, file)
		})
	}
}
