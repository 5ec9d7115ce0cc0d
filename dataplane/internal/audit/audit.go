// Package audit writes down what was done: the activity log (changes, and looks
// at what is sensitive) and the security log (signing in and out, refusals,
// keys). A record is written in the transaction of the change it speaks of, so
// that there is none without the other; the application can add records and
// read them, and neither change nor remove them.
//
// What of an entity goes into its records is said by its type: each field of
// a snapshot names its policy in the tag "audit".
//
//	type snapshot struct {
//		Name   string `json:"name" audit:"show"`   // old and new value
//		Secret string `json:"secret" audit:"hide"` // only that it changed
//		Cache  string `json:"-" audit:"-"`         // nothing
//	}
//
//	var companies = audit.Of[snapshot]("company")
//	...
//	err := companies.Updated(ctx, tx, who, &companyID, id, before, after)
package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/ouvira/ouvira/dataplane/internal/audit/dbsqlc"
	"github.com/ouvira/ouvira/shared/pg"
)

// Actions that every entity knows; rooms add their own ("STATUS", "REVOKE").
const (
	Create = "CREATE"
	Update = "UPDATE"
	Delete = "DELETE"
	Read   = "READ"
)

// Who did it. The name is kept as it was: the record outlives the user.
type Who struct {
	UserID    *int64
	Display   string
	OnBehalf  string // who really acted, when support acts for the user
	IP        netip.Addr
	RequestID string
}

func (w Who) ip() *netip.Addr {
	if !w.IP.IsValid() {
		return nil
	}
	return &w.IP
}

// Values of a policy.
const (
	show = "show"
	hide = "hide"
	omit = "-"
)

// hidden stands for a value that must not be recorded.
const hidden = "[hidden]"

// entities is every kind there is.
var entities = map[string]reflect.Type{}

// Shown are the fields of every entity whose values are recorded, as
// "entity.field", for the test that looks for secrets among them.
func Shown() []string {
	var fields []string
	for name, t := range entities {
		for f := range t.Fields() {
			if f.Tag.Get("audit") == show {
				fields = append(fields, name+"."+fieldName(f))
			}
		}
	}
	slices.Sort(fields)
	return fields
}

// Entity records what happens to entities of one type, by snapshots T.
type Entity[T any] struct{ name string }

// Of makes the recorder of an entity. It panics, when the program starts, if a
// field of T has no policy or the name is taken.
func Of[T any](name string) Entity[T] {
	t := reflect.TypeFor[T]()
	if _, taken := entities[name]; taken {
		panic("audit: there are two entities named " + name)
	}
	if err := checkPolicy(t); err != nil {
		panic(fmt.Sprintf("audit: entity %s: %v", name, err))
	}
	entities[name] = t
	return Entity[T]{name}
}

func checkPolicy(t reflect.Type) error {
	if t.Kind() != reflect.Struct {
		return fmt.Errorf("%s is no struct", t)
	}
	for f := range t.Fields() {
		switch f.Tag.Get("audit") {
		case show, hide, omit:
		default:
			return fmt.Errorf(`field %s has no policy: tag it audit:"show", audit:"hide" or audit:"-"`, f.Name)
		}
	}
	return nil
}

// Created records a new entity with its values.
func (e Entity[T]) Created(ctx context.Context, tx pg.Querier, who Who, companyID *int64, id int64, v T) error {
	return e.record(ctx, tx, who, companyID, &id, Create, nil, values(v))
}

// Updated records the fields that differ; when none does, nothing.
func (e Entity[T]) Updated(ctx context.Context, tx pg.Querier, who Who, companyID *int64, id int64, before, after T) error {
	was, is := difference(before, after)
	if len(is) == 0 {
		return nil
	}
	return e.record(ctx, tx, who, companyID, &id, Update, was, is)
}

// Deleted records the last values of an entity.
func (e Entity[T]) Deleted(ctx context.Context, tx pg.Querier, who Who, companyID *int64, id int64, v T) error {
	return e.record(ctx, tx, who, companyID, &id, Delete, values(v), nil)
}

// Did records another action with what is worth knowing of it. detail must
// hold no secret. A nil id speaks of many entities.
func (e Entity[T]) Did(ctx context.Context, tx pg.Querier, who Who, companyID, id *int64, action string, detail map[string]any) error {
	return e.record(ctx, tx, who, companyID, id, action, nil, detail)
}

// Looked records a look at what is sensitive: an export, others' data, the
// audit itself. A nil id speaks of a list.
func (e Entity[T]) Looked(ctx context.Context, db pg.Querier, who Who, companyID, id *int64) error {
	return e.record(ctx, db, who, companyID, id, Read, nil, nil)
}

var queries dbsqlc.Queries

func (e Entity[T]) record(ctx context.Context, db pg.Querier, who Who, companyID, id *int64, action string, was, is map[string]any) error {
	oldValues, err := encode(was)
	if err != nil {
		return err
	}
	newValues, err := encode(is)
	if err != nil {
		return err
	}
	return queries.RecordActivity(ctx, db, dbsqlc.RecordActivityParams{
		UserID: who.UserID, UserDisplay: who.Display, OnBehalf: optional(who.OnBehalf), CompanyID: companyID,
		EntityType: e.name, EntityID: id, Action: action, OldValues: oldValues, NewValues: newValues,
		IPAddress: who.ip(), RequestID: who.RequestID,
	})
}

// Security writes to the security log. metadata must hold no secret; who really
// acted is added to it.
func Security(ctx context.Context, db pg.Querier, who Who, action string, metadata map[string]any) error {
	if who.OnBehalf != "" {
		metadata = maps.Clone(metadata)
		if metadata == nil {
			metadata = map[string]any{}
		}
		metadata["on_behalf"] = who.OnBehalf
	}
	raw, err := encode(metadata)
	if err != nil {
		return err
	}
	if raw == nil {
		raw = json.RawMessage("{}")
	}
	return queries.RecordSecurity(ctx, db, dbsqlc.RecordSecurityParams{
		UserID: who.UserID, UserDisplay: who.Display, Action: action, Metadata: raw, IPAddress: who.ip(), RequestID: who.RequestID,
	})
}

// values are the fields of a snapshot as its policy shows them.
func values(v any) map[string]any {
	rv := reflect.ValueOf(v)
	out := make(map[string]any, rv.NumField())
	for i := range rv.NumField() {
		f := rv.Type().Field(i)
		switch f.Tag.Get("audit") {
		case show:
			out[fieldName(f)] = rv.Field(i).Interface()
		case hide:
			out[fieldName(f)] = hidden
		}
	}
	return out
}

func difference(before, after any) (was, is map[string]any) {
	was, is = values(before), values(after)
	b, a := reflect.ValueOf(before), reflect.ValueOf(after)
	for i := range b.NumField() {
		if reflect.DeepEqual(b.Field(i).Interface(), a.Field(i).Interface()) {
			name := fieldName(b.Type().Field(i))
			delete(was, name)
			delete(is, name)
		}
	}
	return was, is
}

func fieldName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	if name == "" || name == "-" {
		return f.Name
	}
	return name
}

func encode(v map[string]any) (json.RawMessage, error) {
	if v == nil {
		return nil, nil
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode the values of a record: %w", err)
	}
	return raw, nil
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
