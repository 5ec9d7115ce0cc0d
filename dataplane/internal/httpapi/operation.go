package httpapi

import (
	"context"
	"fmt"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/access"
	"github.com/ouvira/ouvira/dataplane/internal/httpapi/apidoc"
	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// operation is an operation of the API with what it takes to call it.
type operation struct {
	huma.Operation

	permission access.Permission // that the handler must ask for
	ofOneself  bool              // a login is enough: it touches what is the caller's own
	dormant    bool              // may write in a company that is deactivated
	machines   bool              // an API key may call it, though it is of oneself
	oneFactor  bool              // open to who still lacks the second factor that the tenant wants
	personal   bool              // an API key may not call it, though it has a permission
}

// op describes an operation. Its tag is the first segment of the path. It says
// who may call it by needs or own, or is registered as open.
func op(method, path, id, summary string, status int) operation {
	tag, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if strings.HasPrefix(tag, ".") {
		tag = "auth"
	}
	return operation{Operation: huma.Operation{Method: method, Path: path, OperationID: id, Summary: summary, DefaultStatus: status, Tags: []string{tag}}}
}

// needs declares the permission that the operation wants, in the company that
// its handler finds (caller.require and its sisters).
func (o operation) needs(p access.Permission) operation {
	o.permission = p
	return o
}

// own declares that a login is enough: the operation touches nothing but what
// is the caller's own.
func (o operation) own() operation {
	o.ofOneself = true
	return o
}

// evenMachines lets API keys, and support, call an operation that is the
// caller's own. They are refused otherwise: a key has no password, no sessions
// and no profile.
func (o operation) evenMachines() operation {
	o.machines = true
	return o
}

// byPeople keeps API keys from an operation.
func (o operation) byPeople() operation {
	o.personal = true
	return o
}

// evenDeactivated lets the operation write in a company that is deactivated.
func (o operation) evenDeactivated() operation {
	o.dormant = true
	return o
}

// evenWithoutSecondFactor lets those call an operation who have no second factor
// yet, where the tenant wants one of everybody: what it takes to get one.
func (o operation) evenWithoutSecondFactor() operation {
	o.oneFactor = true
	return o
}

// open registers an operation that wants no token.
func open[I, O any](s *server, api huma.API, o operation, handle func(context.Context, *scope, *I) (*O, error)) {
	if o.permission != "" || o.ofOneself {
		s.undeclared = append(s.undeclared, fmt.Errorf("operation %s is open to anyone and declares who may call it", o.OperationID))
	}
	checkInput[I](s, &o)
	o.Security = []map[string][]string{} // not nil: "security: []" in the document
	within := limiter[I](s, o.OperationID)
	huma.Register(api, o.Operation, func(ctx context.Context, in *I) (*O, error) {
		if err := within(ctx, in); err != nil {
			return nil, err
		}
		if err := hasRoom(scopeOf(ctx), &o); err != nil {
			return nil, err
		}
		return handle(ctx, scopeOf(ctx), in)
	})
}

// read registers an operation of somebody who is signed in. The first
// statement tells who; there is no transaction around.
func read[I, O any](s *server, api huma.API, o operation, handle func(context.Context, pg.Querier, *caller, *I) (*O, error)) {
	s.declare(&o)
	checkInput[I](s, &o)
	within := limiter[I](s, o.OperationID)
	huma.Register(api, o.Operation, func(ctx context.Context, in *I) (*O, error) {
		sc := scopeOf(ctx)
		if err := within(ctx, in); err != nil {
			return nil, err
		}
		var out *O
		err := sc.tenant.Do(ctx, func(db identity.Conn) error {
			c, err := s.authenticate(ctx, db, sc, &o)
			if err != nil {
				return err
			}
			if out, err = handle(ctx, db, c, in); err != nil {
				return err
			}
			return c.checked()
		})
		if err != nil {
			return nil, err
		}
		return out, nil
	})
}

// write registers an operation of somebody who is signed in, in one
// transaction whose first statement tells who.
func write[I, O any](s *server, api huma.API, o operation, handle func(context.Context, pgx.Tx, *caller, *I) (*O, error)) {
	s.declare(&o)
	checkInput[I](s, &o)
	replayable[O](s, &o)
	within := limiter[I](s, o.OperationID)
	huma.Register(api, o.Operation, func(ctx context.Context, in *I) (*O, error) {
		sc := scopeOf(ctx)
		if err := within(ctx, in); err != nil {
			return nil, err
		}
		var out *O
		err := sc.tenant.Do(ctx, func(db identity.Conn) error {
			return pg.InTx(ctx, db, func(tx pgx.Tx) error {
				c, err := s.authenticate(ctx, tx, sc, &o)
				if err != nil {
					return err
				}
				if err := hasRoom(sc, &o); err != nil {
					return err
				}
				c.writes = true
				out, err = once(ctx, tx, c, in, func() (*O, error) { return handle(ctx, tx, c, in) })
				if err != nil {
					return err
				}
				return c.checked()
			})
		})
		if err != nil {
			return nil, err // what was made has been rolled back
		}
		return out, nil
	})
}

// act registers an operation of somebody who is signed in that takes its
// connections itself, because it computes or waits in between: one that hashes
// passwords or speaks to another service. The connection that told who it is
// has been given back when handle begins; handle uses caller.tenant.Do, and
// repeats in its own transaction what must still be true there.
func act[I, O any](s *server, api huma.API, o operation, handle func(context.Context, *caller, *I) (*O, error)) {
	s.declare(&o)
	checkInput[I](s, &o)
	replayable[O](s, &o)
	within := limiter[I](s, o.OperationID)
	huma.Register(api, o.Operation, func(ctx context.Context, in *I) (*O, error) {
		sc := scopeOf(ctx)
		if err := within(ctx, in); err != nil {
			return nil, err
		}
		var c *caller
		err := sc.tenant.Do(ctx, func(db identity.Conn) error {
			var err error
			c, err = s.authenticate(ctx, db, sc, &o)
			return err
		})
		if err != nil {
			return nil, err
		}
		c.writes = true
		return onceApart(ctx, c, in, func() (*O, error) {
			out, err := handle(ctx, c, in)
			if err == nil {
				err = c.checked()
			}
			if err != nil {
				return nil, err
			}
			return out, nil
		})
	})
}

// hasRoom refuses what makes something new where the plan's quota of storage is
// exceeded. What changes or removes things, signs in and reads goes on.
func hasRoom(sc *scope, o *operation) error {
	if o.DefaultStatus != created || !sc.tenant.Route.Settings.StorageExceeded() {
		return nil
	}
	return fault.Forbidden("This workspace holds as much data as its plan grants: nothing can be added. Remove what is not needed, or ask one of its owners to get a larger plan.").
		Code("storage_quota")
}

// declare refuses an operation that does not say who may call it, and puts
// what it says into the document.
func (s *server) declare(o *operation) {
	if (o.permission == "") == !o.ofOneself {
		s.undeclared = append(s.undeclared, fmt.Errorf("operation %s must declare a permission, or that it is the caller's own", o.OperationID))
	}
	if o.permission != "" {
		o.Extensions = map[string]any{apidoc.ExtensionPermission: string(o.permission)}
	}
}

// checkInput refuses an input that embeds a struct under a name that is not
// exported: huma passes over it, and its parameters would silently be missing.
func checkInput[I any](s *server, o *operation) {
	t := reflect.TypeFor[I]()
	if t.Kind() != reflect.Struct {
		return
	}
	for _, f := range reflect.VisibleFields(t) {
		if f.Anonymous && !f.IsExported() {
			s.undeclared = append(s.undeclared, fmt.Errorf("operation %s: its input embeds %s, which must be exported", o.OperationID, f.Name))
		}
	}
}
