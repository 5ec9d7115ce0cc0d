package httpapi

import (
	"context"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/access"
	"github.com/ouvira/ouvira/dataplane/internal/organization"
	"github.com/ouvira/ouvira/shared/pg"
)

// Identified begins what belongs to a company.
type Identified struct {
	ID      int64 `json:"id" example:"7"`
	Company int64 `json:"company" example:"1"`
}

// TransformSchema says that all fields are there: what may be left out when it
// is sent is not left out when it is answered.
func (Identified) TransformSchema(_ huma.Registry, s *huma.Schema) *huma.Schema {
	s.Required = slices.Sorted(maps.Keys(s.Properties))
	return s
}

// Department of a company.
type Department struct {
	Identified
	organization.Department
	Entity
}

// JobTitle of a company.
type JobTitle struct {
	Identified
	organization.JobTitle
	Entity
}

// Location of a company.
type Location struct {
	Identified
	organization.Location
	Entity
}

// Position in a company.
type Position struct {
	Identified
	organization.Position
	Entity
}

// unitsOf registers the operations of one kind: F are its fields, and W is one
// as it is answered.
func unitsOf[F, W any](s *server, api huma.API, path, one, many string, kind organization.Kind[F], answer func(Identified, F, Entity) W) {
	u := units[F, W]{s, kind, func(r organization.Row[F]) W {
		return answer(Identified{r.ID, r.CompanyID}, r.Fields, entityOf(r.CreatedAt, r.UpdatedAt, r.DeletedAt))
	}}
	id := strings.ReplaceAll(one, " ", "-")
	path = "/organization/" + path
	read(s, api, op(get, path, "list-"+path[len("/organization/"):], "List "+many, ok).needs(access.OrganizationRead), u.list)
	write(s, api, op(post, path, "create-"+id, "Make a "+one, created).needs(access.OrganizationEdit), u.create)
	read(s, api, op(get, path+"/{id}", "get-"+id, "One "+one, ok).needs(access.OrganizationRead), u.get)
	write(s, api, op(put, path+"/{id}", "replace-"+id, "Change a "+one+"; what is absent stays", ok).needs(access.OrganizationEdit), u.replace)
	write(s, api, op(patch, path+"/{id}", "patch-"+id, "Change some fields of a "+one, ok).needs(access.OrganizationEdit), u.patch)
	write(s, api, op(remove, path+"/{id}", "delete-"+id, "Delete a "+one+" that nothing refers to", nothing).needs(access.OrganizationEdit), u.remove)
}

type units[F, W any] struct {
	s    *server
	kind organization.Kind[F]
	wire func(organization.Row[F]) W
}

// sent are the fields of a kind, as many as were sent.
type sent[F any] struct{ raw json.RawMessage }

// UnmarshalJSON keeps what was sent, and refuses what does not fit.
func (b *sent[F]) UnmarshalJSON(raw []byte) error {
	b.raw = slices.Clone(raw)
	return json.Unmarshal(raw, new(F))
}

// MarshalJSON is what was sent.
func (b sent[F]) MarshalJSON() ([]byte, error) { return b.raw, nil }

// over lays what was sent over the fields, which stay as they are.
func (b sent[F]) over(fields F) (F, error) {
	var f F // a copy: fields holds pointers, through which JSON would write
	raw, err := json.Marshal(fields)
	if err != nil {
		return f, err
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return f, err
	}
	err = json.Unmarshal(b.raw, &f)
	return f, err
}

// unit is all of them, for PUT.
type unit[F any] struct{ sent[F] }

// Schema is that of the fields.
func (unit[F]) Schema(r huma.Registry) *huma.Schema {
	return huma.SchemaFromType(r, reflect.TypeFor[F]())
}

// newUnit is one to be made in a company.
type newUnit[F any] struct{ sent[F] }

// Schema is that of the fields, with the company.
func (newUnit[F]) Schema(r huma.Registry) *huma.Schema {
	s := huma.SchemaFromType(r, reflect.TypeFor[F]())
	s.Properties["company"] = &huma.Schema{Type: huma.TypeInteger, Format: "int64", Minimum: new(1.0), Examples: []any{1}}
	s.Required = append([]string{"company"}, s.Required...)
	return s
}

func (b newUnit[F]) company() (int64, error) {
	var in struct {
		Company int64 `json:"company"`
	}
	err := json.Unmarshal(b.raw, &in)
	return in.Company, err
}

// unitPatch is some of them.
type unitPatch[F any] struct{ sent[F] }

// Schema is that of the fields, of which none is required.
func (unitPatch[F]) Schema(r huma.Registry) *huma.Schema {
	s := huma.SchemaFromType(r, reflect.TypeFor[F]())
	s.Required = nil
	return s
}

type unitOutput[W any] struct {
	ETagged

	Body W
}

