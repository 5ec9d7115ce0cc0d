package turnstile

import (
	"errors"
	"net/url"
	"regexp"

	"github.com/ouvira/ouvira/shared/config"
)

// DefaultURL is where Cloudflare verifies tokens.
const DefaultURL = "https://challenges.cloudflare.com/turnstile/v0/siteverify"

// Settings are the same in both planes: embed them.
type Settings struct {
	TurnstileSecretKey string `env:"TURNSTILE_SECRET_KEY" secret:"true"`
	TurnstileURL       string `env:"OUVIRA_TURNSTILE_URL"`
}

// testKey are Cloudflare's secret keys for tests, whose answer does not depend
// on the token: 1x passes, 2x fails, 3x says that the token has been used.
var testKey = regexp.MustCompile(`^[123]x0+AA$`)

// WrongTurnstile says what is wrong with the settings.
func (s Settings) WrongTurnstile(env config.Environment) []error {
	var errs []error
	u, err := url.Parse(s.TurnstileURL)
	if s.TurnstileURL != "" && (err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https")) {
		errs = append(errs, errors.New("OUVIRA_TURNSTILE_URL: must be an address such as "+DefaultURL))
	}
	if env != config.Production {
		return errs
	}
	if s.TurnstileURL != "" && (err != nil || u.Scheme != "https") {
		errs = append(errs, errors.New("OUVIRA_TURNSTILE_URL: production wants https"))
	}
	if testKey.MatchString(s.TurnstileSecretKey) {
		errs = append(errs, errors.New("TURNSTILE_SECRET_KEY: this is Cloudflare's key for tests, which asks nobody; production wants one of its own"))
	}
	return errs
}

// TurnstileNote is a word for operators on whether tokens are wanted; empty when they
// are, and by a real key.
func (s Settings) TurnstileNote() string {
	switch {
	case s.TurnstileSecretKey == "":
		return "off: TURNSTILE_SECRET_KEY is not set, so programs can sign up as well as people"
	case testKey.MatchString(s.TurnstileSecretKey):
		return "TURNSTILE_SECRET_KEY is a key for tests"
	}
	return ""
}
