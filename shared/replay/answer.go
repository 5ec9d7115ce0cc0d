package replay

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// remembered is an answer as it is stored: the output of the handler, whose
// fields are the body and headers.
type remembered struct {
	Output  json.RawMessage `json:"output"`
	Omitted []string        `json:"omitted,omitempty"` // names of the secrets that are not there
}

// Remember is an answer as it may be stored: the fields that are tagged
// secret:"true" are empty, at any depth.
func Remember[O any](out *O) (json.RawMessage, error) {
	raw, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("remember an answer: %w", err)
	}
	var bare *O // a copy: the caller still gets the secrets
	if err := json.Unmarshal(raw, &bare); err != nil {
		return nil, fmt.Errorf("remember an answer: %w", err)
	}
	var omitted []string
	takeSecrets(reflect.ValueOf(&bare), &omitted)
	if raw, err = json.Marshal(bare); err != nil {
		return nil, fmt.Errorf("remember an answer: %w", err)
	}
	slices.Sort(omitted)
	return json.Marshal(remembered{raw, slices.Compact(omitted)})
}

// Recall is the reverse. It names what was left out.
func Recall[O any](stored json.RawMessage) (out *O, omitted []string, err error) {
	var r remembered
	if err := json.Unmarshal(stored, &r); err != nil {
		return nil, nil, fmt.Errorf("read a remembered answer: %w", err)
	}
	if err := json.Unmarshal(r.Output, &out); err != nil {
		return nil, nil, fmt.Errorf("read a remembered answer: %w", err)
	}
	return out, r.Omitted, nil
}

// takeSecrets empties the fields that are tagged secret:"true", at any depth,
// and notes their names.
func takeSecrets(v reflect.Value, names *[]string) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			takeSecrets(v.Elem(), names)
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			takeSecrets(v.Index(i), names)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			switch {
			case !f.IsExported():
			case f.Tag.Get("secret") != "true":
				takeSecrets(v.Field(i), names)
			case !v.Field(i).IsZero():
				v.Field(i).SetZero()
				*names = append(*names, nameOf(f))
			}
		}
	default: // nothing below it
	}
}

// secretNames are names of fields that must say whether they are secrets.
var secretNames = []string{
	"token", "access", "access_token", "refresh", "refresh_token", "secret", "key", "qr_code", "backup_codes", "password", "otp", "Set-Cookie",
}

// Undecided are the fields of an output that are named like a secret and do not
// say by the tag "secret" whether they are one.
func Undecided[O any]() []string {
	return undecided(reflect.TypeFor[O](), map[reflect.Type]bool{})
}

func undecided(t reflect.Type, seen map[reflect.Type]bool) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || seen[t] {
		return nil
	}
	seen[t] = true
	var found []string
	for f := range t.Fields() {
		if slices.Contains(secretNames, nameOf(f)) && f.Tag.Get("secret") == "" {
			found = append(found, t.String()+"."+f.Name)
		}
		found = append(found, undecided(f.Type, seen)...)
	}
	return found
}

// nameOf is how a field is called in the answer: in its document, or as a header.
func nameOf(f reflect.StructField) string {
	if header := f.Tag.Get("header"); header != "" {
		return header
	}
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}
