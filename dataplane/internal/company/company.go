// Package company holds the companies of a tenant: a forest of companies and
// subsidiaries, their settings, and who belongs to them.
//
// A user sees a company as a member of it, or as a member of one above it with
// a role that reaches the subtree; what a user cannot see does not exist for
// them. Whoever makes a company becomes a member of it with the owner role, in
// the same transaction, and a company always keeps an owner: the database
// refuses the change that would take the last one away.
//
// A company under a deactivated one is as good as deactivated itself. What the
// actor may do is asked before these functions are called (package access);
// they keep what is true of companies whoever asks.
package company

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/dataplane/internal/company/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// The statuses of a company.
const (
	StatusActive      = "active"
	StatusDeactivated = "deactivated"
)

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
	Active          bool // it, and each one above it
}

// EffectiveStatus is the worst status among the company and those above it.
func (s Summary) EffectiveStatus() string {
	if s.Status == StatusActive && !s.Active {
		return StatusDeactivated
	}
	return s.Status
}

// Company is one company with its settings.
type Company struct {
	Summary

	Description string
	Address     string
	CreateBy    *int64
	Settings    Settings
}

// New is what a company is made of.
type New struct {
	Name            string
	Logo            *string
	Description     string
	Address         string
	ParentCompanyID *int64
	IsParentCompany bool
}

// record is what the audit keeps of a company.
type record struct {
	Name            string  `audit:"show" json:"name"`
	Logo            *string `audit:"show" json:"logo"`
	Description     string  `audit:"show" json:"description"`
	Address         string  `audit:"show" json:"address"`
	ParentCompany   *int64  `audit:"show" json:"parent_company"`
	IsParentCompany bool    `audit:"show" json:"is_parent_company"`
	Status          string  `audit:"show" json:"status"`
}

var companies = audit.Of[record]("company")

func (c Company) record() record {
	return record{c.Name, c.Logo, c.Description, c.Address, c.ParentCompanyID, c.IsParentCompany, c.Status}
}

var queries dbsqlc.Queries

// Create makes a company, owned by the actor.
func Create(ctx context.Context, tx pgx.Tx, who audit.Who, ownerID int64, in New) (Company, error) {
	name, err := cleanName(in.Name)
	if err != nil {
		return Company{}, err
	}
	if err := checkLogo(in.Logo); err != nil {
		return Company{}, err
	}
	if err := queries.LockUser(ctx, tx, ownerID); err != nil {
		return Company{}, err
	}
	id, err := queries.Create(ctx, tx, dbsqlc.CreateParams{
		Name: name, Logo: in.Logo, Description: in.Description, Address: in.Address,
		ParentCompanyID: in.ParentCompanyID, IsParentCompany: in.IsParentCompany, CreateBy: ownerID,
	})
	if err != nil {
		return Company{}, err
	}
	if err := queries.CreateSettings(ctx, tx, id); err != nil {
		return Company{}, err
	}
	if err := queries.AddOwner(ctx, tx, dbsqlc.AddOwnerParams{UserID: ownerID, CompanyID: id}); err != nil {
		return Company{}, err
	}
	made, err := Get(ctx, tx, id)
	if err != nil {
		return Company{}, err
	}
	return made, companies.Created(ctx, tx, who, &id, id, made.record())
}

// Get is one company; which one may be seen is the caller's business.
func Get(ctx context.Context, db pg.Querier, id int64) (Company, error) {
	row, err := queries.Get(ctx, db, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return Company{}, absent()
	}
	if err != nil {
		return Company{}, err
	}
	return Company{
		Summary: Summary{
			ID: row.ID, Name: row.Name, Logo: row.Logo, Status: row.Status, ParentCompanyID: row.ParentCompanyID,
			IsParentCompany: row.IsParentCompany, CreatedAt: row.CreatedAt, UpdatedAt: row.UpdatedAt, DeletedAt: row.DeletedAt, Active: row.Active,
		},
		Description: row.Description, Address: row.Address, CreateBy: row.CreateBy,
		Settings: Settings{
			DefaultLanguage: row.DefaultLanguage, DefaultCurrency: row.DefaultCurrency, Timezone: row.Timezone,
			FiscalYearStartMonth: row.FiscalYearStartMonth, FeatureFlags: row.FeatureFlags,
			CreatedAt: row.SettingsCreatedAt, UpdatedAt: row.SettingsUpdatedAt,
		},
	}, nil
}

func absent() error {
	return fault.NotFound("There is no such company, or you are not a member of it.")
}

// List is a page of the companies that the user can see, and how many there
// are in all; only of those within, unless that is nil.
func List(ctx context.Context, db pg.Querier, userID int64, within []int64, limit, offset int32) ([]Summary, int64, error) {
	count, err := queries.CountVisible(ctx, db, dbsqlc.CountVisibleParams{Within: within, UserID: userID})
	if err != nil {
		return nil, 0, err
	}
	rows, err := queries.ListVisible(ctx, db, dbsqlc.ListVisibleParams{Within: within, UserID: userID, MaxRows: limit, SkipRows: offset})
	if err != nil {
		return nil, 0, err
	}
	page := make([]Summary, len(rows))
	for i, row := range rows {
		page[i] = Summary(row)
	}
	return page, count, nil
}

