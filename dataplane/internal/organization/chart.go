package organization

import (
	"context"
	"fmt"

	"github.com/ouvira/ouvira/dataplane/internal/organization/dbsqlc"
	"github.com/ouvira/ouvira/shared/pg"
)

// Named is something by its id and name.
type Named struct {
	ID   int64
	Name string
}

// ChartDepartment is a department with what is in it and below it.
type ChartDepartment struct {
	Named

	Code        string
	IsActive    bool
	Manager     *Named // nil when there is none, or none who is still a member
	Positions   []ChartPosition
	Departments []*ChartDepartment
}

// ChartPosition is a position in a chart.
type ChartPosition struct {
	Named

	Code      string
	IsActive  bool
	JobTitle  Named
	Location  *Named
	ReportsTo *int64
	User      *Named // nil when vacant, or held by one who is no member any more
}

var queries dbsqlc.Queries

// Chart is a company's departments, those at the top with what is below them.
func Chart(ctx context.Context, db pg.Querier, companyID int64) ([]*ChartDepartment, error) {
	departments, err := queries.ChartDepartments(ctx, db, companyID)
	if err != nil {
		return nil, fmt.Errorf("read the departments of a chart: %w", err)
	}
	positions, err := queries.ChartPositions(ctx, db, companyID)
	if err != nil {
		return nil, fmt.Errorf("read the positions of a chart: %w", err)
	}
	byID := make(map[int64]*ChartDepartment, len(departments))
	for _, d := range departments {
		byID[d.ID] = &ChartDepartment{
			Named: Named{d.ID, d.Name}, Code: d.Code, IsActive: d.IsActive, Manager: named(d.ManagerID, d.ManagerName),
			Positions: []ChartPosition{}, Departments: []*ChartDepartment{},
		}
	}
	for _, p := range positions {
		if in := byID[p.DepartmentID]; in != nil {
			in.Positions = append(in.Positions, ChartPosition{
				Named: Named{p.ID, p.Name}, Code: p.Code, IsActive: p.IsActive, JobTitle: Named{p.JobTitleID, p.JobTitleName},
				Location: named(p.LocationID, p.LocationName), ReportsTo: p.ReportsToID, User: named(p.UserID, p.UserName),
			})
		}
	}
	top := []*ChartDepartment{}
	for _, d := range departments {
		if d.ParentID != nil && byID[*d.ParentID] != nil {
			above := byID[*d.ParentID]
			above.Departments = append(above.Departments, byID[d.ID])
		} else {
			top = append(top, byID[d.ID])
		}
	}
	return top, nil
}

func named(id *int64, name string) *Named {
	if id == nil {
		return nil
	}
	return &Named{*id, name}
}
