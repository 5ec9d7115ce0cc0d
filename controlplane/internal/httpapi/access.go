package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/operator"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/httpserver"
	"github.com/ouvira/ouvira/shared/problem"
	"github.com/ouvira/ouvira/shared/telemetry"
)

// accessKey is where an operation's metadata says what it needs.
const accessKey = "access"

type accessKind uint8

const (
	accessOpen accessKind = iota + 1 // the zero value is "not declared"
	accessSignedIn
	accessPerson
	accessPermission
)

// access is what an operation needs of its caller.
type access struct {
	kind       accessKind
	permission operator.Permission
	wantsFresh bool
}

var (
	open     = access{kind: accessOpen}
	signedIn = access{kind: accessSignedIn}
	inPerson = access{kind: accessPerson} // signed in, and not by an API key
)

func needs(p operator.Permission) access { return access{kind: accessPermission, permission: p} }

// fresh wants a login of the last minutes besides (operator.Fresh): for what
// cannot be undone, and for what gives power over others. An API key shows no
// password; it has the permission named among its scopes, or not at all.
func (a access) fresh() access {
	a.wantsFresh = true
	return a
}

// checkAccess refuses an API with an operation that does not say what it
// needs, or needs what no role can have.
func (a *api) checkAccess() error {
	errs := a.undeclared
	for path, item := range a.huma.OpenAPI().Paths {
		for _, o := range []*huma.Operation{item.Get, item.Put, item.Post, item.Delete, item.Options, item.Head, item.Patch, item.Trace} {
			if o == nil {
				continue
			}
			who, _ := o.Metadata[accessKey].(access)
			switch {
			case who.kind == 0:
				errs = append(errs, fmt.Errorf("%s %s declares no access", o.Method, path))
			case who.kind == accessPermission && !operator.KnownPermission(who.permission):
				errs = append(errs, fmt.Errorf("%s %s needs a permission that no role has: %q", o.Method, path, who.permission))
			}
		}
	}
	return errors.Join(errs...)
}

type (
	principalKey struct{}
	originKey    struct{} // why the request is not from our own pages, if it is not
)

// authenticate finds out who asks and whether they may, before anything else
// of the request is read.
func (a *api) authenticate(hctx huma.Context, next func(huma.Context)) {
	who, _ := hctx.Operation().Metadata[accessKey].(access)
	r, _ := humachi.Unwrap(hctx)
	if who.kind == accessOpen {
		if err := a.sameOrigin(r); err != nil {
			hctx = huma.WithValue(hctx, originKey{}, err)
		}
		next(hctx)
		return
	}
	p, err := a.principal(r)
	if err == nil {
		err = a.admit(p, who)
	}
	if err != nil {
		_ = huma.WriteErr(a.huma, hctx, http.StatusInternalServerError, "", withoutDatabase(hctx.Context(), err))
		return
	}
	httpserver.Annotate(hctx.Context(), "operator", p.OperatorID.String())
	next(huma.WithValue(hctx, principalKey{}, p))
}

// admit asks whether somebody who is known may.
func (a *api) admit(p operator.Principal, who access) error {
	if who.kind == accessPerson && p.Key != nil {
		return fault.Forbidden("This is for people: sign in, an API key does not do.").Code("not_for_api_keys")
	}
	if who.kind == accessPermission {
		if err := a.permit(p, who.permission); err != nil {
			return err
		}
	}
	if who.wantsFresh {
		return a.Operators.CheckFresh(p)
	}
	return nil
}

func (a *api) permit(p operator.Principal, needed operator.Permission) error {
	switch {
	case !p.Role.May(needed):
		return fault.Forbidden("The role " + string(p.Role) + " does not have the permission " + string(needed) + " that this needs.").Code("permission_denied")
	case !p.May(needed):
		return fault.Forbidden("This needs the permission " + string(needed) + ", which is not among the scopes of the API key.").Code("permission_denied")
	}
	return nil
}

// principal reads the bearer token, else the cookie. A cookie is sent by the
// browser whoever wrote the page, so with it the request must come from our
// own.
func (a *api) principal(r *http.Request) (operator.Principal, error) {
	if header := r.Header.Get("Authorization"); header != "" {
		scheme, token, _ := strings.Cut(header, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return operator.Principal{}, fault.Unauthenticated("The Authorization header must be: Bearer, a space, and an access token.")
		}
		return a.Operators.Authenticate(r.Context(), token)
	}
	cookie, err := r.Cookie(a.cookieName())
	if err != nil {
		return operator.Principal{}, fault.Unauthenticated("Sign in first: POST /v1/auth/login, then send the access token as a bearer token.")
	}
	if err := a.sameOrigin(r); err != nil {
		return operator.Principal{}, err
	}
	return a.Operators.AuthenticateCookie(r.Context(), cookie.Value)
}

func (a *api) sameOrigin(r *http.Request) error {
	if err := a.origin.Check(r); err != nil {
		return fault.Forbidden("This request comes from a page of another origin.").Code("cross_origin").Because(err)
	}
	return nil
}

func principalOf(ctx context.Context) operator.Principal {
	p, _ := ctx.Value(principalKey{}).(operator.Principal)
	return p
}

// actorOf is the caller as the audit log knows it.
func actorOf(ctx context.Context) *audit.Actor {
	return principalOf(ctx).Actor(httpserver.ClientIP(ctx), telemetry.RequestID(ctx))
}

// guardJobs lets operators who may manage jobs through.
func (a *api) guardJobs(jobs http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, err := a.principal(r)
		if err == nil {
			err = a.permit(p, operator.JobManage)
		}
		if err != nil {
			problem.Write(w, r, withoutDatabase(r.Context(), err))
			return
		}
		httpserver.Annotate(r.Context(), "operator", p.OperatorID.String())
		jobs.ServeHTTP(w, r)
	})
}
