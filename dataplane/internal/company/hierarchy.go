package company

import (
	"context"

	"github.com/ouvira/ouvira/dataplane/internal/company/dbsqlc"
	"github.com/ouvira/ouvira/shared/pg"
)

// Branch is a company with what is below it.
type Branch struct {
	Summary

	Children []*Branch
}

// Tree is a company with everything below it that the user sees. Where they
// see a company and not the one between, it hangs from the next one above.
func Tree(ctx context.Context, db pg.Querier, userID, id int64) (*Branch, error) {
	rows, err := queries.VisibleBelow(ctx, db, dbsqlc.VisibleBelowParams{ID: id, UserID: userID})
	if err != nil {
		return nil, err
	}
	seen := make(map[int64]*Branch, len(rows))
	for _, row := range rows { // parents come before their children
		branch := &Branch{Summary: Summary{
			ID: row.ID, Name: row.Name, Logo: row.Logo, Status: row.Status, ParentCompanyID: row.ParentCompanyID, IsParentCompany: row.IsParentCompany,
			CreatedAt: row.CreatedAt, UpdatedAt: row.UpdatedAt, DeletedAt: row.DeletedAt, Active: row.Active,
		}}
		seen[row.ID] = branch
		for _, ancestor := range row.Above { // the nearest first
			if over, ok := seen[ancestor]; ok {
				over.Children = append(over.Children, branch)
				break
			}
		}
	}
	if seen[id] == nil {
		return nil, absent()
	}
	return seen[id], nil
}
