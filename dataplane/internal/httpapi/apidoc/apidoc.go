// Package apidoc finishes an OpenAPI document: examples for every body, the
// refusals that each operation can answer with, and the document as Markdown
// for people who read it without a browser.
package apidoc

import (
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/ouvira/ouvira/shared/problem"
)

// ExtensionPermission is the extension of an operation that names the
// permission which it needs.
const ExtensionPermission = "x-permission"

// Complete adds examples and refusals to a document whose operations are all
// registered. examples are values by the name of a field, for fields whose
// schema has none. It returns the fields that are left without one, as
// "Schema.field".
func Complete(document *huma.OpenAPI, examples map[string]any) []string {
	x := &exampler{registry: document.Components.Schemas, named: examples, lacking: map[string]bool{}}
	if document.Components.Responses == nil {
		document.Components.Responses = map[string]*huma.Response{}
	}
	for _, r := range refusals {
		document.Components.Responses[r.name] = r.response()
	}
	for _, o := range Operations(document) {
		complete(o, x)
	}
	lacking := make([]string, 0, len(x.lacking))
	for field := range x.lacking {
		lacking = append(lacking, field)
	}
	sort.Strings(lacking)
	return lacking
}

func complete(o *huma.Operation, x *exampler) {
	if o.RequestBody != nil {
		for _, media := range o.RequestBody.Content {
			if media.Example == nil && media.Examples == nil {
				media.Example = x.of(media.Schema, "")
			}
		}
	}
	for _, p := range o.Parameters {
		if p.Example == nil && p.Schema != nil && p.In == "path" {
			p.Example = x.of(p.Schema, p.Name)
		}
	}
	for status, response := range o.Responses {
		if status == "default" {
			continue
		}
		for _, media := range response.Content {
			if media.Example == nil && media.Examples == nil {
				media.Example = x.of(media.Schema, "")
			}
		}
	}
	delete(o.Responses, "default")
	for _, r := range refusals {
		key := strconv.Itoa(r.status)
		if _, there := o.Responses[key]; !there && r.applies(o) {
			o.Responses[key] = &huma.Response{Ref: "#/components/responses/" + r.name}
		}
	}
}

// Operations of a document, by path and method.
func Operations(document *huma.OpenAPI) []*huma.Operation {
	paths := make([]string, 0, len(document.Paths))
	for path := range document.Paths {
		paths = append(paths, path)
	}
	sort.Strings(paths)
	var all []*huma.Operation
	for _, path := range paths {
		item := document.Paths[path]
		for _, o := range []*huma.Operation{item.Get, item.Post, item.Put, item.Patch, item.Delete} {
			if o != nil {
				all = append(all, o)
			}
		}
	}
	return all
}

// Open tells whether the operation wants no token.
func Open(o *huma.Operation) bool { return o.Security != nil && len(o.Security) == 0 }

// Permission that the operation needs; empty where a login is enough.
func Permission(o *huma.Operation) string {
	p, _ := o.Extensions[ExtensionPermission].(string)
	return p
}

// refusal is a kind of answer that many operations share.
type refusal struct {
	name, code, detail string
	status             int
	field              *problem.FieldError
	applies            func(*huma.Operation) bool
}

func (r refusal) response() *huma.Response {
	example := problem.Problem{
		Title: http.StatusText(r.status), Status: r.status, Detail: r.detail, Code: r.code, RequestID: "01JQ7Z6Y8M3V",
	}
	if r.field != nil {
		example.Errors = []problem.FieldError{*r.field}
	}
	return &huma.Response{
		Description: r.detail,
		Content: map[string]*huma.MediaType{problem.MediaType: {
			Schema: &huma.Schema{Ref: "#/components/schemas/Problem"}, Example: example,
		}},
	}
}

func always(*huma.Operation) bool { return true }

func hasBody(o *huma.Operation) bool { return o.RequestBody != nil }

func hasInput(o *huma.Operation) bool { return o.RequestBody != nil || len(o.Parameters) > 0 }

func changes(o *huma.Operation) bool { return o.Method != http.MethodGet }

func hasHeader(name string) func(*huma.Operation) bool {
	return func(o *huma.Operation) bool {
		for _, p := range o.Parameters {
			if p.In == "header" && strings.EqualFold(p.Name, name) {
				return true
			}
		}
		return false
	}
}

