package httpapi

import (
	"context"
	"encoding/json"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/company"
	"github.com/ouvira/ouvira/shared/pg"
)

// CompanySettings are a company's own; id is the company's.
type CompanySettings struct {
	ID                   int64          `json:"id"`
	Company              int64          `json:"company"`
	DefaultLanguage      string         `json:"default_language" doc:"ISO 639-1." example:"en"`
	DefaultCurrency      string         `json:"default_currency" doc:"ISO 4217." example:"USD"`
	Timezone             string         `json:"timezone" doc:"A name of the IANA time zone database." example:"Europe/Berlin"`
	FiscalYearStartMonth int16          `json:"fiscal_year_start_month" minimum:"1" maximum:"12"`
	FeatureFlags         map[string]any `json:"feature_flags"`
	Entity
}

func settingsOf(companyID int64, s company.Settings) (CompanySettings, error) {
	flags := map[string]any{}
	if err := json.Unmarshal(s.FeatureFlags, &flags); err != nil {
		return CompanySettings{}, err
	}
	return CompanySettings{
		ID: companyID, Company: companyID, DefaultLanguage: s.DefaultLanguage, DefaultCurrency: s.DefaultCurrency,
		Timezone: s.Timezone, FiscalYearStartMonth: s.FiscalYearStartMonth, FeatureFlags: flags,
		Entity: entityOf(s.CreatedAt, s.UpdatedAt, nil),
	}, nil
}

type settingsOutput struct {
	ETagged

	Body CompanySettings
}

func settingsAnswer(companyID int64, s company.Settings, err error) (*settingsOutput, error) {
	if err != nil {
		return nil, err
	}
	body, err := settingsOf(companyID, s)
	if err != nil {
		return nil, err
	}
	return &settingsOutput{etagged(s.UpdatedAt), body}, nil
}

func (s *server) getSettings(ctx context.Context, db pg.Querier, c *caller, in *IDPath) (*settingsOutput, error) {
	if err := c.require(ctx, db, in.ID); err != nil {
		return nil, err
	}
	found, err := company.Get(ctx, db, in.ID)
	return settingsAnswer(in.ID, found.Settings, err)
}

type settingsInput struct {
	IDPath
	IfMatch
	Body struct {
		DefaultLanguage      optional[string]         `json:"default_language,omitzero" minLength:"2" maxLength:"2" doc:"ISO 639-1." example:"de"`
		DefaultCurrency      optional[string]         `json:"default_currency,omitzero" minLength:"3" maxLength:"3" doc:"ISO 4217." example:"EUR"`
		Timezone             optional[string]         `json:"timezone,omitzero" minLength:"1" maxLength:"64" doc:"A name of the IANA time zone database." example:"Europe/Berlin"`
		FiscalYearStartMonth optional[int16]          `json:"fiscal_year_start_month,omitzero" minimum:"1" maximum:"12"`
		FeatureFlags         optional[map[string]any] `json:"feature_flags,omitzero" doc:"Replaces all flags. At most 100: names of lower-case letters, digits and underscores; true, false, a text or a number."`
	}
}

// changeSettings serves PUT and PATCH alike: what is absent stays as it is, as
// every setting has a value from the beginning.
func (s *server) changeSettings(ctx context.Context, tx pgx.Tx, c *caller, in *settingsInput) (*settingsOutput, error) {
	if err := c.require(ctx, tx, in.ID); err != nil {
		return nil, err
	}
	before, err := company.LockSettings(ctx, tx, in.ID)
	if err != nil {
		return nil, err
	}
	if err := in.check(before.UpdatedAt); err != nil {
		return nil, err
	}
	after := before
	after.DefaultLanguage = in.Body.DefaultLanguage.or(before.DefaultLanguage)
	after.DefaultCurrency = in.Body.DefaultCurrency.or(before.DefaultCurrency)
	after.Timezone = in.Body.Timezone.or(before.Timezone)
	after.FiscalYearStartMonth = in.Body.FiscalYearStartMonth.or(before.FiscalYearStartMonth)
	if flags := in.Body.FeatureFlags; flags.Set && !flags.Null {
		if after.FeatureFlags, err = json.Marshal(flags.Value); err != nil {
			return nil, err
		}
	}
	saved, err := company.SaveSettings(ctx, tx, c.who(), in.ID, before, after)
	return settingsAnswer(in.ID, saved, err)
}
