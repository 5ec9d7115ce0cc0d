// Package httpapi is the tenants' HTTP surface: what a request meets on its
// way in (middleware), where it goes (routes.go), and how the rooms' answers
// look on the wire.
//
// It promises: a request is served for the tenant of its host, or refused;
// there is no default tenant and no "current" one. Operations want a bearer
// token unless they are declared open, and a token is checked before the
// tenant's database is asked anything.
package httpapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"

	"github.com/ouvira/ouvira/dataplane/internal/access"
	"github.com/ouvira/ouvira/dataplane/internal/httpapi/apidoc"
	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/dataplane/internal/limit"
	"github.com/ouvira/ouvira/dataplane/internal/load"
	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/dataplane/internal/usage"
	"github.com/ouvira/ouvira/shared/httpserver"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/telemetry"
	"github.com/ouvira/ouvira/shared/tracing"
	"github.com/ouvira/ouvira/shared/turnstile"
)

// requestTimeout bounds a request's work, waiting for connections included.
const requestTimeout = 30 * time.Second

// Routes finds tenants: *directory.Directory.
type Routes interface {
	Lookup(host string) (*route.Route, error)
	Find(ctx context.Context, host string) (*route.Route, error)
	BySlug(slug string) (*route.Route, bool)
	ByID(id uuid.UUID) (*route.Route, bool)
	Admit(ctx context.Context, r *route.Route) (*route.Route, error)
	Refresh(ctx context.Context, atLeast int64) error
}

// Lease is a connection to a tenant's database until Release.
type Lease interface {
	identity.Conn
	Release()
}

// Outbox is told whose messages may be waiting: *outbox.Drainer.
type Outbox interface {
	Served(tenant uuid.UUID)
	Wake(tenant uuid.UUID)
}

// Options of New. All are required but Metrics, Proxies, Support, Audit,
// Outbox, Turnstile, Cookies, CORSOrigins, Tracing, Load, Usage and Slow.
type Options struct {
	Log      *slog.Logger
	Metrics  *httpserver.Metrics
	Routes   Routes
	Lease    func(ctx context.Context, r *route.Route) (Lease, error)
	Identity *identity.Service
	Tokens   *identity.AccessTokens
	Proxies  httpserver.Proxies
	Access   *access.Service
	Sealer   outbox.Sealer
	Support  identity.SupportCodes // nil: support cannot enter
	Audit    Audit                 // nil: the audit is not sealed, and verified against itself
	Outbox   Outbox                // nil: what is written stays there
	Scheme   string                // of the tenants' addresses, for links to pages of lists

	Turnstile *turnstile.Verifier // nil: anyone may sign up, programs too

	Tracing *tracing.Tracing // nil: no traces
	Load    *load.Tenants    // who asks for how much; nil: nobody wants to know
	Usage   *usage.Counter   // what is told to the control plane of it; nil: nothing
	Slow    time.Duration    // requests that take longer get a line of their own; 0: none does

	Cookies     bool     // sign in with cookies too
	CORSOrigins []string // whose pages may read the answers of every tenant
}

type server struct {
	Options

	api        huma.API
	undeclared []error  // operations that do not say who may call them
	lacking    []string // fields of the document without an example

	addresses *limit.Local[netip.Prefix] // who is not signed in
	users     *limit.Local[int64]        // who is
	keys      *limit.Local[string]       // digests of API keys
}

// New is the handler of the public listener.
func New(o Options) (http.Handler, error) {
	s, err := newServer(o)
	if err != nil {
		return nil, err
	}
	router, api := build(s)
	s.undeclared = append(s.undeclared, limitsOfNothing(api.OpenAPI())...)
	if err := s.declared(); err != nil {
		return nil, err
	}
	return router, nil
}

func newServer(o Options) (*server, error) {
	if o.Log == nil || o.Routes == nil || o.Lease == nil || o.Identity == nil || o.Tokens == nil || o.Access == nil || o.Sealer == nil || o.Scheme == "" {
		return nil, errors.New("the API needs a log, routes, leases, identity and access services, tokens, a sealer and a scheme")
	}
	s := &server{Options: o}
	var err1, err2, err3 error
	s.addresses, err1 = limit.NewLocal[netip.Prefix](rememberedClients)
	s.users, err2 = limit.NewLocal[int64](rememberedClients)
	s.keys, err3 = limit.NewLocal[string](rememberedClients)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	return s, nil
}

// declared refuses to start with an operation that does not say who may call it.
func (s *server) declared() error { return errors.Join(s.undeclared...) }

// Document is the OpenAPI document, as YAML. It is an error when a field has
// no example, or an example does not fit.
func Document() ([]byte, error) {
	described, lacking := document()
	if len(lacking) > 0 {
		return nil, fmt.Errorf("no example for %s: tag the field with example, or add its name to examples in document.go", strings.Join(lacking, ", "))
	}
	if wrong := apidoc.Check(described); len(wrong) > 0 {
		return nil, fmt.Errorf("examples that the API itself would refuse: %s", strings.Join(wrong, "; "))
	}
	return described.YAML()
}

// Reference is the OpenAPI document as Markdown.
func Reference() string {
	described, _ := document()
	return apidoc.Reference(described)
}

// Gateway is what a gateway in front of the nodes must know, as Markdown.
func Gateway() string {
	described, _ := document()
	return gatewayOf(described)
}

// document is that of a server that serves nobody, and the fields that it has
// no example for.
func document() (described *huma.OpenAPI, lacking []string) {
	s := &server{Options: Options{Log: slog.New(slog.DiscardHandler)}}
	_, api := build(s)
	return api.OpenAPI(), s.lacking
}

// build wires the middleware in the order in which a request meets it.
func build(s *server) (http.Handler, huma.API) {
	router := chi.NewRouter()
	router.Use(
		httpserver.RequestID,
		httpserver.AccessLog(s.Log, s.Metrics),
		httpserver.Trace(s.Tracing),
		httpserver.Recover,
		httpserver.ClientAddr(s.Proxies),
		httpserver.SecurityHeaders,
		s.cors(),
		httpserver.LimitBody,
		httpserver.TidyPath("/api"),
	)
	router.NotFound(httpserver.NotFound)
	router.MethodNotAllowed(httpserver.MethodNotAllowed)

	ofTenant := router.With(s.findTenant)
	api := httpserver.NewAPI(ofTenant, "Ouvira tenant API", telemetry.Version())
	s.api = api
	describe(api.OpenAPI())
	api.UseMiddleware(s.checkToken, s.limitAll)
	s.routes(api)
	s.lacking = apidoc.Complete(api.OpenAPI(), examples)
	mountPages(ofTenant)
	httpserver.MountDocs(router, api) // answers on any Host
	return router, api
}
