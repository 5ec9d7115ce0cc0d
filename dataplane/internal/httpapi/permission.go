package httpapi

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/access"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// Permission is one of the catalogue.
type Permission struct {
	ID          int64  `json:"id"`
	Code        string `json:"code" secret:"false" example:"crm.export"`
	Module      string `json:"module" example:"crm"`
	Description string `json:"description"`
	IsSystem    bool   `json:"is_system" doc:"The platform's own: neither changed nor deleted."`
	Entity
}

func permissionOf(e access.Entry) Permission {
	return Permission{e.ID, string(e.Code), e.Module, e.Description, e.IsSystem, entityOf(e.CreatedAt, e.UpdatedAt, nil)}
}

type permissionOutput struct{ Body Permission }

func permissionAnswer(e access.Entry, err error) (*permissionOutput, error) {
	if err != nil {
		return nil, err
	}
	return &permissionOutput{permissionOf(e)}, nil
}

type listPermissionsInput struct {
	PageInput
	Module string `query:"module" maxLength:"100" doc:"Of this module alone."`
}

type listPermissionsOutput struct{ Body Page[Permission] }

// listPermissions shows the catalogue to whoever may read it somewhere: roles
// of every company are made of it.
func (s *server) listPermissions(ctx context.Context, db pg.Querier, c *caller, in *listPermissionsInput) (*listPermissionsOutput, error) {
	if _, err := c.anywhere(ctx, db); err != nil {
		return nil, err
	}
	limit, offset := in.window()
	all, count, err := s.Access.Entries(ctx, db, given(in.Module), limit, offset)
	if err != nil {
		return nil, err
	}
	return &listPermissionsOutput{pageOf(s, c.scope, in.PageInput, count, each(all, permissionOf))}, nil
}

// given is nil for what was not sent.
func given[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

func each[A, B any](all []A, of func(A) B) []B {
	out := make([]B, len(all))
	for i, one := range all {
		out[i] = of(one)
	}
	return out
}

// IDPath is the id of a path.
type IDPath struct {
	ID int64 `path:"id" minimum:"1"`
}

func (s *server) getPermission(ctx context.Context, db pg.Querier, c *caller, in *IDPath) (*permissionOutput, error) {
	if _, err := c.anywhere(ctx, db); err != nil {
		return nil, err
	}
	return permissionAnswer(s.Access.Entry(ctx, db, in.ID))
}

// PermissionFields is what a permission is made of.
type PermissionFields struct {
	Code        string `json:"code" minLength:"3" maxLength:"100" pattern:"^[a-z][a-z0-9_]*[.][a-z][a-z0-9_]*$" doc:"module.action, in a module of your own." example:"crm.export"`
	Module      string `json:"module,omitempty" maxLength:"100" doc:"The part of the code before the dot; it need not be sent." example:"crm"`
	Description string `json:"description,omitempty" maxLength:"1000"`
}

func (f PermissionFields) entry() access.NewEntry {
	return access.NewEntry{Code: access.Permission(f.Code), Module: f.Module, Description: f.Description}
}

type createPermissionInput struct{ Body PermissionFields }

func (s *server) createPermission(ctx context.Context, tx pgx.Tx, c *caller, in *createPermissionInput) (*permissionOutput, error) {
	if err := c.requireHome(ctx, tx); err != nil {
		return nil, err
	}
	return permissionAnswer(s.Access.AddEntry(ctx, tx, c.who(), in.Body.entry()))
}

type replacePermissionInput struct {
	IDPath
	Body PermissionFields
}

func (s *server) replacePermission(ctx context.Context, tx pgx.Tx, c *caller, in *replacePermissionInput) (*permissionOutput, error) {
	return s.changePermission(ctx, tx, c, in.ID, func(access.Entry) (access.NewEntry, error) { return in.Body.entry(), nil })
}

type patchPermissionInput struct {
	IDPath
	Body struct {
		Code        optional[string] `json:"code,omitzero" minLength:"3" maxLength:"100" pattern:"^[a-z][a-z0-9_]*[.][a-z][a-z0-9_]*$" example:"crm.export"`
		Module      optional[string] `json:"module,omitzero" maxLength:"100" example:"crm"`
		Description optional[string] `json:"description,omitzero" maxLength:"1000"`
	}
}

func (s *server) patchPermission(ctx context.Context, tx pgx.Tx, c *caller, in *patchPermissionInput) (*permissionOutput, error) {
	return s.changePermission(ctx, tx, c, in.ID, func(e access.Entry) (access.NewEntry, error) {
		return access.NewEntry{
			Code:   access.Permission(in.Body.Code.or(string(e.Code))),
			Module: in.Body.Module.or(""), Description: in.Body.Description.or(e.Description),
		}, nil
	})
}

func (s *server) changePermission(ctx context.Context, tx pgx.Tx, c *caller, id int64, change func(access.Entry) (access.NewEntry, error)) (*permissionOutput, error) {
	if err := c.requireHome(ctx, tx); err != nil {
		return nil, err
	}
	return permissionAnswer(s.Access.ChangeEntry(ctx, tx, c.who(), id, change))
}

func (s *server) deletePermission(ctx context.Context, tx pgx.Tx, c *caller, in *IDPath) (*struct{}, error) {
	if err := c.requireHome(ctx, tx); err != nil {
		return nil, err
	}
	return nil, s.Access.DeleteEntry(ctx, tx, c.who(), in.ID)
}

// unseen turns the 404 of a company into that of the thing asked about: what
// the caller may not see looks like what is not there.
func unseen(err, absent error) error {
	if fault.Is(err, fault.KindNotFound) {
		return absent
	}
	return err
}
