package httpapi

import (
	"net/http"
	"slices"

	"github.com/go-chi/cors"

	"github.com/ouvira/ouvira/shared/httpserver"
	"github.com/ouvira/ouvira/shared/replay"
	"github.com/ouvira/ouvira/shared/route"
)

// preflightSeconds is how long a browser remembers what it may ask.
const preflightSeconds = 600

// cors lets the pages of the tenant's own origins read answers: those of its
// setting cors_origins, and those of CORS_ALLOWED_ORIGINS, which count for
// every tenant. It comes before the router, which knows nothing of OPTIONS.
func (s *server) cors() func(http.Handler) http.Handler {
	return cors.Handler(cors.Options{
		AllowOriginFunc: func(r *http.Request, origin string) bool {
			tenant, err := s.lookup(r)
			return err == nil && s.mayRead(tenant, origin)
		},
		AllowedMethods: []string{get, post, put, patch, remove},
		AllowedHeaders: []string{
			"Authorization", "Content-Type", "Accept", "Accept-Language", "If-Match", "If-None-Match", replay.HeaderKey,
			headerTenant, headerCSRF, headerAuthMode, httpserver.HeaderRequestID,
		},
		ExposedHeaders: []string{
			"ETag", "Location", "Retry-After", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset", "RateLimit-Policy",
			"Content-Disposition", replay.HeaderReplayed, replay.HeaderOmitted, httpserver.HeaderRequestID,
		},
		AllowCredentials: s.Cookies, // the origin is always answered by its name
		MaxAge:           preflightSeconds,
	})
}

// mayRead tells whether pages of the origin may read the tenant's answers.
// "null" is the origin of whoever hides theirs, and nobody's.
func (s *server) mayRead(tenant *route.Route, origin string) bool {
	return route.IsOrigin(origin) && (slices.Contains(tenant.Settings.CORSOrigins, origin) || slices.Contains(s.CORSOrigins, origin))
}
