package letter_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/dataplane/internal/outbox/letter"
	"github.com/ouvira/ouvira/shared/route"
)

func TestEveryTemplateIsSaidInEveryLanguage(t *testing.T) {
	t.Parallel()
	if got := strings.Join(letter.Languages(), " "); got != "de en fr" {
		t.Errorf("languages: %s", got)
	}
	seen := map[string]string{}
	for _, name := range outbox.Templates() {
		channel, needed := name.Needs()
		m := outbox.Message{Channel: channel, Template: name, Values: map[string]string{}}
		for i, value := range needed {
			m.Values[value] = "value" + strconv.Itoa(i)
		}
		for _, language := range letter.Languages() {
			m.Language = language
			for _, tenant := range []string{"Acme", "Globex"} {
				l, err := letter.Write(outbox.Outgoing{Message: m, Route: &route.Route{Slug: "x"}, Company: tenant})
				if err != nil {
					t.Fatal(err)
				}
				for name, value := range m.Values {
					if !strings.Contains(l.Text+l.Subject, value) {
						t.Errorf("%s in %s does not say its %s: %s", m.Template, language, name, l.Text)
					}
				}
				if strings.Contains(l.Text, "<no value>") || (m.Channel == outbox.Email) != (l.Subject != "" && l.HTML != "" && l.FromName == tenant) {
					t.Errorf("%s in %s: %+v", m.Template, language, l)
				}
				if other, ok := seen[l.Text]; ok && other != language && m.Template != outbox.TemplateNotification {
					t.Errorf("%s says the same in %s and %s", m.Template, language, other)
				}
				seen[l.Text] = language
				if m.Channel == outbox.SMS && len([]rune(l.Text)) > 160 {
					t.Errorf("%s in %s is longer than one SMS: %d", m.Template, language, len([]rune(l.Text)))
				}
			}
		}
	}
}

func TestTheLanguageIsTheReadersThenTheTenantsThenEnglish(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ reader, tenant, want string }{
		{"de", "fr", "de"}, {"de-AT", "fr", "de"}, {"", "fr-CA", "fr"}, {"xx", "FR", "fr"}, {"", "", "en"}, {"xx", "yy", "en"}, {"../en", "", "en"},
	} {
		m := outbox.Outgoing{
			Message: outbox.Message{Channel: outbox.Email, Template: outbox.TemplatePasswordSet, Language: tc.reader},
			Route:   &route.Route{Settings: route.Settings{Locale: tc.tenant}}, Company: "Acme",
		}
		l, err := letter.Write(m)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(l.HTML, `<html lang="`+tc.want+`">`) {
			t.Errorf("%+v: %s", tc, l.Subject)
		}
	}
}

func TestBrandingIsTheTenants(t *testing.T) {
	t.Parallel()
	m := outbox.Outgoing{
		Message: outbox.Message{Channel: outbox.Email, Template: outbox.TemplatePasswordSet},
		Company: "Acme Ltd",
		Route: &route.Route{Settings: route.Settings{Branding: route.Branding{
			Name: "Acme & Sons", LogoURL: "https://acme.example/logo.png", Color: "#ff8800", FromName: "Acme support",
		}}},
	}
	l, err := letter.Write(m)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`src="https://acme.example/logo.png"`, `alt="Acme &amp; Sons"`, "border-top:4px solid #ff8800"} {
		if !strings.Contains(l.HTML, want) {
			t.Errorf("no %s in %s", want, l.HTML)
		}
	}
	if l.FromName != "Acme support" || !strings.Contains(l.Text, "Acme & Sons") || strings.Contains(l.HTML+l.Text, "Acme Ltd") {
		t.Errorf("%+v", l)
	}
	m.Route = &route.Route{Slug: "globex"}
	m.Company = "Globex"
	if l, err = letter.Write(m); err != nil || l.FromName != "Globex" || strings.Contains(l.HTML, "acme") {
		t.Errorf("the other tenant: %+v, %v", l, err)
	}
}

func TestValuesAreNoMarkup(t *testing.T) {
	t.Parallel()
	const evil = `<img src=x onerror=alert(1)>{{.link}}`
	m := outbox.Outgoing{
		Message: outbox.Message{Channel: outbox.Email, Template: outbox.TemplateInvitation, Values: map[string]string{
			"link": "javascript:alert(1)", "company": evil, "inviter": "Mallory\r\nBcc: x@example.com", "role": "</style>", "expires": "tomorrow",
		}},
		Route: &route.Route{Settings: route.Settings{Branding: route.Branding{Color: "red;background:url(//x)", LogoURL: "javascript:alert(1)"}}}, Company: evil,
	}
	l, err := letter.Write(m)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"<img src=x", `href="javascript:`, `src="javascript:`, "</style>", "url(//x)"} {
		if strings.Contains(l.HTML, bad) {
			t.Errorf("%s is in the page: %s", bad, l.HTML)
		}
	}
	if !strings.Contains(l.Text, "{{.link}}") {
		t.Error("a value was read as a template")
	}
}
