// Package organization is how a company is made up: departments, job titles,
// locations, and positions that hold them together.
//
// It promises: what is of one company refers to what is of the same company
// and not deleted; nothing is above itself; what others refer to cannot be
// deleted. The database holds to it too, whoever writes.
//
// The four kinds differ in their fields alone. A kind's struct of fields says
// by tags what to do with each: "db" is its column, "refers" the table that it
// points into, "json" how callers know it, "audit" how it is recorded; the
// others describe it in the API's document.
package organization

import (
	"github.com/ouvira/ouvira/dataplane/internal/audit"
)

// Department of a company. Departments make a tree.
type Department struct {
	Name        string `json:"name" db:"name" audit:"show" minLength:"1" maxLength:"200" example:"Sales"`
	Code        string `json:"code" db:"code" audit:"show" required:"false" maxLength:"50" doc:"Short, and once among the company's departments; may be empty." example:"SAL"`
	Description string `json:"description" db:"description" audit:"show" required:"false" maxLength:"5000"`
	Parent      *int64 `json:"parent_department" db:"parent_id" refers:"departments" audit:"show" required:"false" nullable:"true" minimum:"1" doc:"The department that it is part of."`
	Manager     *int64 `json:"manager" db:"manager_id" refers:"user_companies" audit:"show" required:"false" nullable:"true" minimum:"1" doc:"A user who is a member of the company."`
	IsActive    bool   `json:"is_active" db:"is_active" audit:"show" required:"false"`
}

// JobTitle of a company.
type JobTitle struct {
	Name        string `json:"name" db:"name" audit:"show" minLength:"1" maxLength:"200" example:"Account manager"`
	Code        string `json:"code" db:"code" audit:"show" required:"false" maxLength:"50" doc:"Short, and once among the company's job titles; may be empty." example:"AM"`
	Description string `json:"description" db:"description" audit:"show" required:"false" maxLength:"5000"`
	IsActive    bool   `json:"is_active" db:"is_active" audit:"show" required:"false"`
}

// Location of a company.
type Location struct {
	Name        string `json:"name" db:"name" audit:"show" minLength:"1" maxLength:"200" example:"Hamburg"`
	Code        string `json:"code" db:"code" audit:"show" required:"false" maxLength:"50" doc:"Short, and once among the company's locations; may be empty." example:"HAM"`
	Description string `json:"description" db:"description" audit:"show" required:"false" maxLength:"5000"`
	Address     string `json:"address" db:"address" audit:"show" required:"false" maxLength:"1000"`
	IsActive    bool   `json:"is_active" db:"is_active" audit:"show" required:"false"`
}

// Position in a company: a place in a department for one person.
type Position struct {
	Name        string `json:"name" db:"name" audit:"show" minLength:"1" maxLength:"200" example:"Account manager North"`
	Code        string `json:"code" db:"code" audit:"show" required:"false" maxLength:"50" doc:"Short, and once among the company's positions; may be empty." example:"AM-N"`
	Description string `json:"description" db:"description" audit:"show" required:"false" maxLength:"5000"`
	Department  int64  `json:"department" db:"department_id" refers:"departments" audit:"show" minimum:"1"`
	JobTitle    int64  `json:"job_title" db:"job_title_id" refers:"job_titles" audit:"show" minimum:"1"`
	Location    *int64 `json:"location" db:"location_id" refers:"locations" audit:"show" required:"false" nullable:"true" minimum:"1"`
	ReportsTo   *int64 `json:"reports_to" db:"reports_to_id" refers:"positions" audit:"show" required:"false" nullable:"true" minimum:"1" doc:"The position above it."`
	User        *int64 `json:"user" db:"user_id" refers:"user_companies" audit:"show" required:"false" nullable:"true" minimum:"1" doc:"Who holds it, a member of the company; null: vacant."`
	IsActive    bool   `json:"is_active" db:"is_active" audit:"show" required:"false"`
}

// The kinds.
var (
	Departments = Kind[Department]{
		Defaults: Department{IsActive: true}, one: "department", table: "departments", recorded: audit.Of[Department]("department"),
		referrers: []referrer{{"departments", "parent_id", "departments below it"}, {"positions", "department_id", "positions in it"}},
	}
	JobTitles = Kind[JobTitle]{
		Defaults: JobTitle{IsActive: true}, one: "job title", table: "job_titles", recorded: audit.Of[JobTitle]("job_title"),
		referrers: []referrer{{"positions", "job_title_id", "positions with it"}},
	}
	Locations = Kind[Location]{
		Defaults: Location{IsActive: true}, one: "location", table: "locations", recorded: audit.Of[Location]("location"),
		referrers: []referrer{{"positions", "location_id", "positions at it"}},
	}
	Positions = Kind[Position]{
		Defaults: Position{IsActive: true}, one: "position", table: "positions", recorded: audit.Of[Position]("position"),
		referrers: []referrer{{"positions", "reports_to_id", "positions that report to it"}},
	}
)
