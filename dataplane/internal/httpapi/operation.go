package httpapi

import (
	"context"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/shared/pg"
)

// op describes an operation. Its tag is the first segment of the path.
func op(method, path, id, summary string, status int) huma.Operation {
	tag, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if strings.HasPrefix(tag, ".") {
		tag = "auth"
	}
	return huma.Operation{Method: method, Path: path, OperationID: id, Summary: summary, DefaultStatus: status, Tags: []string{tag}}
}

// open registers an operation that wants no token.
func open[I, O any](_ *server, api huma.API, o huma.Operation, handle func(context.Context, *scope, *I) (*O, error)) {
	o.Security = []map[string][]string{} // not nil: "security: []" in the document
	huma.Register(api, o, func(ctx context.Context, in *I) (*O, error) {
		return handle(ctx, scopeOf(ctx), in)
	})
}

// read registers an operation of somebody who is signed in. The first
// statement tells who; there is no transaction around.
func read[I, O any](s *server, api huma.API, o huma.Operation, handle func(context.Context, pg.Querier, *scope, identity.Actor, *I) (*O, error)) {
	huma.Register(api, o, func(ctx context.Context, in *I) (*O, error) {
		sc := scopeOf(ctx)
		var out *O
		err := sc.tenant.Do(ctx, func(db identity.Conn) error {
			actor, err := s.authenticate(ctx, db, sc)
			if err != nil {
				return err
			}
			out, err = handle(ctx, db, sc, actor, in)
			return err
		})
		return out, err
	})
}

// write registers an operation of somebody who is signed in, in one
// transaction whose first statement tells who.
func write[I, O any](s *server, api huma.API, o huma.Operation, handle func(context.Context, pgx.Tx, *scope, identity.Actor, *I) (*O, error)) {
	huma.Register(api, o, func(ctx context.Context, in *I) (*O, error) {
		sc := scopeOf(ctx)
		var out *O
		err := sc.tenant.Do(ctx, func(db identity.Conn) error {
			return pg.InTx(ctx, db, func(tx pgx.Tx) error {
				actor, err := s.authenticate(ctx, tx, sc)
				if err != nil {
					return err
				}
				out, err = handle(ctx, tx, sc, actor, in)
				return err
			})
		})
		if err != nil {
			return nil, err // what was made has been rolled back
		}
		return out, nil
	})
}
