// Package httpapi is the HTTP surface of the control plane: it translates
// between requests and the rooms, and decides who may ask.
//
// It promises: every operation declares what it needs (nothing, a login, or a
// permission), else the server does not start; the caller is known before a
// body is read; a caller who is known by cookie proves for every unsafe method
// that it comes from our own pages; an answer never repeats a refused value.
package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-chi/chi/v5"
	"github.com/go-chi/cors"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ouvira/ouvira/controlplane/internal/backup"
	"github.com/ouvira/ouvira/controlplane/internal/billing"
	"github.com/ouvira/ouvira/controlplane/internal/domain"
	"github.com/ouvira/ouvira/controlplane/internal/keyring"
	"github.com/ouvira/ouvira/controlplane/internal/move"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/operator"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/controlplane/internal/pulse"
	"github.com/ouvira/ouvira/controlplane/internal/reconcile"
	"github.com/ouvira/ouvira/controlplane/internal/replay"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/controlplane/internal/signup"
	"github.com/ouvira/ouvira/controlplane/internal/support"
	"github.com/ouvira/ouvira/controlplane/internal/tenant"
	"github.com/ouvira/ouvira/controlplane/internal/usage"
	"github.com/ouvira/ouvira/controlplane/internal/webhook"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/httpserver"
	"github.com/ouvira/ouvira/shared/pg"
	sharedreplay "github.com/ouvira/ouvira/shared/replay"
	"github.com/ouvira/ouvira/shared/tracing"
	"github.com/ouvira/ouvira/shared/turnstile"
)

// Rooms are what the handlers talk to.
type Rooms struct {
	DB         replay.DB // for lists that belong to no room
	Operators  *operator.Service
	Signups    *signup.Service
	Tenants    *tenant.Service
	Domains    *domain.Service
	Billing    *billing.Service
	Usage      *usage.Service
	Servers    *server.Service
	Provision  *provision.Service
	Moves      *move.Service
	Support    *support.Service
	Webhooks   *webhook.Service
	Operations *operation.Store
	Runner     *operation.Runner // it knows which operations can be cancelled
	Reconcile  *reconcile.Service
	Repairer   *reconcile.Repairer
	Adopter    *reconcile.Adopter
	Keys       *keyring.Service
	Backups    *backup.Service
	Jobs       http.Handler // the jobs page, under /jobs; nil leaves it out
}

// apiVersion is the version of the contract, not of the release: the committed
// document must not change with each commit.
const apiVersion = "1"

// Options of New.
type Options struct {
	Log            *slog.Logger
	Metrics        *httpserver.Metrics // may be nil
	TrustedProxies httpserver.Proxies
	SignupOrigins  []string            // whose pages may call the sign-up operations
	Turnstile      *turnstile.Verifier // nil: anyone may sign up, programs too
	SecureCookies  bool                // the control plane is reached by https
	Tracing        *tracing.Tracing    // nil: no traces
	// Pulse of the control database: requests end with it; nil lets them wait.
	Pulse *pulse.Pulse
	// Draining ends streams when the process is to stop; nil never does.
	Draining <-chan struct{}
}

// api holds what the handlers share. It is not changed after New.
type api struct {
	Rooms

	options Options
	huma    huma.API
	origin  *http.CrossOriginProtection
	asking  *asking

	undeclared []error // what an operation does not say of itself
}

// New is the handler of the public listener. It refuses an API that has an
// operation without a declared access.
func New(rooms Rooms, o Options) (http.Handler, error) {
	a, router := build(rooms, o)
	if err := a.checkAccess(); err != nil {
		return nil, err
	}
	httpserver.MountDocs(router, a.huma)
	mountPages(router)
	if rooms.Jobs != nil {
		guarded := a.guardJobs(rooms.Jobs)
		router.Handle("/jobs", guarded)
		router.Handle("/jobs/*", guarded)
	}
	return router, nil
}

// Document is the OpenAPI 3.1 document, as YAML. It needs no rooms.
func Document() ([]byte, error) {
	a, _ := build(Rooms{}, Options{Log: slog.New(slog.DiscardHandler)})
	if err := a.checkAccess(); err != nil {
		return nil, err
	}
	document, err := a.huma.OpenAPI().YAML()
	if err != nil {
		return nil, fmt.Errorf("write the OpenAPI document: %w", err)
	}
	return document, nil
}

