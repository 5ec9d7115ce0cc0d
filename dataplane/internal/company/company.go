// Package company holds the companies of a tenant: a forest of companies and
// subsidiaries, their settings, and who founded them.
//
// A user sees a company as a member of it, or as a member of one above it with
// a role that reaches the subtree; what a user cannot see does not exist for
// them. Whoever makes a company becomes a member of it with the owner role, in
// the same transaction.
package company

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/company/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// StatusActive is the status of a company in normal use.
const StatusActive = "active"

// Summary is a company as it stands in lists.
type Summary struct {
	ID              int64
	Name            string
	Logo            *string
	Status          string
	ParentCompanyID *int64
	IsParentCompany bool
	CreatedAt       time.Time
	UpdatedAt       time.Time
	DeletedAt       *time.Time
}

// Company is one company with its settings.
type Company struct {
	Summary

	Description string
	Address     string
	CreateBy    *int64
	Settings    Settings
}

// Settings of a company.
type Settings struct {
	DefaultLanguage      string
	DefaultCurrency      string
	Timezone             string
	FiscalYearStartMonth int16
	FeatureFlags         json.RawMessage
	CreatedAt            time.Time
	UpdatedAt            time.Time
}

// New is what a company is made of.
type New struct {
	Name            string
	Description     string
	Address         string
	ParentCompanyID *int64
	IsParentCompany bool
}

var queries dbsqlc.Queries

// Create makes a company. Anyone may found one of their own; under another
// one it takes its owner or an admin.
func Create(ctx context.Context, tx pgx.Tx, actorID int64, in New) (Company, error) {
	in.Name = strings.TrimSpace(in.Name)
	if in.Name == "" {
		return Company{}, fault.Invalid("The name must not be empty.").OnField("name", "required", "This must not be empty.")
	}
	if err := queries.LockUser(ctx, tx, actorID); err != nil {
		return Company{}, err
	}
	if in.ParentCompanyID != nil {
		if err := checkParent(ctx, tx, actorID, *in.ParentCompanyID); err != nil {
			return Company{}, err
		}
	}
	row, err := queries.Create(ctx, tx, dbsqlc.CreateParams{
		Name: in.Name, Description: in.Description, Address: in.Address,
		ParentCompanyID: in.ParentCompanyID, IsParentCompany: in.IsParentCompany, CreateBy: actorID,
	})
	if err != nil {
		return Company{}, err
	}
	settings, err := queries.CreateSettings(ctx, tx, row.ID)
	if err != nil {
		return Company{}, err
	}
	if err := queries.AddOwner(ctx, tx, dbsqlc.AddOwnerParams{UserID: actorID, CompanyID: row.ID}); err != nil {
		return Company{}, err
	}
	return Company{
		Summary: Summary{
			ID: row.ID, Name: row.Name, Logo: row.Logo, Status: row.Status, ParentCompanyID: row.ParentCompanyID,
			IsParentCompany: row.IsParentCompany, CreatedAt: row.CreatedAt, UpdatedAt: row.UpdatedAt, DeletedAt: row.DeletedAt,
		},
		Description: row.Description, Address: row.Address, CreateBy: row.CreateBy,
		Settings: Settings{
			DefaultLanguage: settings.DefaultLanguage, DefaultCurrency: settings.DefaultCurrency, Timezone: settings.Timezone,
			FiscalYearStartMonth: settings.FiscalYearStartMonth, FeatureFlags: settings.FeatureFlags,
			CreatedAt: settings.CreatedAt, UpdatedAt: settings.UpdatedAt,
		},
	}, nil
}

// checkParent says whether the actor may make a company under the parent. A
// parent that they cannot see is none.
func checkParent(ctx context.Context, tx pgx.Tx, actorID, parentID int64) error {
	const unknown = "There is no such company, or you are not a member of it."
	absent := fault.Invalid(unknown).OnField("parent_company", "unknown", unknown)
	if _, err := queries.LockParent(ctx, tx, parentID); errors.Is(err, pgx.ErrNoRows) {
		return absent
	} else if err != nil {
		return err
	}
	if _, err := Get(ctx, tx, actorID, parentID); fault.Is(err, fault.KindNotFound) {
		return absent
	} else if err != nil {
		return err
	}
	allowed, err := queries.MayCreateUnder(ctx, tx, dbsqlc.MayCreateUnderParams{CompanyID: parentID, UserID: actorID})
	if err != nil {
		return err
	}
	if !allowed {
		return fault.Forbidden("Only owners and admins of a company may make one under it. Ask one of them.")
	}
	deactivated, err := queries.AncestorDeactivated(ctx, tx, parentID)
	if err != nil {
		return err
	}
	if deactivated {
		return fault.Conflict("The parent company, or one above it, is deactivated. Activate it first.").Code("company_deactivated")
	}
	return nil
}

// Get is one company that the actor can see.
func Get(ctx context.Context, db pg.Querier, actorID, id int64) (Company, error) {
	row, err := queries.GetVisible(ctx, db, dbsqlc.GetVisibleParams{CompanyID: id, UserID: actorID})
	if errors.Is(err, pgx.ErrNoRows) {
		return Company{}, fault.NotFound("There is no such company, or you are not a member of it.")
	}
	if err != nil {
		return Company{}, err
	}
	return Company{
		Summary: Summary{
			ID: row.ID, Name: row.Name, Logo: row.Logo, Status: row.Status, ParentCompanyID: row.ParentCompanyID,
			IsParentCompany: row.IsParentCompany, CreatedAt: row.CreatedAt, UpdatedAt: row.UpdatedAt, DeletedAt: row.DeletedAt,
		},
		Description: row.Description, Address: row.Address, CreateBy: row.CreateBy,
		Settings: Settings{
			DefaultLanguage: row.DefaultLanguage, DefaultCurrency: row.DefaultCurrency, Timezone: row.Timezone,
			FiscalYearStartMonth: row.FiscalYearStartMonth, FeatureFlags: row.FeatureFlags,
			CreatedAt: row.SettingsCreatedAt, UpdatedAt: row.SettingsUpdatedAt,
		},
	}, nil
}

// List is a page of the companies that the actor can see, and how many there
// are in all.
func List(ctx context.Context, db pg.Querier, actorID int64, limit, offset int32) ([]Summary, int64, error) {
	count, err := queries.CountVisible(ctx, db, actorID)
	if err != nil {
		return nil, 0, err
	}
	rows, err := queries.ListVisible(ctx, db, dbsqlc.ListVisibleParams{UserID: actorID, MaxRows: limit, SkipRows: offset})
	if err != nil {
		return nil, 0, err
	}
	companies := make([]Summary, len(rows))
	for i, row := range rows {
		companies[i] = Summary(row)
	}
	return companies, count, nil
}
