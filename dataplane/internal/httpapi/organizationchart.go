package httpapi

import (
	"context"

	"github.com/ouvira/ouvira/dataplane/internal/organization"
	"github.com/ouvira/ouvira/shared/pg"
)

// Named is something by its id and name.
type Named struct {
	ID   int64  `json:"id"`
	Name string `json:"name"`
}

// NamedUser is a user by their id and name.
type NamedUser struct {
	ID       int64  `json:"id"`
	FullName string `json:"full_name"`
}

// ChartDepartment is a department with what is in it and below it.
type ChartDepartment struct {
	Named

	Code        string            `json:"code" example:"SAL"`
	IsActive    bool              `json:"is_active"`
	Manager     *NamedUser        `json:"manager" doc:"null when there is none who is a member."`
	Positions   []ChartPosition   `json:"positions" nullable:"false"`
	Departments []ChartDepartment `json:"departments" nullable:"false" doc:"Those below it."`
}

// ChartPosition is a position in its department.
type ChartPosition struct {
	Named

	Code      string     `json:"code" example:"AM-N"`
	IsActive  bool       `json:"is_active"`
	JobTitle  Named      `json:"job_title"`
	Location  *Named     `json:"location"`
	ReportsTo *int64     `json:"reports_to" doc:"The position above it."`
	User      *NamedUser `json:"user" doc:"Who holds it; null when it is vacant."`
}

type chartInput struct {
	Company int64 `query:"company" required:"true" minimum:"1"`
}

type chartOutput struct {
	Body struct {
		Company     int64             `json:"company"`
		Departments []ChartDepartment `json:"departments" nullable:"false" doc:"Those at the top."`
	}
}

func (s *server) organizationChart(ctx context.Context, db pg.Querier, c *caller, in *chartInput) (*chartOutput, error) {
	if err := c.require(ctx, db, in.Company); err != nil {
		return nil, err
	}
	top, err := organization.Chart(ctx, db, in.Company)
	if err != nil {
		return nil, err
	}
	var out chartOutput
	out.Body.Company, out.Body.Departments = in.Company, chartOf(top)
	return &out, nil
}

func chartOf(departments []*organization.ChartDepartment) []ChartDepartment {
	chart := make([]ChartDepartment, len(departments))
	for i, d := range departments {
		positions := make([]ChartPosition, len(d.Positions))
		for j, p := range d.Positions {
			positions[j] = ChartPosition{
				Named: Named(p.Named), Code: p.Code, IsActive: p.IsActive, JobTitle: Named(p.JobTitle),
				Location: (*Named)(p.Location), ReportsTo: p.ReportsTo, User: userNamed(p.User),
			}
		}
		chart[i] = ChartDepartment{
			Named: Named(d.Named), Code: d.Code, IsActive: d.IsActive, Manager: userNamed(d.Manager),
			Positions: positions, Departments: chartOf(d.Departments),
		}
	}
	return chart
}

func userNamed(n *organization.Named) *NamedUser {
	if n == nil {
		return nil
	}
	return &NamedUser{n.ID, n.Name}
}
