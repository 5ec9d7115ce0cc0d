package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/dataplane/internal/limit"
	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/dataplane/internal/timing"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/httpserver"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/problem"
	"github.com/ouvira/ouvira/shared/replay"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/telemetry"
)

// scope is what is known of one request: for which tenant, from where, and
// with which token. It is made by findTenant and belongs to the request.
type scope struct {
	tenant   identity.Tenant
	client   identity.Client
	verified identity.Verified // set by checkToken for operations that want one
	host     string            // as the client wrote it, and found to be the tenant's
	url      *url.URL          // path and query of the request
	answer   http.Header       // of the answer

	idempotencyKeys []string // as they were sent

	told    limit.Verdict // the limit that the answer's headers speak of
	cookies *cookies      // nil: they do not count
}

type scopeKey struct{}

// scopeContext is the context of a tenant's request with its scope, in one
// allocation.
type scopeContext struct {
	context.Context //nolint:containedctx // it is a context

	scope scope
}

func (c *scopeContext) Value(key any) any {
	if key == (scopeKey{}) {
		return &c.scope
	}
	return c.Context.Value(key)
}

// scopeOf panics where there is none: a route outside of the tenants'.
func scopeOf(ctx context.Context) *scope {
	sc, ok := ctx.Value(scopeKey{}).(*scope)
	if !ok {
		panic("an operation of a tenant was routed around findTenant")
	}
	return sc
}

// noStore is shared by all answers: Header.Set replaces it.
var noStore = []string{"no-store"}

// headerTenant names the tenant; only trusted proxies may say it.
const headerTenant = "X-Tenant"

// findTenant finds the tenant of the request and refuses those that are not
// served: 404 unknown, 403 suspended, 503 under maintenance. Requests of a
// held tenant wait a bounded time.
func (s *server) findTenant(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		clock := timing.Start(r.Context())
		ctx, cancel := context.WithTimeout(clock, requestTimeout)
		defer cancel()
		asked, found, err := s.find(ctx, r)
		clock.Found()
		if asked != nil {
			note(ctx, clock, asked)
			defer s.answered(w, r, clock, asked)
		}
		if err != nil {
			problem.Write(w, r, err)
			return
		}
		if to := s.elsewhere(r, found); to != "" {
			w.Header()["Cache-Control"] = noStore                 // the tenant may choose otherwise
			http.Redirect(w, r, to, http.StatusPermanentRedirect) //nolint:gosec // the host is the tenant's own, as it is stored
			return
		}
		scoped := &scopeContext{Context: ctx, scope: scope{
			tenant: identity.Tenant{Route: found},
			client: identity.Client{IP: httpserver.ClientIP(ctx), UserAgent: r.UserAgent(), RequestID: telemetry.RequestID(ctx)},
			host:   r.Host,
			url:    r.URL,
			answer: w.Header(),

			idempotencyKeys: r.Header.Values(replay.HeaderKey),
			cookies:         s.cookiesOf(r, found),
		}}
		sc := &scoped.scope
		sc.tenant.Outbox = outbox.NewQueue(found, s.Sealer)
		sc.tenant.Do = func(ctx context.Context, work func(identity.Conn) error) error { return s.do(ctx, found, work) }
		sc.answer["Cache-Control"] = noStore
		if s.Outbox != nil {
			if r.Method != http.MethodGet && r.Method != http.MethodHead {
				s.Outbox.Served(found.TenantID)
			}
			defer func() {
				if sc.tenant.Outbox.Added() {
					s.Outbox.Wake(found.TenantID) // committed or not: looking costs little
				}
			}()
		}
		next.ServeHTTP(w, r.WithContext(scoped))
	})
}

func (s *server) lookup(r *http.Request) (*route.Route, error) {
	named := r.Header.Values(headerTenant)
	if len(named) == 0 || !httpserver.ViaTrustedProxy(r.Context()) {
		return s.Routes.Find(r.Context(), r.Host)
	}
	byHost, hostErr := s.Routes.Lookup(r.Host)
	if len(named) > 1 {
		return nil, fault.Malformed("X-Tenant is there twice. Send it once.").Code("bad_tenant_header")
	}
	byName, ok := s.Routes.BySlug(strings.ToLower(strings.TrimSpace(named[0])))
	switch {
	case !ok:
		return nil, fault.NotFound("X-Tenant names no workspace. Check the spelling.").Code("unknown_tenant")
	case hostErr == nil && byHost.TenantID != byName.TenantID:
		return nil, fault.Malformed("X-Tenant and Host name different workspaces. Send one, or both of the same.").Code("tenant_mismatch")
	case hostErr != nil && !fault.Is(hostErr, fault.KindNotFound) && !fault.Is(hostErr, fault.KindUnavailable):
		return nil, hostErr
	}
	return byName, nil
}

// do leases a connection to the tenant's database for the time of work.
func (s *server) do(ctx context.Context, r *route.Route, work func(identity.Conn) error) error {
	lease, err := s.Lease(ctx, r)
	if err != nil {
		return err
	}
	defer lease.Release()
	if s.Audit != nil {
		s.Audit.Served(r.TenantID)
	}
	return s.databaseFault(ctx, r, work(lease))
}

// checkToken verifies the token of operations that want one, by the route's
// public keys alone. A cookie counts when there is no Authorization header.
func (s *server) checkToken(hctx huma.Context, next func(huma.Context)) {
	if security := hctx.Operation().Security; security != nil && len(security) == 0 {
		next(hctx)
		return
	}
	sc := scopeOf(hctx.Context())
	authorization := hctx.Header("Authorization")
	token, byCookie := bearer(authorization), false
	if sc.cookies != nil && authorization == "" {
		token, byCookie = sc.cookies.access, true
	}
	verified, err := s.Tokens.Verify(sc.tenant.Route, token)
	if err == nil && byCookie && !safe(hctx.Method()) {
		err = sc.cookies.proven()
	}
	if err != nil {
		// Whoever shows a bad token is not signed in, and is counted so.
		if tooOften := s.count(sc); tooOften != nil {
			err = tooOften
		}
		s.refuse(hctx, err)
		return
	}
	sc.verified = verified
	next(hctx)
}

func bearer(header string) string {
	const scheme = "bearer "
	if len(header) < len(scheme) || !strings.EqualFold(header[:len(scheme)], scheme) {
		return ""
	}
	return strings.TrimSpace(header[len(scheme):])
}

// refuse answers before huma has read the request.
func (s *server) refuse(hctx huma.Context, err error) {
	f := fault.From(err)
	_ = huma.WriteErr(s.api, hctx, problem.Status(f), f.Message, f)
}

func (s *server) authenticate(ctx context.Context, db pg.Querier, sc *scope, o *operation) (*caller, error) {
	actor, err := s.Identity.Authenticate(ctx, db, sc.verified)
	if err != nil {
		return nil, err
	}
	telemetry.Add(ctx, slog.Int64("user_id", actor.ID))
	s.believe(sc)
	c := &caller{scope: sc, Actor: actor, server: s, op: o}
	if err := c.admitted(); err != nil {
		return nil, err
	}
	return c, nil
}
