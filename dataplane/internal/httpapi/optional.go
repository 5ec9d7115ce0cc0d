package httpapi

import (
	"encoding/json"
	"reflect"

	"github.com/danielgtaylor/huma/v2"
)

// optional is a field of a PATCH: absent, null, or a value. Tag it omitempty,
// and put bounds on it as on a plain field.
type optional[T any] struct {
	Set   bool // it was there, perhaps as null
	Null  bool
	Value T
}

// UnmarshalJSON is called only for what is there.
func (o *optional[T]) UnmarshalJSON(raw []byte) error {
	o.Set = true
	if string(raw) == "null" {
		o.Null = true
		return nil
	}
	return json.Unmarshal(raw, &o.Value)
}

// Schema implements huma.SchemaProvider.
func (o optional[T]) Schema(r huma.Registry) *huma.Schema {
	s := *r.Schema(reflect.TypeFor[T](), true, "")
	s.Nullable = true
	return &s
}

// or is the value that was sent, or what stood there before.
func (o optional[T]) or(before T) T {
	if o.Set && !o.Null {
		return o.Value
	}
	return before
}

// pointer is the value that was sent, nil for null, or what stood there before.
func (o optional[T]) pointer(before *T) *T {
	switch {
	case !o.Set:
		return before
	case o.Null:
		return nil
	}
	return &o.Value
}
