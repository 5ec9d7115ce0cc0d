package httpapi

import (
	"embed"
	"net/http"

	"github.com/go-chi/chi/v5"

	"github.com/ouvira/ouvira/controlplane/internal/operator"
)

// The pages that mailed links open.
//
//go:embed operatorlink.html operatorlink.css operatorlink.js
var pageFiles embed.FS

// pagePolicy lets a page load its own files and call its own host.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"

func mountPages(router chi.Router) {
	for path, file := range map[string]string{
		operator.PageInvitation: "operatorlink.html",
		operator.PageReset:      "operatorlink.html",
		"/operators/link.css":   "operatorlink.css",
		"/operators/link.js":    "operatorlink.js",
	} {
		router.Get(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Security-Policy", pagePolicy)
			w.Header().Set("Cache-Control", "no-store")
			http.ServeFileFS(w, r, pageFiles, file)
		})
	}
}
