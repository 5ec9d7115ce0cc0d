package httpapi

import (
	"context"
	"fmt"
	"slices"

	"github.com/ouvira/ouvira/dataplane/internal/access"
	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// caller is who makes a request, and the way to ask what they may do. It
// belongs to the request.
type caller struct {
	*scope
	identity.Actor

	server *server
	op     *operation
	writes bool // the operation changes things
	asked  bool // the declared permission has been asked for
}

func (c *caller) subject() access.Subject {
	r := c.tenant.Route
	return access.Subject{Tenant: r.TenantID, TokenEpoch: r.TokenEpoch, UserID: c.ID, AuthzEpoch: c.AuthzEpoch, At: c.AskedAt}
}

// who is the caller as the audit writes them down.
func (c *caller) who() audit.Who {
	who := audit.Who{UserID: &c.ID, Display: c.FullName, IP: c.client.IP, RequestID: c.client.RequestID}
	if c.Key != nil {
		who.OnBehalf = "API key " + c.Key.Name
	}
	if c.Support != nil {
		who.OnBehalf = c.Support.Operator
	}
	return who
}

// standing is what the caller may do in a company. A key sees the companies
// that it works in.
func (c *caller) standing(ctx context.Context, db pg.Querier, companyID int64) (access.Standing, error) {
	standing, err := c.server.Access.Standing(ctx, db, c.subject(), companyID)
	if err != nil || c.Key == nil {
		return standing, err
	}
	return c.reached(ctx, db, standing)
}

// reached is the standing where the key works, and none elsewhere.
func (c *caller) reached(ctx context.Context, db pg.Querier, standing access.Standing) (access.Standing, error) {
	reaches, err := c.server.Identity.KeyReaches(ctx, db, c.Key, standing.CompanyID())
	if err != nil || !reaches {
		return access.Standing{}, err
	}
	return standing, nil
}

// require refuses the request unless the caller holds the operation's declared
// permission in the company: 404 for a company that they cannot see, 403 for
// one that they can. Writes in a company that is deactivated, or below one, are
// refused with 409.
func (c *caller) require(ctx context.Context, db pg.Querier, companyID int64) error {
	c.asked = true
	return c.requireAlso(ctx, db, companyID, c.op.permission)
}

// requireAlso asks for another permission than the declared one.
func (c *caller) requireAlso(ctx context.Context, db pg.Querier, companyID int64, p access.Permission) error {
	standing, err := c.standing(ctx, db, companyID)
	if err != nil {
		return err
	}
	switch {
	case !standing.Visible:
		return errNoCompany()
	case !c.allows(standing, p):
		return forbidden(p)
	case c.writes && !c.op.dormant && !standing.Active:
		return fault.Conflict("The company, or one above it, is deactivated. Activate it first.").Code("company_deactivated")
	}
	return nil
}

// requireHome asks for the declared permission in the tenant's home company:
// for what belongs to no company.
func (c *caller) requireHome(ctx context.Context, db pg.Querier) error {
	c.asked = true
	standing, err := c.server.Access.AtHome(ctx, db, c.subject())
	if err == nil && c.Key != nil {
		standing, err = c.reached(ctx, db, standing)
	}
	if err != nil {
		return err
	}
	if !c.allows(standing, c.op.permission) {
		return forbidden(c.op.permission)
	}
	return nil
}

// may tells whether the caller holds a permission in a company that they see.
func (c *caller) may(ctx context.Context, db pg.Querier, companyID int64, p access.Permission) (bool, error) {
	standing, err := c.standing(ctx, db, companyID)
	return err == nil && standing.Visible && c.allows(standing, p), err
}

// companies are those in which the caller holds the declared permission: what
// a list without a company shows. None is not an error, but an empty list.
func (c *caller) companies(ctx context.Context, db pg.Querier) ([]int64, error) {
	c.asked = true
	if !c.narrowed(c.op.permission) {
		return nil, nil
	}
	companies, err := c.server.Access.Companies(ctx, db, c.subject(), c.op.permission)
	if err != nil || c.Key == nil {
		return companies, err
	}
	reached, err := c.server.Identity.KeyCompanies(ctx, db, c.Key)
	return slices.DeleteFunc(companies, func(id int64) bool { return !slices.Contains(reached, id) }), err
}

// allows is the one place where a credential that may do less than its user
// (an API key, a support session) narrows what the user may do.
func (c *caller) allows(standing access.Standing, p access.Permission) bool {
	return standing.Allows(p) && c.narrowed(p)
}

// narrowed tells whether the credential lets the permission through.
func (c *caller) narrowed(p access.Permission) bool {
	switch {
	case c.Key != nil:
		return c.Key.Holds(string(p))
	case c.Support != nil:
		return c.supportMay(p)
	}
	return true
}

// sees are the companies outside of which the credential sees none of those
// that its user sees: where an API key works that may read companies. It is nil
// for who sees them all.
func (c *caller) sees(ctx context.Context, db pg.Querier) ([]int64, error) {
	switch {
	case c.Key == nil:
		return nil, nil
	case !c.narrowed(access.CompanyRead):
		return []int64{}, nil
	}
	return c.server.Identity.KeyCompanies(ctx, db, c.Key)
}

// admitted refuses operations that are not for the credential, and nearly all
// where the tenant wants a second factor and the user has none.
func (c *caller) admitted() error {
	if c.Support == nil && c.tenant.Route.Settings.Require2FA && !c.Is2FAEnabled && !c.op.oneFactor {
		return fault.Forbidden("This workspace wants a second factor of everybody. Enable one, then go on.").Code("two_factor_required")
	}
	if c.Key != nil && (c.op.ofOneself && !c.op.machines || c.op.personal) {
		return fault.Forbidden("This belongs to a person and is not for API keys. Sign in to do it.").Code("not_for_api_keys")
	}
	if c.Support != nil {
		return c.admitSupport()
	}
	return nil
}

// giver is the caller as one who gives roles and takes them.
func (c *caller) giver() access.Giver {
	by := access.Giver{Subject: c.subject(), Allows: c.allows}
	if c.Key != nil {
		by.Reach = c.reached
	}
	return by
}

// anywhere are the companies in which the caller holds the declared permission;
// it refuses who holds it in none. It is for what is seen from every company:
// the catalogue, system-wide roles.
func (c *caller) anywhere(ctx context.Context, db pg.Querier) ([]int64, error) {
	companies, err := c.companies(ctx, db)
	if err == nil && len(companies) == 0 {
		err = forbidden(c.op.permission)
	}
	return companies, err
}

// in are the companies that a list shows: the one that it is filtered by, or
// all in which the caller holds the declared permission.
func (c *caller) in(ctx context.Context, db pg.Querier, companyID int64) ([]int64, error) {
	if companyID == 0 {
		return c.companies(ctx, db)
	}
	return []int64{companyID}, c.require(ctx, db, companyID)
}

// checked tells whether the handler has asked for what its operation declares.
// If not, its answer is thrown away: an operation that forgets must not work.
func (c *caller) checked() error {
	if c.op.permission != "" && !c.asked {
		return fmt.Errorf("operation %s has not asked for its permission %s", c.op.OperationID, c.op.permission)
	}
	return nil
}

func errNoCompany() error {
	return fault.NotFound("There is no such company, or you are not a member of it.")
}

func forbidden(p access.Permission) error {
	return fault.Forbidden("You are not allowed to do this: it needs the permission " + string(p) + ". Ask an administrator of the company.").Code("permission_denied")
}
