// Package letter writes what mails and SMS say: a text per template and
// language, and around a mail's text a plain page in the tenant's looks.
//
// A text is the source of both forms of a mail, so that they cannot differ.
// Values are escaped where they stand; none can become a header or markup.
package letter

import (
	"bytes"
	"embed"
	"fmt"
	htmltemplate "html/template"
	"maps"
	"path"
	"slices"
	"strings"
	"text/template"

	"github.com/ouvira/ouvira/dataplane/internal/outbox"
)

// fallback is the language of tenants that name none, or one that we do not
// speak.
const fallback = "en"

//go:embed texts/*.tmpl
var files embed.FS

// texts by language. In the file of a language each template has its own
// definition; a mail has a second one, "<template>.subject".
var texts = load()

func load() map[string]*template.Template {
	entries, err := files.ReadDir("texts")
	if err != nil {
		panic(err)
	}
	loaded := map[string]*template.Template{}
	for _, e := range entries {
		language := strings.TrimSuffix(e.Name(), ".tmpl")
		loaded[language] = template.Must(template.New(language).Option("missingkey=error").ParseFS(files, path.Join("texts", e.Name())))
		for _, t := range outbox.Templates() {
			channel, _ := t.Needs()
			if loaded[language].Lookup(string(t)) == nil || (channel == outbox.Email && loaded[language].Lookup(string(t)+".subject") == nil) {
				panic("the language " + language + " lacks the text " + string(t)) // when the program starts
			}
		}
	}
	return loaded
}

// Languages that we speak.
func Languages() []string {
	var all []string
	for language := range texts {
		all = append(all, language)
	}
	slices.Sort(all)
	return all
}

// Letter is what a message says.
type Letter struct {
	Subject  string // of a mail
	Text     string
	HTML     string // of a mail
	FromName string // of a mail
}

// Write writes an SMS or a mail.
func Write(m outbox.Outgoing) (Letter, error) {
	language := choose(m.Language, m.Route.Settings.Locale)
	values := make(map[string]string, len(m.Values)+1)
	maps.Copy(values, m.Values)
	values["brand"] = brand(m)
	var l Letter
	var err error
	if l.Text, err = run(language, string(m.Template), values); err != nil || m.Channel == outbox.SMS {
		return l, err
	}
	if l.Subject, err = run(language, string(m.Template)+".subject", values); err != nil {
		return l, err
	}
	l.FromName = m.Route.Settings.Branding.FromName
	if l.FromName == "" {
		l.FromName = values["brand"]
	}
	l.HTML, err = dress(m, language, l, values)
	return l, err
}

// choose takes the first language that we speak; "de-AT" is spoken where "de"
// is.
func choose(wanted ...string) string {
	for _, tag := range wanted {
		base, _, _ := strings.Cut(strings.ToLower(tag), "-")
		if texts[base] != nil {
			return base
		}
	}
	return fallback
}

func brand(m outbox.Outgoing) string {
	for _, name := range []string{m.Route.Settings.Branding.Name, m.Company} {
		if name != "" {
			return name
		}
	}
	return m.Route.Slug
}

func run(language, name string, values map[string]string) (string, error) {
	var text strings.Builder
	if err := texts[language].ExecuteTemplate(&text, name, values); err != nil {
		return "", fmt.Errorf("write %s in %s: %w", name, language, err)
	}
	return strings.TrimSpace(text.String()), nil
}

// page is a mail for programs that show HTML. It loads nothing but the
// tenant's logo and needs no style sheet.
var page = htmltemplate.Must(htmltemplate.New("page").Parse(`<!doctype html>
<html lang="{{.Language}}">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{.Subject}}</title></head>
<body style="margin:0;padding:24px;background:#f4f5f7;font-family:sans-serif;font-size:16px;line-height:1.5;color:#1f2328">
<div style="max-width:560px;margin:0 auto;padding:24px;background:#ffffff;border-top:4px solid {{.Color}}">
<p style="margin:0 0 24px;font-weight:bold">{{if .LogoURL}}<img src="{{.LogoURL}}" alt="{{.Brand}}" height="40">{{else}}{{.Brand}}{{end}}</p>
{{range .Paragraphs}}{{if eq .Kind "link"}}<p><a href="{{.Text}}" style="color:{{$.Color}};word-break:break-all">{{.Text}}</a></p>
{{else if eq .Kind "code"}}<p style="font-size:28px;letter-spacing:4px;font-weight:bold">{{.Text}}</p>
{{else}}<p>{{.Text}}</p>
{{end}}{{end}}</div>
</body>
</html>
`))

type paragraph struct{ Kind, Text string }

const defaultColor = "#1a73e8"

func dress(m outbox.Outgoing, language string, l Letter, values map[string]string) (string, error) {
	branding := m.Route.Settings.Branding
	data := struct {
		Language, Subject, Brand, LogoURL, Color string
		Paragraphs                               []paragraph
	}{Language: language, Subject: l.Subject, Brand: values["brand"], LogoURL: branding.LogoURL, Color: branding.Color}
	if data.Color == "" {
		data.Color = defaultColor
	}
	for text := range strings.SplitSeq(l.Text, "\n\n") {
		p := paragraph{Text: text}
		switch text {
		case "":
			continue
		case values["link"]:
			p.Kind = "link"
		case values["code"]:
			p.Kind = "code"
		}
		data.Paragraphs = append(data.Paragraphs, p)
	}
	var html bytes.Buffer
	if err := page.Execute(&html, data); err != nil {
		return "", fmt.Errorf("lay out a mail: %w", err)
	}
	return html.String(), nil
}
