package notification

import (
	"context"
	"fmt"

	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/shared/pg"
)

// RoleGiven tells a user that they hold a role from now on, unless they gave
// it to themselves.
func RoleGiven(ctx context.Context, tx pg.Querier, by audit.Who, userID, companyID int64, role string) error {
	return aboutRole(ctx, tx, by, userID, companyID, "You were given the role %s in %s.", role)
}

// RoleTaken tells a user that they hold a role no more, unless they gave it up.
func RoleTaken(ctx context.Context, tx pg.Querier, by audit.Who, userID, companyID int64, role string) error {
	return aboutRole(ctx, tx, by, userID, companyID, "You no longer have the role %s in %s.", role)
}

func aboutRole(ctx context.Context, tx pg.Querier, by audit.Who, userID, companyID int64, sentence, role string) error {
	if by.UserID != nil && *by.UserID == userID {
		return nil
	}
	company, err := queries.CompanyName(ctx, tx, companyID)
	if err != nil {
		return err
	}
	return Add(ctx, tx, userID, Access, fmt.Sprintf(sentence, role, company))
}