func build(rooms Rooms, o Options) (*api, chi.Router) {
	router := chi.NewRouter()
	router.Use(
		httpserver.RequestID,
		httpserver.AccessLog(o.Log, o.Metrics),
		httpserver.Trace(o.Tracing),
		httpserver.Recover,
		httpserver.ClientAddr(o.TrustedProxies),
		httpserver.SecurityHeaders,
		except(importPath, httpserver.LimitBody),
		below("/v1", httpserver.TidyPath("")),
	)
	if o.Pulse != nil {
		router.Use(boundTo(o.Pulse))
	}
	if len(o.SignupOrigins) > 0 { // an empty list would mean everybody to the library
		router.Use(below("/v1/signups", cors.Handler(cors.Options{
			AllowedOrigins: o.SignupOrigins,
			AllowedMethods: []string{http.MethodGet, http.MethodPost},
			AllowedHeaders: []string{"Content-Type", "Accept", sharedreplay.HeaderKey},
			ExposedHeaders: []string{"Retry-After", httpserver.HeaderRequestID, sharedreplay.HeaderReplayed, sharedreplay.HeaderOmitted},
			MaxAge:         600,
		})))
	}
	router.NotFound(httpserver.NotFound)
	router.MethodNotAllowed(httpserver.MethodNotAllowed)
	a := &api{
		Rooms: rooms, options: o, origin: http.NewCrossOriginProtection(), asking: newAsking(),
		huma: httpserver.NewAPI(router, "Ouvira control plane", apiVersion),
	}
	a.huma.OpenAPI().Info.Description = "Tenants, domains, sign-ups and Postgres servers of an Ouvira installation."
	a.huma.OpenAPI().Components.SecuritySchemes["cookie"] = &huma.SecurityScheme{
		Type: "apiKey", In: "cookie", Name: a.cookieName(), Description: "POST /v1/auth/login with cookie: true.",
	}
	a.huma.UseMiddleware(a.authenticate, readKey)
	a.routes()
	return a, router
}

// boundTo ends requests when the control database falls silent.
func boundTo(p *pulse.Pulse) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, done := p.Bind(r.Context())
			defer done()
			next.ServeHTTP(w, r.WithContext(ctx))
		})
	}
}

// below applies a middleware to the paths that begin with the prefix.
func below(prefix string, middleware func(http.Handler) http.Handler) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		wrapped := middleware(next)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == prefix || strings.HasPrefix(r.URL.Path, prefix+"/") {
				wrapped.ServeHTTP(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// except applies a middleware to all paths but one.
func except(path string, middleware func(http.Handler) http.Handler) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		wrapped := middleware(next)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == path {
				next.ServeHTTP(w, r)
				return
			}
			wrapped.ServeHTTP(w, r)
		})
	}
}

// handler of an operation.
type handler[I, O any] func(ctx context.Context, in *I) (*O, error)

// op registers an operation: how it is reached, who may, what it answers.
func op[I, O any](a *api, method, path string, who access, status int, id, summary string, h handler[I, O]) {
	operation := huma.Operation{
		Method: method, Path: path, OperationID: id, Summary: summary, DefaultStatus: status,
		Tags: []string{tagOf(path)}, Metadata: map[string]any{accessKey: who},
		Security: []map[string][]string{{"bearer": {}}, {"cookie": {}}},
		Errors:   []int{http.StatusBadRequest, http.StatusNotFound, http.StatusConflict, http.StatusUnprocessableEntity},
	}
	if who.kind == accessOpen {
		operation.Security = []map[string][]string{}
	} else {
		operation.Errors = append(operation.Errors, http.StatusUnauthorized, http.StatusForbidden)
		if who.permission != "" {
			operation.Description = "Needs the permission `" + string(who.permission) + "`."
		}
		if who.wantsFresh {
			operation.Description = strings.TrimSpace(operation.Description + " Needs a fresh login (at most 15 minutes old).")
		}
	}
	if method == http.MethodPost {
		sharedreplay.Document(&operation)
		if undecided := sharedreplay.Undecided[O](); len(undecided) > 0 {
			a.undeclared = append(a.undeclared, fmt.Errorf(`operation %s answers with %s: tag what is secret with secret:"true", the rest with secret:"false"`,
				id, strings.Join(undecided, ", ")))
		}
	}
	huma.Register(a.huma, operation, func(ctx context.Context, in *I) (*O, error) {
		out, err := once(ctx, a, id, in, h)
		return out, withoutDatabase(ctx, err)
	})
}

// withoutDatabase says that the control database is away, which is not the
// caller's concern but passes: 503 instead of 500.
func withoutDatabase(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(context.Cause(ctx), pulse.ErrSilent) {
		return databaseAway(err)
	}
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err
	}
	switch pg.Code(err) {
	case pg.CodeAdminShutdown, pg.CodeCannotConnectNow, pg.CodeTooManyConnections, "57P02":
	default:
		var network *net.OpError
		if !pg.IsConnect(err) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, pgconn.ErrConnClosed) && !errors.As(err, &network) {
			return err
		}
	}
	return databaseAway(err)
}

func databaseAway(err error) error {
	return fault.Unavailable("The control database does not answer. Try again in a moment; tenants are served meanwhile.").
		Code("database_unavailable").RetryAfter(time.Second).Because(err)
}

// tagOf groups operations by the first part of the path.
func tagOf(path string) string {
	tag, _, _ := strings.Cut(strings.TrimPrefix(path, "/v1/"), "/")
	return tag
}
