package config

import (
	"fmt"
	"io"
	"net/url"
	"reflect"
	"strings"
)

// field is one setting of a struct.
type field struct {
	goName   string
	name     string
	fallback string
	secret   string
	index    []int
}

// fieldsOf lists the settings of a struct and of those embedded in it.
func fieldsOf(t reflect.Type) []field {
	var fields []field
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("env"), ",")
		if name == "" || !f.IsExported() {
			continue
		}
		fields = append(fields, field{f.Name, name, f.Tag.Get("envDefault"), f.Tag.Get("secret"), f.Index})
	}
	return fields
}

func nameOfField(fields []field, goName string) string {
	for _, f := range fields {
		if f.goName == goName {
			return f.name
		}
	}
	return goName
}

// Names lists the variables that a struct is read from.
func Names[T any]() []string {
	var names []string
	for _, f := range fieldsOf(reflect.TypeFor[T]()) {
		names = append(names, f.name)
	}
	return names
}

// Print writes the effective settings, one NAME=value per line, with secrets
// masked.
func Print[T any](w io.Writer, settings T) error {
	v := reflect.ValueOf(settings)
	for _, f := range fieldsOf(v.Type()) {
		if _, err := fmt.Fprintf(w, "%s=%s\n", f.name, show(f, v.FieldByIndex(f.index))); err != nil {
			return fmt.Errorf("print the settings: %w", err)
		}
	}
	return nil
}

func show(f field, v reflect.Value) string {
	if v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.String {
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = v.Index(i).String()
		}
		return strings.Join(parts, ",")
	}
	text := fmt.Sprint(v.Interface())
	if f.secret == "" || text == "" {
		return text
	}
	if f.secret == "url" {
		return maskURL(text)
	}
	return "********"
}

// maskURL hides the password, wherever a Postgres address may carry it.
func maskURL(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" || u.Host == "" {
		return "********"
	}
	if _, has := u.User.Password(); has {
		u.User = url.UserPassword(u.User.Username(), "********")
	}
	query := u.Query()
	for key := range query {
		if strings.Contains(strings.ToLower(key), "password") {
			query.Set(key, "********")
		}
	}
	u.RawQuery = query.Encode()
	return strings.ReplaceAll(u.String(), "%2A%2A%2A%2A%2A%2A%2A%2A", "********")
}

// Table is the part of docs/configuration.md about one binary, made from its
// struct.
func Table[T any]() string {
	var b strings.Builder
	b.WriteString("| variable | default | meaning |\n| --- | --- | --- |\n")
	for _, f := range fieldsOf(reflect.TypeFor[T]()) {
		fallback := ""
		if f.fallback != "" {
			fallback = "`" + f.fallback + "`"
		}
		doc := docOf(f.name)
		if f.secret != "" {
			doc += " Secret."
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", f.name, fallback, doc)
	}
	return b.String()
}