func (u units[F, W]) answer(row organization.Row[F], err error) (*unitOutput[W], error) {
	if err != nil {
		return nil, err
	}
	return &unitOutput[W]{etagged(row.UpdatedAt), u.wire(row)}, nil
}

type listUnitsInput struct {
	PageInput

	Company  int64  `query:"company" minimum:"1" doc:"Of this company; without it, of all in which one may see the organization."`
	IsActive string `query:"is_active" enum:"true,false"`
}

type listUnitsOutput[W any] struct{ Body Page[W] }

func (u units[F, W]) list(ctx context.Context, db pg.Querier, c *caller, in *listUnitsInput) (*listUnitsOutput[W], error) {
	filter := organization.Filter{Companies: []int64{in.Company}}
	if in.IsActive != "" {
		filter.IsActive = new(in.IsActive == "true")
	}
	var err error
	if in.Company != 0 {
		err = c.require(ctx, db, in.Company)
	} else {
		filter.Companies, err = c.companies(ctx, db)
	}
	if err != nil {
		return nil, err
	}
	limit, offset := in.window()
	rows, count, err := u.kind.List(ctx, db, filter, limit, offset)
	if err != nil {
		return nil, err
	}
	results := make([]W, len(rows))
	for i, row := range rows {
		results[i] = u.wire(row)
	}
	return &listUnitsOutput[W]{pageOf(u.s, c.scope, in.PageInput, count, results)}, nil
}

type createUnitInput[F any] struct{ Body newUnit[F] }

func (u units[F, W]) create(ctx context.Context, tx pgx.Tx, c *caller, in *createUnitInput[F]) (*unitOutput[W], error) {
	company, err := in.Body.company()
	if err != nil {
		return nil, err
	}
	if err := c.require(ctx, tx, company); err != nil {
		return nil, err
	}
	fields, err := in.Body.over(u.kind.Defaults)
	if err != nil {
		return nil, err
	}
	return u.answer(u.kind.Create(ctx, tx, c.who(), company, fields))
}

type unitInput struct {
	ID int64 `path:"id" minimum:"1"`
}

func (u units[F, W]) get(ctx context.Context, db pg.Querier, c *caller, in *unitInput) (*unitOutput[W], error) {
	return u.answer(u.find(ctx, db, c, in.ID))
}

// find one in a company in which the caller holds the permission.
func (u units[F, W]) find(ctx context.Context, db pg.Querier, c *caller, id int64) (organization.Row[F], error) {
	row, err := u.kind.Get(ctx, db, id)
	if err != nil {
		return row, err
	}
	return row, c.require(ctx, db, row.CompanyID)
}

// lock one as find finds it, which still is as the condition wants it.
func (u units[F, W]) lock(ctx context.Context, tx pgx.Tx, c *caller, id int64, condition IfMatch) (organization.Row[F], error) {
	row, err := u.find(ctx, tx, c, id)
	if err != nil {
		return row, err
	}
	if row, err = u.kind.Lock(ctx, tx, id, row.CompanyID); err != nil {
		return row, err
	}
	return row, condition.check(row.UpdatedAt)
}

type removeUnitInput struct {
	IfMatch

	ID int64 `path:"id" minimum:"1"`
}

type replaceUnitInput[F any] struct {
	IfMatch

	ID   int64 `path:"id" minimum:"1"`
	Body unit[F]
}

func (u units[F, W]) replace(ctx context.Context, tx pgx.Tx, c *caller, in *replaceUnitInput[F]) (*unitOutput[W], error) {
	return u.change(ctx, tx, c, in.ID, in.IfMatch, in.Body.sent)
}

type patchUnitInput[F any] struct {
	IfMatch

	ID   int64 `path:"id" minimum:"1"`
	Body unitPatch[F]
}

func (u units[F, W]) patch(ctx context.Context, tx pgx.Tx, c *caller, in *patchUnitInput[F]) (*unitOutput[W], error) {
	return u.change(ctx, tx, c, in.ID, in.IfMatch, in.Body.sent)
}

func (u units[F, W]) change(ctx context.Context, tx pgx.Tx, c *caller, id int64, condition IfMatch, body sent[F]) (*unitOutput[W], error) {
	row, err := u.lock(ctx, tx, c, id, condition)
	if err != nil {
		return nil, err
	}
	fields, err := body.over(row.Fields)
	if err != nil {
		return nil, err
	}
	return u.answer(u.kind.Update(ctx, tx, c.who(), row, fields))
}

func (u units[F, W]) remove(ctx context.Context, tx pgx.Tx, c *caller, in *removeUnitInput) (*struct{}, error) {
	row, err := u.lock(ctx, tx, c, in.ID, in.IfMatch)
	if err != nil {
		return nil, err
	}
	return nil, u.kind.Delete(ctx, tx, c.who(), row)
}
