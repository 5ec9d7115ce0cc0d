package httpserver

import (
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/go-chi/chi/v5"
	"github.com/swaggest/swgui"
	"github.com/swaggest/swgui/v5emb"

	"github.com/ouvira/ouvira/shared/problem"
)

// NewAPI is a huma API on the router: OpenAPI 3.1, strict JSON, problems of
// package problem, no schema links in answers. The document and its page are
// mounted apart (MountDocs), because they answer without the API's middleware.
func NewAPI(router chi.Router, title, version string) huma.API {
	problem.Install()
	config := huma.DefaultConfig(title, version)
	config.OpenAPIPath, config.DocsPath, config.SchemasPath = "", "", ""
	config.CreateHooks = nil
	config.Formats = map[string]huma.Format{"application/json": StrictJSON, "json": StrictJSON}
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"bearer": {Type: "http", Scheme: "bearer", Description: "An access token or an API key."},
	}
	// Every operation wants a token unless it says `security: []`.
	config.Security = []map[string][]string{{"bearer": {}}}
	config.OnAddOperation = append(config.OnAddOperation, func(_ *huma.OpenAPI, op *huma.Operation) {
		op.MaxBodyBytes = MaxBody + 1 // huma refuses a body that reaches its limit
	})
	return humachi.New(router, config)
}

// MountDocs serves the OpenAPI document under the usual names and the Swagger
// page, which comes out of the binary and loads nothing from elsewhere.
func MountDocs(router chi.Router, api huma.API) {
	document := func(mediaType string, render func() ([]byte, error)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			body, err := render()
			if err != nil {
				problem.Write(w, r, err)
				return
			}
			w.Header().Set("Content-Type", mediaType)
			_, _ = w.Write(body)
		}
	}
	asJSON := document("application/openapi+json", func() ([]byte, error) { return api.OpenAPI().MarshalJSON() })
	asYAML := document("application/openapi+yaml", api.OpenAPI().YAML)
	for _, path := range []string{"/openapi.json", "/swagger.json"} {
		router.Get(path, asJSON)
	}
	for _, path := range []string{"/openapi.yaml", "/swagger.yaml"} {
		router.Get(path, asYAML)
	}
	page := v5emb.NewHandlerWithConfig(swgui.Config{
		Title:       api.OpenAPI().Info.Title,
		SwaggerJSON: "/openapi.json",
		BasePath:    "/swagger",
	})
	router.Handle("/swagger", page)
	router.Handle("/swagger/*", page)
}