var refusals = []refusal{
	{
		name: "BadRequest", status: http.StatusBadRequest, code: "not_json", applies: hasBody,
		detail: "The body is not valid JSON. Correct it and send it again.",
	},
	{
		name: "Unauthorized", status: http.StatusUnauthorized, code: "invalid_token",
		applies: func(o *huma.Operation) bool { return !Open(o) || strings.HasPrefix(o.Path, "/auth/") },
		detail:  "The token is missing, expired or not for this workspace. Sign in again.",
	},
	{
		name: "Forbidden", status: http.StatusForbidden, code: "permission_denied", applies: always,
		detail: "You are not allowed to do this. Ask an administrator of the company.",
	},
	{
		name: "NotFound", status: http.StatusNotFound, code: "not_found", applies: always,
		detail: "There is no such thing here, or you may not see it.",
	},
	{
		name: "Conflict", status: http.StatusConflict, code: "conflict", applies: changes,
		detail: "What is there now does not allow this. The answer says what stands in the way.",
	},
	{
		name: "PreconditionFailed", status: http.StatusPreconditionFailed, code: "precondition_failed", applies: hasHeader("If-Match"),
		detail: "It has changed since you read it. Read it again, and repeat your change on what is there now.",
	},
	{
		name: "ContentTooLarge", status: http.StatusRequestEntityTooLarge, code: "too_large", applies: hasBody,
		detail: "The body is larger than 1 MiB. Send less at once.",
	},
	{
		name: "UnprocessableContent", status: http.StatusUnprocessableEntity, code: "invalid", applies: hasInput,
		detail: "Some fields are not right.",
		field:  &problem.FieldError{Field: "email", Code: "required", Message: "This field is required."},
	},
	{
		name: "TooManyRequests", status: http.StatusTooManyRequests, code: "rate_limited", applies: always,
		detail: "Too many requests. Wait for as long as Retry-After says.",
	},
	{
		name: "InternalServerError", status: http.StatusInternalServerError, code: "internal", applies: always,
		detail: "Something went wrong here. Try again; if it stays, quote the request id to support.",
	},
	{
		name: "ServiceUnavailable", status: http.StatusServiceUnavailable, code: "unavailable", applies: always,
		detail: "This is not available right now. Try again after Retry-After.",
	},
}

// exampler makes examples out of schemas.
type exampler struct {
	registry huma.Registry
	named    map[string]any
	lacking  map[string]bool
	within   []string // schemas being worked on, against cycles
}

func (x *exampler) of(s *huma.Schema, field string) any {
	if s == nil {
		return nil
	}
	if s.Ref != "" {
		return x.referenced(s)
	}
	switch {
	case len(s.Examples) > 0:
		return s.Examples[0]
	case len(s.Enum) > 0:
		return s.Enum[0]
	}
	if v, ok := x.named[field]; ok {
		return v
	}
	if s.Default != nil {
		return s.Default
	}
	switch s.Type {
	case huma.TypeObject:
		return x.object(s)
	case huma.TypeArray:
		if v := x.of(s.Items, strings.TrimSuffix(field, "s")); v != nil {
			return []any{v}
		}
		return []any{}
	case huma.TypeBoolean:
		return false
	case huma.TypeInteger, huma.TypeNumber:
		if s.Minimum != nil {
			return max(int64(*s.Minimum), 1)
		}
		return 1
	case huma.TypeString:
		return x.text(s, field)
	}
	return nil
}

func (x *exampler) text(s *huma.Schema, field string) any {
	switch s.Format {
	case "date-time":
		if s.Nullable {
			return nil
		}
		return "2030-01-31T09:30:00Z"
	case "uuid":
		return "0198c1f0-6f0b-7c3a-9d0e-5a2b7c9d1e3f"
	case "password":
		return "correct horse battery staple"
	}
	if s.Nullable {
		return nil
	}
	where := field
	if len(x.within) > 0 {
		where = x.within[len(x.within)-1] + "." + field
	}
	x.lacking[where] = true
	return "…"
}

func (x *exampler) referenced(s *huma.Schema) any {
	name := s.Ref[strings.LastIndexByte(s.Ref, '/')+1:]
	if slices.Contains(x.within, name) {
		return nil // a tree: one level shows it
	}
	x.within = append(x.within, name)
	defer func() { x.within = x.within[:len(x.within)-1] }()
	return x.of(x.registry.SchemaFromRef(s.Ref), "")
}

// object keeps every field but those whose example is null and which need not
// be there.
func (x *exampler) object(s *huma.Schema) any {
	out := map[string]any{}
	required := map[string]bool{}
	for _, name := range s.Required {
		required[name] = true
	}
	for name, property := range s.Properties {
		if v := x.of(property, name); v != nil || required[name] {
			out[name] = v
		}
	}
	return out
}

// Check tells which examples do not match their schemas, one sentence each.
func Check(document *huma.OpenAPI) []string {
	var wrong []string
	for _, o := range Operations(document) {
		if o.RequestBody == nil {
			continue
		}
		for _, media := range o.RequestBody.Content {
			path, result := huma.NewPathBuffer([]byte{}, 0), &huma.ValidateResult{}
			huma.Validate(document.Components.Schemas, media.Schema, path, huma.ModeWriteToServer, media.Example, result)
			for _, err := range result.Errors {
				wrong = append(wrong, fmt.Sprintf("%s: %v", o.OperationID, err))
			}
		}
	}
	return wrong
}
