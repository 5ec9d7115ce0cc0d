package access

import (
	"context"
	"errors"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/access/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// Nobody gives what they do not hold. To give a role one must hold, in the
// company where it is given, all that it grants, and for the whole subtree if
// that is its scope; to take one away, all that it denies, since taking a denial
// away widens. The owner role is given and taken by owners alone.

// Giver is somebody who gives or takes, with a credential that may do less than
// its user, as an API key.
type Giver struct {
	Subject

	// Allows says what the credential leaves of what the user holds.
	Allows func(Standing, Permission) bool
	// Reach says what it leaves of a standing: none where it does not work. Nil
	// leaves all.
	Reach func(context.Context, pg.Querier, Standing) (Standing, error)
}

func (by Giver) reached(ctx context.Context, db pg.Querier, standing Standing, err error) (Standing, error) {
	if err != nil || by.Reach == nil {
		return standing, err
	}
	return by.Reach(ctx, db, standing)
}

func (s *Service) standingOf(ctx context.Context, db pg.Querier, by Giver, companyID int64) (Standing, error) {
	standing, err := s.Standing(ctx, db, by.Subject, companyID)
	return by.reached(ctx, db, standing, err)
}

func (s *Service) atHomeOf(ctx context.Context, db pg.Querier, by Giver) (Standing, error) {
	standing, err := s.AtHome(ctx, db, by.Subject)
	return by.reached(ctx, db, standing, err)
}

// MayAssign tells whether the giver may give the role to somebody in the
// company, with the scope. It is nil, or a fault: 404 for a company that the
// giver does not see, 422 on the field "role" for a role that is not there or is
// another company's, 403 for one that grants more than the giver holds.
//
// Ask it in the transaction that gives: until that ends the role stays as it is.
func (s *Service) MayAssign(ctx context.Context, tx pgx.Tx, by Giver, companyID, roleID int64, scope Scope) error {
	standing, role, err := s.toGive(ctx, tx, by, companyID, roleID)
	if err != nil {
		return err
	}
	if !role.Inside {
		const outside = "This role belongs to another company. Choose one of this company, of one above it, or a system-wide one."
		return fault.Invalid(outside).OnField("role", "outside", outside)
	}
	if role.Owner && (!standing.decision.Owner || scope == ScopeSubtree && !standing.decision.OwnerBelow) {
		return errOwnersOnly()
	}
	return s.mustHold(ctx, tx, by, standing, scope, role.Granted)
}

// MayTake tells whether the giver may take the role away from somebody in the
// company.
func (s *Service) MayTake(ctx context.Context, tx pgx.Tx, by Giver, companyID, roleID int64, scope Scope) error {
	standing, role, err := s.toGive(ctx, tx, by, companyID, roleID)
	if err != nil {
		return err
	}
	if role.Owner && !standing.decision.Owner {
		return errOwnersOnly()
	}
	return s.mustHold(ctx, tx, by, standing, scope, role.Denied)
}

func (s *Service) toGive(ctx context.Context, tx pgx.Tx, by Giver, companyID, roleID int64) (Standing, dbsqlc.RoleToGiveRow, error) {
	standing, err := s.standingOf(ctx, tx, by, companyID)
	if err != nil {
		return Standing{}, dbsqlc.RoleToGiveRow{}, err
	}
	if !standing.Visible {
		return Standing{}, dbsqlc.RoleToGiveRow{}, fault.NotFound("There is no such company, or you are not a member of it.")
	}
	role, err := s.queries.RoleToGive(ctx, tx, dbsqlc.RoleToGiveParams{CompanyID: companyID, RoleID: roleID})
	if errors.Is(err, pgx.ErrNoRows) {
		const unknown = "There is no such role."
		return Standing{}, dbsqlc.RoleToGiveRow{}, fault.Invalid(unknown).OnField("role", "unknown", unknown)
	}
	return standing, role, err
}

// mustHold refuses unless the giver holds the permissions in the company, and
// with the scope of the subtree in all below it.
func (s *Service) mustHold(ctx context.Context, db pg.Querier, by Giver, standing Standing, scope Scope, codes []string) error {
	if len(codes) == 0 {
		return nil
	}
	var deniedBelow []string
	if scope == ScopeSubtree {
		var err error
		deniedBelow, err = s.queries.DeniedBelow(ctx, db, dbsqlc.DeniedBelowParams{CompanyID: standing.companyID, UserID: by.UserID})
		if err != nil {
			return err
		}
	}
	for _, code := range codes {
		p := Permission(code)
		switch {
		case !by.Allows(standing, p):
			return errNotHeld("It takes the permission " + code + ", which you do not hold here yourself.")
		case scope == ScopeSubtree && (!standing.AllowsBelow(p) || slices.Contains(deniedBelow, code)):
			return errNotHeld("It takes the permission " + code + " in every company below too, where you do not hold it yourself. Choose the scope self.")
		}
	}
	return nil
}

func errNotHeld(what string) error {
	return fault.Forbidden("Nobody gives what they do not hold. " + what + " Ask an owner of the company.").Code("not_held")
}

func errOwnersOnly() error {
	return fault.Forbidden("Only an owner of the company may give or take the owner role.").Code("owners_only")
}
