package httpapi

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/ouvira/ouvira/dataplane/internal/access"
	"github.com/ouvira/ouvira/dataplane/internal/company"
	"github.com/ouvira/ouvira/shared/pg"
)

// CheckWith is the check that New makes before it serves, with one operation
// more, which declares the permission and that it is the caller's own.
func CheckWith(permission access.Permission, own bool) error {
	s := &server{Options: Options{Log: slog.New(slog.DiscardHandler)}}
	_, api := build(s)
	o := op(get, "/one-more", "one-more", "One more", ok)
	if permission != "" {
		o = o.needs(permission)
	}
	if own {
		o = o.own()
	}
	read(s, api, o, func(context.Context, pg.Querier, *caller, *struct{}) (*struct{}, error) { return nil, nil })
	return s.declared()
}

// NewWithUnchecked is New with an operation more, at /unchecked/company/{id}:
// the same read without the question whether it is allowed.
func NewWithUnchecked(o Options) (http.Handler, error) {
	s, err := newServer(o)
	if err != nil {
		return nil, err
	}
	router, api := build(s)
	read(s, api, op(get, "/unchecked/company/{id}", "unchecked-company", "One company", ok).own(),
		func(ctx context.Context, db pg.Querier, _ *caller, in *IDPath) (*companyOutput, error) {
			return companyAnswer(company.Get(ctx, db, in.ID))
		})
	return router, s.declared()
}
