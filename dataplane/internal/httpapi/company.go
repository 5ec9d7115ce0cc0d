package httpapi

import (
	"context"
	"encoding/json"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/company"
	"github.com/ouvira/ouvira/shared/pg"
)

// CompanySummary is a company as it stands in lists.
type CompanySummary struct {
	ID              int64   `json:"id"`
	Name            string  `json:"name"`
	Logo            *string `json:"logo"`
	Status          string  `json:"status" enum:"active,deactivated,deleted"`
	ParentCompany   *int64  `json:"parent_company"`
	IsParentCompany bool    `json:"is_parent_company"`
	Entity
}

// Company is one company.
type Company struct {
	CompanySummary
	CreateBy    *int64          `json:"create_by"`
	Description string          `json:"description"`
	Address     string          `json:"address"`
	Settings    CompanySettings `json:"settings"`
}

// CompanySettings are a company's own; id is the company's.
type CompanySettings struct {
	ID                   int64          `json:"id"`
	Company              int64          `json:"company"`
	DefaultLanguage      string         `json:"default_language"`
	DefaultCurrency      string         `json:"default_currency"`
	Timezone             string         `json:"timezone"`
	FiscalYearStartMonth int16          `json:"fiscal_year_start_month"`
	FeatureFlags         map[string]any `json:"feature_flags"`
	Entity
}

func summaryOf(c company.Summary) CompanySummary {
	return CompanySummary{
		ID: c.ID, Name: c.Name, Logo: c.Logo, Status: c.Status, ParentCompany: c.ParentCompanyID,
		IsParentCompany: c.IsParentCompany, Entity: entityOf(c.CreatedAt, c.UpdatedAt, c.DeletedAt),
	}
}

func companyOf(c company.Company) (Company, error) {
	flags := map[string]any{}
	if err := json.Unmarshal(c.Settings.FeatureFlags, &flags); err != nil {
		return Company{}, err
	}
	return Company{
		CompanySummary: summaryOf(c.Summary),
		CreateBy:       c.CreateBy, Description: c.Description, Address: c.Address,
		Settings: CompanySettings{
			ID: c.ID, Company: c.ID, DefaultLanguage: c.Settings.DefaultLanguage, DefaultCurrency: c.Settings.DefaultCurrency,
			Timezone: c.Settings.Timezone, FiscalYearStartMonth: c.Settings.FiscalYearStartMonth, FeatureFlags: flags,
			Entity: entityOf(c.Settings.CreatedAt, c.Settings.UpdatedAt, nil),
		},
	}, nil
}

type companyOutput struct{ Body Company }

func companyAnswer(c company.Company, err error) (*companyOutput, error) {
	if err != nil {
		return nil, err
	}
	body, err := companyOf(c)
	if err != nil {
		return nil, err
	}
	return &companyOutput{body}, nil
}

type listCompaniesOutput struct{ Body Page[CompanySummary] }

func (s *server) listCompanies(ctx context.Context, db pg.Querier, c *caller, in *PageInput) (*listCompaniesOutput, error) {
	limit, offset := in.window()
	companies, count, err := company.List(ctx, db, c.Actor.ID, limit, offset)
	if err != nil {
		return nil, err
	}
	results := make([]CompanySummary, len(companies))
	for i, c := range companies {
		results[i] = summaryOf(c)
	}
	return &listCompaniesOutput{pageOf(s, c.scope, *in, count, results)}, nil
}

type createCompanyInput struct {
	Body struct {
		Name            string `json:"name" minLength:"1" maxLength:"200"`
		Description     string `json:"description,omitempty" maxLength:"5000"`
		Address         string `json:"address,omitempty" maxLength:"1000"`
		ParentCompany   *int64 `json:"parent_company,omitempty" minimum:"1"`
		IsParentCompany bool   `json:"is_parent_company,omitempty"`
	}
}

func (s *server) createCompany(ctx context.Context, tx pgx.Tx, c *caller, in *createCompanyInput) (*companyOutput, error) {
	return companyAnswer(company.Create(ctx, tx, c.Actor.ID, company.New{
		Name: in.Body.Name, Description: in.Body.Description, Address: in.Body.Address,
		ParentCompanyID: in.Body.ParentCompany, IsParentCompany: in.Body.IsParentCompany,
	}))
}

type companyInput struct {
	ID int64 `path:"id" minimum:"1"`
}

func (s *server) getCompany(ctx context.Context, db pg.Querier, c *caller, in *companyInput) (*companyOutput, error) {
	if err := c.require(ctx, db, in.ID); err != nil {
		return nil, err
	}
	return companyAnswer(company.Get(ctx, db, c.Actor.ID, in.ID))
}
