package company

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"time"
	_ "time/tzdata" // the container has no time zones of its own
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"golang.org/x/text/currency"
	"golang.org/x/text/language"

	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/dataplane/internal/company/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
)

// Settings of a company.
type Settings struct {
	DefaultLanguage      string // ISO 639-1
	DefaultCurrency      string // ISO 4217
	Timezone             string // IANA
	FiscalYearStartMonth int16  // 1 to 12
	FeatureFlags         json.RawMessage
	CreatedAt            time.Time
	UpdatedAt            time.Time
}

// settingsRecord is what the audit keeps of settings.
type settingsRecord struct {
	DefaultLanguage      string `audit:"show" json:"default_language"`
	DefaultCurrency      string `audit:"show" json:"default_currency"`
	Timezone             string `audit:"show" json:"timezone"`
	FiscalYearStartMonth int16  `audit:"show" json:"fiscal_year_start_month"`
	FeatureFlags         any    `audit:"show" json:"feature_flags"`
}

var companySettings = audit.Of[settingsRecord]("company_settings")

func (s Settings) record() (settingsRecord, error) {
	var flags any
	err := json.Unmarshal(s.FeatureFlags, &flags)
	return settingsRecord{s.DefaultLanguage, s.DefaultCurrency, s.Timezone, s.FiscalYearStartMonth, flags}, err
}

// LockSettings reads settings that are about to change.
func LockSettings(ctx context.Context, tx pgx.Tx, companyID int64) (Settings, error) {
	row, err := queries.LockSettings(ctx, tx, companyID)
	if errors.Is(err, pgx.ErrNoRows) {
		return Settings{}, absent()
	}
	return Settings(row), err
}

// SaveSettings stores what has changed since LockSettings.
func SaveSettings(ctx context.Context, tx pgx.Tx, who audit.Who, companyID int64, before, after Settings) (Settings, error) {
	after, err := after.checked()
	if err != nil {
		return Settings{}, err
	}
	row, err := queries.UpdateSettings(ctx, tx, dbsqlc.UpdateSettingsParams{
		CompanyID: companyID, DefaultLanguage: after.DefaultLanguage, DefaultCurrency: after.DefaultCurrency, Timezone: after.Timezone,
		FiscalYearStartMonth: after.FiscalYearStartMonth, FeatureFlags: after.FeatureFlags,
	})
	if err != nil {
		return Settings{}, err
	}
	saved := Settings(row)
	was, err := before.record()
	if err != nil {
		return Settings{}, err
	}
	is, err := saved.record()
	if err != nil {
		return Settings{}, err
	}
	return saved, companySettings.Updated(ctx, tx, who, &companyID, companyID, was, is)
}

// checked refuses what names nothing in the world, and brings the rest to one
// spelling.
func (s Settings) checked() (Settings, error) {
	wrong := fault.Invalid("Some of the settings are not right.")
	var ok bool
	if s.DefaultLanguage, ok = languageCode(s.DefaultLanguage); !ok {
		wrong = wrong.OnField("default_language", "language", "This is not a language code of ISO 639-1, such as en.")
	}
	if s.DefaultCurrency, ok = currencyCode(s.DefaultCurrency); !ok {
		wrong = wrong.OnField("default_currency", "currency", "This is not a currency code of ISO 4217, such as USD.")
	}
	if !isTimezone(s.Timezone) {
		wrong = wrong.OnField("timezone", "timezone", "This is not a time zone of the IANA database, such as Europe/Berlin or UTC.")
	}
	if s.FiscalYearStartMonth < 1 || s.FiscalYearStartMonth > 12 {
		wrong = wrong.OnField("fiscal_year_start_month", "range", "This must be a month, 1 to 12.")
	}
	if why := flagsRefused(s.FeatureFlags); why != "" {
		wrong = wrong.OnField("feature_flags", "flags", why)
	}
	if len(wrong.Fields) > 0 {
		return Settings{}, wrong
	}
	return s, nil
}

// Language brings the code of a language to one spelling; "" stays. What is no
// code of ISO 639-1 is a fault on the field "language".
func Language(code string) (string, error) {
	if code == "" {
		return "", nil
	}
	code, ok := languageCode(code)
	if !ok {
		const message = "This is not a language code of ISO 639-1, such as en."
		return "", fault.Invalid(message).OnField("language", "language", message)
	}
	return code, nil
}

func languageCode(s string) (string, bool) {
	s = strings.ToLower(s)
	base, err := language.ParseBase(s)
	return s, err == nil && len(s) == 2 && base.String() == s
}

func currencyCode(s string) (string, bool) {
	unit, err := currency.ParseISO(s)
	return unit.String(), err == nil && unit != currency.XXX && unit != currency.XTS
}

// isTimezone knows the names of the IANA database, and leaves out what only
// lies beside them on the disks of machines.
func isTimezone(name string) bool {
	switch name {
	case "", "Local", "localtime", "posixrules", "Factory":
		return false
	}
	if strings.HasPrefix(name, "posix/") || strings.HasPrefix(name, "right/") {
		return false
	}
	_, err := time.LoadLocation(name)
	return err == nil
}

// Bounds of feature flags.
const (
	maxFlags     = 100
	maxFlagRunes = 256
)

var flagName = regexp.MustCompile(`^[a-z0-9_]{1,64}$`)

// flagsRefused says what is wrong with feature flags, or "".
func flagsRefused(raw json.RawMessage) string {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var flags map[string]any
	if err := decoder.Decode(&flags); err != nil || flags == nil {
		return "This must be an object."
	}
	if len(flags) > maxFlags {
		return "At most 100 flags fit."
	}
	for name, v := range flags {
		if !flagName.MatchString(name) {
			return "The name of a flag is 1 to 64 lower-case letters, digits and underscores."
		}
		switch v := v.(type) {
		case bool:
		case json.Number:
			if _, err := v.Float64(); err != nil {
				return "A number among the flags is too large."
			}
		case string:
			if utf8.RuneCountInString(v) > maxFlagRunes || strings.ContainsRune(v, 0) {
				return "The text of a flag has at most 256 characters."
			}
		default:
			return "The value of a flag is true, false, a text or a number."
		}
	}
	return ""
}
