package apidoc

import (
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// Reference is a completed document as Markdown: one section for each
// operation, grouped by tag in the order of the document's tags.
func Reference(document *huma.OpenAPI) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\nGenerated from the OpenAPI document by `make generate`; do not edit.\n\n%s\n", document.Info.Title, document.Info.Description)
	all := Operations(document)
	for _, tag := range document.Tags {
		fmt.Fprintf(&b, "\n- [%s](#%s)", tag.Name, tag.Name)
	}
	b.WriteString("\n")
	for _, tag := range document.Tags {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n", tag.Name, tag.Description)
		for _, o := range all {
			if len(o.Tags) > 0 && o.Tags[0] == tag.Name {
				section(&b, document.Components.Schemas, o)
			}
		}
	}
	b.WriteString("\n## Refusals\n\nEvery refusal is `application/problem+json` with `title`, `status`, `detail`, `code`, `request_id` and,\nwhere fields are wrong, `errors` of `field`, `code`, `message`.\n\n| status | means |\n| --- | --- |\n")
	for _, r := range refusals {
		fmt.Fprintf(&b, "| %d | %s |\n", r.status, r.detail)
	}
	return b.String()
}

func section(b *strings.Builder, registry huma.Registry, o *huma.Operation) {
	fmt.Fprintf(b, "\n### %s %s\n\n%s. %s\n", o.Method, o.Path, o.Summary, whoMay(o))
	if o.Description != "" {
		fmt.Fprintf(b, "\n%s\n", o.Description)
	}
	parameters(b, o)
	if o.RequestBody != nil {
		for _, media := range o.RequestBody.Content {
			fields(b, registry, media.Schema)
			example(b, "Request", media.Example)
		}
	}
	for _, status := range statuses(o) {
		response := o.Responses[status]
		if response.Ref != "" {
			continue
		}
		shown := false
		for _, media := range response.Content {
			example(b, "Answer "+status, media.Example)
			shown = true
		}
		if !shown {
			fmt.Fprintf(b, "\nAnswer %s, without a body.\n", status)
		}
	}
	var refused []string
	for _, status := range statuses(o) {
		if o.Responses[status].Ref != "" {
			refused = append(refused, status)
		}
	}
	fmt.Fprintf(b, "\nRefused with %s.\n", strings.Join(refused, ", "))
}

func whoMay(o *huma.Operation) string {
	switch p := Permission(o); {
	case Open(o):
		return "Open to anyone."
	case p != "":
		return "Needs `" + p + "`."
	}
	return "Needs a login."
}

func parameters(b *strings.Builder, o *huma.Operation) {
	if len(o.Parameters) == 0 {
		return
	}
	b.WriteString("\n| parameter | in | type | |\n| --- | --- | --- | --- |\n")
	for _, p := range o.Parameters {
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", p.Name, p.In, typeOf(p.Schema), cell(p.Description))
	}
}

func fields(b *strings.Builder, registry huma.Registry, s *huma.Schema) {
	s = resolve(registry, s)
	if len(s.Properties) == 0 {
		return
	}
	required := map[string]bool{}
	for _, name := range s.Required {
		required[name] = true
	}
	names := make([]string, 0, len(s.Properties))
	for name := range s.Properties {
		names = append(names, name)
	}
	sort.Slice(names, func(i, j int) bool {
		if required[names[i]] != required[names[j]] {
			return required[names[i]]
		}
		return names[i] < names[j]
	})
	b.WriteString("\n| field | type | | |\n| --- | --- | --- | --- |\n")
	for _, name := range names {
		must := ""
		if required[name] {
			must = "required"
		}
		p := s.Properties[name]
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", name, typeOf(p), must, cell(resolve(registry, p).Description))
	}
}

func resolve(registry huma.Registry, s *huma.Schema) *huma.Schema {
	if s.Ref != "" {
		return registry.SchemaFromRef(s.Ref)
	}
	return s
}

func typeOf(s *huma.Schema) string {
	if s == nil {
		return ""
	}
	name := s.Type
	switch {
	case s.Ref != "":
		name = s.Ref[strings.LastIndexByte(s.Ref, '/')+1:]
	case len(s.Enum) > 0:
		values := make([]string, len(s.Enum))
		for i, v := range s.Enum {
			values[i] = fmt.Sprintf("`%v`", v)
		}
		name = strings.Join(values, ", ")
	case s.Type == huma.TypeArray:
		name = "list of " + typeOf(s.Items)
	case s.Format != "" && s.Type == huma.TypeString:
		name = s.Format
	}
	if s.Nullable {
		name += " or null"
	}
	return name
}

func cell(text string) string {
	return strings.ReplaceAll(strings.ReplaceAll(text, "\n", " "), "|", `\|`)
}

func example(b *strings.Builder, what string, v any) {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("apidoc: an example is no JSON: %v", err)) // made of plain values above
	}
	fmt.Fprintf(b, "\n%s:\n\n```json\n%s\n```\n", what, raw)
}

func statuses(o *huma.Operation) []string {
	all := make([]string, 0, len(o.Responses))
	for status := range o.Responses {
		all = append(all, status)
	}
	sort.Slice(all, func(i, j int) bool {
		a, _ := strconv.Atoi(all[i])
		b, _ := strconv.Atoi(all[j])
		return a < b
	})
	return all
}
