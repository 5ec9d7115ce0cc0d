package tenant

import (
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/route"
)

// SettingsPatch changes the settings that it names; an empty text or list
// takes a setting back.
type SettingsPatch struct {
	SelfRegistration *bool
	CORSOrigins      *[]string
	ResetURL         *string
	InviteURL        *string
	Locale           *string
	Require2FA       *bool
	Redirect         *bool           // browsers, to the primary domain
	Branding         *route.Branding // as a whole
}

// maxOrigins bounds what every node carries for a tenant.
const maxOrigins = 20

var localeForm = regexp.MustCompile(`^[a-z]{2,3}(-[A-Z][a-z]{3})?(-([A-Z]{2}|[0-9]{3}))?$`)

// apply checks the patch and lays it over the settings.
func (p SettingsPatch) apply(s route.Settings) (route.Settings, error) {
	var wrong []fault.Field
	note := func(field, code, message string) {
		wrong = append(wrong, fault.Field{Field: "settings." + field, Code: code, Message: message})
	}
	if p.SelfRegistration != nil {
		s.SelfRegistration = p.SelfRegistration
	}
	if p.Require2FA != nil {
		s.Require2FA = *p.Require2FA
	}
	if p.Redirect != nil {
		s.RedirectToPrimary = *p.Redirect
	}
	if p.Locale != nil {
		if *p.Locale != "" && !localeForm.MatchString(*p.Locale) {
			note("locale", "locale", "A locale is written as in en or pt-BR.")
		}
		s.Locale = *p.Locale
	}
	if p.ResetURL != nil {
		if *p.ResetURL != "" && !isPageURL(*p.ResetURL) {
			note("reset_url", "uri", "This must be the https address of a page.")
		}
		s.ResetURL = *p.ResetURL
	}
	if p.InviteURL != nil {
		if *p.InviteURL != "" && !isPageURL(*p.InviteURL) {
			note("invite_url", "uri", "This must be the https address of a page.")
		}
		s.InviteURL = *p.InviteURL
	}
	if p.Branding != nil {
		checkBranding(*p.Branding, note)
		s.Branding = *p.Branding
	}
	if p.CORSOrigins != nil {
		if len(*p.CORSOrigins) > maxOrigins {
			note("cors_origins", "length", "At most 20 origins can be allowed.")
		}
		for i, origin := range *p.CORSOrigins {
			if !route.IsOrigin(origin) {
				note("cors_origins["+strconv.Itoa(i)+"]", "origin", "An origin is written as in https://app.example.com, without a path.")
			}
		}
		s.CORSOrigins = *p.CORSOrigins
	}
	if len(wrong) > 0 {
		f := fault.Invalid("Some settings are not right. See errors for each of them.")
		f.Fields = wrong
		return s, f
	}
	return s, nil
}

// maxSenderName bounds the names in the headers of mails.
const maxSenderName = 100

var colorForm = regexp.MustCompile(`^#[0-9a-fA-F]{6}$`)

func checkBranding(b route.Branding, note func(field, code, message string)) {
	for _, f := range []struct{ field, value string }{{"branding.name", b.Name}, {"branding.from_name", b.FromName}} {
		if utf8.RuneCountInString(f.value) > maxSenderName || strings.ContainsFunc(f.value, unicode.IsControl) || strings.ContainsAny(f.value, `<>"`) {
			note(f.field, "name", "This must be one line of at most 100 letters, without < > and quotation marks.")
		}
	}
	if b.LogoURL != "" && !isPageURL(b.LogoURL) {
		note("branding.logo_url", "uri", "This must be the https address of an image.")
	}
	if b.Color != "" && !colorForm.MatchString(b.Color) {
		note("branding.color", "color", "A color is written as in #1a73e8.")
	}
}

// isPageURL takes https, and http on the developer's own machine.
func isPageURL(s string) bool {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || len(s) > 2000 {
		return false
	}
	return u.Scheme == "https" || u.Scheme == "http" && isLocal(u.Hostname())
}

func isLocal(host string) bool {
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || host == "127.0.0.1"
}