// Lock reads a company that is about to change, and keeps others from changing
// it meanwhile; also the one under which it is to come, if any. A company that
// is gone is a fault of kind NotFound, a parent that is gone names the field.
func Lock(ctx context.Context, tx pgx.Tx, id int64, under *int64) (Company, error) {
	wanted := []int64{id}
	if under != nil && *under != id {
		wanted = append(wanted, *under)
	}
	locked, err := queries.LockCompanies(ctx, tx, wanted)
	if err != nil {
		return Company{}, err
	}
	for _, there := range wanted {
		switch {
		case slices.Contains(locked, there):
		case there == id:
			return Company{}, absent()
		default:
			return Company{}, NoParent()
		}
	}
	return Get(ctx, tx, id)
}

// LockParent keeps a company under which another is made from being deleted or
// deactivated meanwhile.
func LockParent(ctx context.Context, tx pgx.Tx, id int64) error {
	_, err := queries.LockParent(ctx, tx, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return NoParent()
	}
	return err
}

// NoParent refuses a parent that is not there, or not for the caller.
func NoParent() error {
	const message = "There is no such company, or you are not a member of it."
	return fault.Invalid(message).OnField("parent_company", "unknown", message)
}

// Deactivated refuses a change in a company that is not in use.
func Deactivated() error {
	return fault.Conflict("The company, or one above it, is deactivated. Activate it first.").Code("company_deactivated")
}

// Save stores what has changed since Lock. A company that is deactivated, or
// below one, does not change, except that it is activated again once all above
// it are active.
func Save(ctx context.Context, tx pgx.Tx, who audit.Who, before, after Company) (Company, error) {
	name, err := cleanName(after.Name)
	if err != nil {
		return Company{}, err
	}
	if err := checkLogo(after.Logo); err != nil {
		return Company{}, err
	}
	above, err := queries.ActiveAbove(ctx, tx, before.ID)
	if err != nil {
		return Company{}, err
	}
	if !above || (before.Status != StatusActive && after.Status != StatusActive) {
		return Company{}, Deactivated()
	}
	if moved := !same(before.ParentCompanyID, after.ParentCompanyID); moved && after.ParentCompanyID != nil {
		parent, err := Get(ctx, tx, *after.ParentCompanyID)
		if err != nil {
			return Company{}, err
		}
		if !parent.Active {
			return Company{}, Deactivated()
		}
	}
	err = queries.Update(ctx, tx, dbsqlc.UpdateParams{
		ID: before.ID, Name: name, Logo: after.Logo, Description: after.Description, Address: after.Address,
		ParentCompanyID: after.ParentCompanyID, IsParentCompany: after.IsParentCompany, Status: after.Status,
	})
	switch pg.Constraint(err) {
	case "companies_no_cycle_check", "companies_parent_company_id_check":
		const message = "A company cannot come under itself, nor under one of its subsidiaries."
		return Company{}, fault.Conflict(message).Code("company_cycle").OnField("parent_company", "cycle", message).Because(err)
	}
	if err != nil {
		return Company{}, err
	}
	saved, err := Get(ctx, tx, before.ID)
	if err != nil {
		return Company{}, err
	}
	return saved, companies.Updated(ctx, tx, who, &saved.ID, saved.ID, before.record(), saved.record())
}

// Delete takes a company out of use for good, whatever its status. Its records
// stay; what was pending in it ends.
func Delete(ctx context.Context, tx pgx.Tx, who audit.Who, id int64) error {
	gone, err := Lock(ctx, tx, id, nil)
	if err != nil {
		return err
	}
	occupied, err := queries.HasSubsidiaries(ctx, tx, &id)
	if err != nil {
		return err
	}
	if occupied {
		return fault.Conflict("The company has subsidiaries. Delete them first, or move them elsewhere.").Code("has_subsidiaries")
	}
	if err := queries.Delete(ctx, tx, id); err != nil {
		return err
	}
	if err := queries.RevokeInvitations(ctx, tx, id); err != nil {
		return err
	}
	bereft, err := queries.FreePrimary(ctx, tx, id)
	if err != nil {
		return err
	}
	if len(bereft) > 0 {
		if err := queries.ChoosePrimary(ctx, tx, bereft); err != nil {
			return err
		}
	}
	return companies.Deleted(ctx, tx, who, &id, id, gone.record())
}

// checkLogo refuses what a browser would run or read from its own machine.
func checkLogo(logo *string) error {
	if logo == nil {
		return nil
	}
	u, err := url.Parse(*logo)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.User != nil {
		const message = "This must be the address of a picture, beginning with https:// or http://."
		return fault.Invalid(message).OnField("logo", "url", message)
	}
	return nil
}

func cleanName(name string) (string, error) {
	name = strings.TrimSpace(name)
	if name == "" {
		return "", fault.Invalid("The name must not be empty.").OnField("name", "required", "This must not be empty.")
	}
	return name, nil
}

func same[T comparable](a, b *T) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}
