package httpapi

import (
	"embed"
	"net/http"

	"github.com/go-chi/chi/v5"
)

// The pages that mailed links open when the tenant has none of its own
// (reset_url, invite_url).
//
//go:embed setpassword.html setpassword.css setpassword.js acceptinvitation.html acceptinvitation.js
var pageFiles embed.FS

// pagePolicy lets a page load its own files and call its own host.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"

func mountPages(router chi.Router) {
	for path, file := range map[string]string{
		"/auth/password/reset":     "setpassword.html",
		"/auth/password/reset.css": "setpassword.css",
		"/auth/password/reset.js":  "setpassword.js",
		invitationPath:             "acceptinvitation.html",
		invitationPath + ".js":     "acceptinvitation.js",
	} {
		show := func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Security-Policy", pagePolicy)
			w.Header().Set("Cache-Control", "no-store")
			http.ServeFileFS(w, r, pageFiles, file)
		}
		router.Get(path, show)
		router.Head(path, show)
	}
}
