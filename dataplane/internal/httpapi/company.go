package httpapi

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/access"
	"github.com/ouvira/ouvira/dataplane/internal/company"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// CompanySummary is a company as it stands in lists.
type CompanySummary struct {
	ID              int64   `json:"id"`
	Name            string  `json:"name"`
	Logo            *string `json:"logo"`
	Status          string  `json:"status" enum:"active,deactivated,deleted"`
	EffectiveStatus string  `json:"effective_status" enum:"active,deactivated,deleted" doc:"The worst among the company and those above it; writes want it active."`
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

func summaryOf(c company.Summary) CompanySummary {
	return CompanySummary{
		ID: c.ID, Name: c.Name, Logo: c.Logo, Status: c.Status, EffectiveStatus: c.EffectiveStatus(), ParentCompany: c.ParentCompanyID,
		IsParentCompany: c.IsParentCompany, Entity: entityOf(c.CreatedAt, c.UpdatedAt, c.DeletedAt),
	}
}

type companyOutput struct {
	ETagged

	Body Company
}

func companyAnswer(c company.Company, err error) (*companyOutput, error) {
	if err != nil {
		return nil, err
	}
	settings, err := settingsOf(c.ID, c.Settings)
	if err != nil {
		return nil, err
	}
	return &companyOutput{etagged(c.UpdatedAt), Company{
		CompanySummary: summaryOf(c.Summary), CreateBy: c.CreateBy, Description: c.Description, Address: c.Address, Settings: settings,
	}}, nil
}

type listCompaniesOutput struct{ Body Page[CompanySummary] }

func (s *server) listCompanies(ctx context.Context, db pg.Querier, c *caller, in *PageInput) (*listCompaniesOutput, error) {
	within, err := c.sees(ctx, db)
	if err != nil {
		return nil, err
	}
	limit, offset := in.window()
	companies, count, err := company.List(ctx, db, c.ID, within, limit, offset)
	if err != nil {
		return nil, err
	}
	return &listCompaniesOutput{pageOf(s, c.scope, *in, count, each(companies, summaryOf))}, nil
}

type createCompanyInput struct {
	Body struct {
		Name            string  `json:"name" minLength:"1" maxLength:"200"`
		Logo            *string `json:"logo,omitempty" maxLength:"2048" doc:"The address of a picture, http or https." example:"https://cdn.example.com/logo.png"`
		Description     string  `json:"description,omitempty" maxLength:"5000"`
		Address         string  `json:"address,omitempty" maxLength:"1000"`
		ParentCompany   *int64  `json:"parent_company,omitempty" minimum:"1"`
		IsParentCompany bool    `json:"is_parent_company,omitempty"`
	}
}

// createCompany: anyone may found a company of their own; under another it
// takes company.create there.
func (s *server) createCompany(ctx context.Context, tx pgx.Tx, c *caller, in *createCompanyInput) (*companyOutput, error) {
	if in.Body.ParentCompany != nil {
		if err := company.LockParent(ctx, tx, *in.Body.ParentCompany); err != nil {
			return nil, err
		}
		if err := c.requireParent(ctx, tx, *in.Body.ParentCompany); err != nil {
			return nil, err
		}
	}
	return companyAnswer(company.Create(ctx, tx, c.who(), c.ID, company.New{
		Name: in.Body.Name, Logo: in.Body.Logo, Description: in.Body.Description, Address: in.Body.Address,
		ParentCompanyID: in.Body.ParentCompany, IsParentCompany: in.Body.IsParentCompany,
	}))
}

// requireParent asks whether the caller may put a company under another. One
// that they cannot see is wrong in the field that names it.
func (c *caller) requireParent(ctx context.Context, tx pgx.Tx, id int64) error {
	return unseen(c.requireAlso(ctx, tx, id, access.CompanyCreate), company.NoParent())
}

func (s *server) getCompany(ctx context.Context, db pg.Querier, c *caller, in *IDPath) (*companyOutput, error) {
	if err := c.require(ctx, db, in.ID); err != nil {
		return nil, err
	}
	return companyAnswer(company.Get(ctx, db, in.ID))
}

// CompanyFields is what a change of a company may hold beside its name.
type CompanyFields struct {
	Logo            optional[string] `json:"logo,omitzero" maxLength:"2048" doc:"The address of a picture, http or https; null takes it away."`
	Description     optional[string] `json:"description,omitzero" maxLength:"5000"`
	Address         optional[string] `json:"address,omitzero" maxLength:"1000"`
	ParentCompany   optional[int64]  `json:"parent_company,omitzero" minimum:"1" doc:"Moves the company; null makes it stand by itself."`
	IsParentCompany optional[bool]   `json:"is_parent_company,omitzero"`
	Status          optional[string] `json:"status,omitzero" enum:"active,deactivated"`
}

type replaceCompanyInput struct {
	IDPath
	IfMatch
	Body struct {
		Name string `json:"name" minLength:"1" maxLength:"200"`
		CompanyFields
	}
}

type patchCompanyInput struct {
	IDPath
	IfMatch
	Body struct {
		Name optional[string] `json:"name,omitzero" minLength:"1" maxLength:"200"`
		CompanyFields
	}
}

func (s *server) replaceCompany(ctx context.Context, tx pgx.Tx, c *caller, in *replaceCompanyInput) (*companyOutput, error) {
	return s.changeCompany(ctx, tx, c, in.ID, in.IfMatch, optional[string]{Set: true, Value: in.Body.Name}, in.Body.CompanyFields)
}

func (s *server) patchCompany(ctx context.Context, tx pgx.Tx, c *caller, in *patchCompanyInput) (*companyOutput, error) {
	return s.changeCompany(ctx, tx, c, in.ID, in.IfMatch, in.Body.Name, in.Body.CompanyFields)
}

func (s *server) changeCompany(ctx context.Context, tx pgx.Tx, c *caller, id int64, match IfMatch, name optional[string], in CompanyFields) (*companyOutput, error) {
	if err := c.require(ctx, tx, id); err != nil {
		return nil, err
	}
	before, err := company.Lock(ctx, tx, id, in.ParentCompany.pointer(nil))
	if err != nil {
		return nil, err
	}
	if err := match.check(before.UpdatedAt); err != nil {
		return nil, err
	}
	after := before
	after.Name = name.or(before.Name)
	after.Logo = in.Logo.pointer(before.Logo)
	after.Description = in.Description.or(before.Description)
	after.Address = in.Address.or(before.Address)
	after.ParentCompanyID = in.ParentCompany.pointer(before.ParentCompanyID)
	after.IsParentCompany = in.IsParentCompany.or(before.IsParentCompany)
	after.Status = in.Status.or(before.Status)
	if err := c.mayMove(ctx, tx, before, after); err != nil {
		return nil, err
	}
	return companyAnswer(company.Save(ctx, tx, c.who(), before, after))
}

// mayMove tells whether the caller may hang a company somewhere else. Whoever
// rules the new parent rules the company from then on, and whoever ruled the
// old one does no more: so it takes the right to give the company away
// altogether, the one to build under the new parent, and the one to change the
// old. The home company never moves: who would come above it would rule the
// tenant.
func (c *caller) mayMove(ctx context.Context, tx pgx.Tx, before, after company.Company) error {
	from, to := before.ParentCompanyID, after.ParentCompanyID
	if from == to || (from != nil && to != nil && *from == *to) {
		return nil
	}
	if err := c.notHome(ctx, tx, before.ID, "moved"); err != nil {
		return err
	}
	if err := c.requireAlso(ctx, tx, before.ID, access.CompanyDelete); err != nil {
		return err
	}
	if to != nil {
		if err := c.requireParent(ctx, tx, *to); err != nil {
			return err
		}
	}
	if from == nil {
		return nil
	}
	allowed, err := c.may(ctx, tx, *from, access.CompanyEdit)
	if err == nil && !allowed {
		err = fault.Forbidden("The company stands under another one. Moving it needs the permission company.edit there; ask an administrator of that company.").Code("permission_denied")
	}
	return err
}

// notHome protects the company that was made with the tenant.
func (c *caller) notHome(ctx context.Context, tx pgx.Tx, id int64, done string) error {
	home, err := c.server.Access.Home(ctx, tx)
	if err == nil && home == id {
		err = fault.Conflict("This is the workspace's first company, from which the workspace is run. It cannot be " + done + ".").Code("home_company")
	}
	return err
}

func (s *server) deleteCompany(ctx context.Context, tx pgx.Tx, c *caller, in *IDPath) (*struct{}, error) {
	if err := c.require(ctx, tx, in.ID); err != nil {
		return nil, err
	}
	if err := c.notHome(ctx, tx, in.ID, "deleted"); err != nil {
		return nil, err
	}
	return nil, company.Delete(ctx, tx, c.who(), in.ID)
}

// CompanyNode is a company with those below it.
type CompanyNode struct {
	CompanySummary
	Children []CompanyNode `json:"children"`
}

type companyTreeOutput struct{ Body CompanyNode }

func (s *server) companyTree(ctx context.Context, db pg.Querier, c *caller, in *IDPath) (*companyTreeOutput, error) {
	if err := c.require(ctx, db, in.ID); err != nil {
		return nil, err
	}
	tree, err := company.Tree(ctx, db, c.ID, in.ID)
	if err != nil {
		return nil, err
	}
	return &companyTreeOutput{nodeOf(tree)}, nil
}

func nodeOf(b *company.Branch) CompanyNode {
	node := CompanyNode{CompanySummary: summaryOf(b.Summary), Children: make([]CompanyNode, len(b.Children))}
	for i, child := range b.Children {
		node.Children[i] = nodeOf(child)
	}
	return node
}
