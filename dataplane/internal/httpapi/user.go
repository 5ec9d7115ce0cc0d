package httpapi

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/access"
	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// Account is a user as those see them who look after users.
type Account struct {
	ID            int64      `json:"id"`
	Username      string     `json:"username"`
	FullName      string     `json:"full_name"`
	Email         *string    `json:"email"`
	PrimaryMobile *string    `json:"primary_mobile"`
	EmailVerified bool       `json:"email_verified"`
	PhoneVerified bool       `json:"phone_verified"`
	AccountUID    string     `json:"account_uid" example:"USR-0A1B2C3D4E5F"`
	Is2FAEnabled  bool       `json:"is_2fa_enabled"`
	IsActive      bool       `json:"is_active" doc:"A user who is not is disabled: they cannot sign in."`
	DateJoined    time.Time  `json:"date_joined"`
	LastLogin     *time.Time `json:"last_login"`

	Entity
}

func accountOf(a identity.Account) Account {
	return Account{
		ID: a.ID, Username: a.Username, FullName: a.FullName, Email: a.Email, PrimaryMobile: a.PrimaryMobile,
		EmailVerified: a.EmailVerified, PhoneVerified: a.PhoneVerified, AccountUID: a.AccountUID, Is2FAEnabled: a.Is2FAEnabled,
		IsActive: a.IsActive, DateJoined: a.DateJoined.UTC(), LastLogin: utc(a.LastLogin), Entity: entityOf(a.CreatedAt, a.UpdatedAt, nil),
	}
}

type listUsersInput struct {
	PageInput

	Company int64 `query:"company" minimum:"1" doc:"Its members. Without it: the members of all companies in which you may see users, or everyone when you may in the home company."`
}

type listUsersOutput struct{ Body Page[Account] }

func (s *server) listUsers(ctx context.Context, db pg.Querier, c *caller, in *listUsersInput) (*listUsersOutput, error) {
	var company *int64
	companies, everyone := []int64{in.Company}, false
	if in.Company != 0 {
		company = &in.Company
		if err := c.require(ctx, db, in.Company); err != nil {
			return nil, err
		}
	} else {
		var err error
		if companies, err = c.companies(ctx, db); err != nil {
			return nil, err
		}
		home, err := s.Access.Home(ctx, db)
		if err != nil {
			return nil, err
		}
		everyone = slices.Contains(companies, home)
	}
	limit, offset := in.window()
	accounts, count, err := s.Identity.Accounts(ctx, db, everyone, companies, limit, offset)
	if err != nil {
		return nil, err
	}
	results := make([]Account, len(accounts))
	for i, a := range accounts {
		results[i] = accountOf(a)
	}
	return &listUsersOutput{pageOf(s, c.scope, in.PageInput, count, results)}, identity.AuditUsers(ctx, db, c.who(), company, nil)
}

// UserInput names a user.
type UserInput struct {
	ID int64 `path:"id" minimum:"1"`
}

type accountOutput struct {
	ETagged

	Body Account
}

func accountAnswer(a identity.Account, err error) (*accountOutput, error) {
	if err != nil {
		return nil, err
	}
	return &accountOutput{etagged(a.UpdatedAt), accountOf(a)}, nil
}

func (s *server) getUser(ctx context.Context, db pg.Querier, c *caller, in *UserInput) (*accountOutput, error) {
	companies, err := s.requireForUser(ctx, db, c, in.ID, false, c.op.permission)
	if err != nil {
		return nil, err
	}
	if in.ID != c.ID {
		if err := identity.AuditUsers(ctx, db, c.who(), only(companies), &in.ID); err != nil {
			return nil, err
		}
	}
	return accountAnswer(s.Identity.Account(ctx, db, in.ID))
}

// ProfileFields are what can be changed of an account. What is absent stays.
type ProfileFields struct {
	Username      optional[string] `json:"username,omitzero" minLength:"1" maxLength:"254"`
	Email         optional[string] `json:"email,omitzero" minLength:"3" maxLength:"254" doc:"A new address has to be verified. null takes it away, if there is a phone number."`
	PrimaryMobile optional[string] `json:"primary_mobile,omitzero" maxLength:"20" doc:"E.164. A new number has to be verified. null takes it away, if there is an email address."`
}

func (f ProfileFields) of(before identity.Account, name string) identity.AccountChange {
	return identity.AccountChange{
		FullName: name, Username: f.Username.or(before.Username),
		Email: f.Email.pointer(before.Email), PrimaryMobile: f.PrimaryMobile.pointer(before.PrimaryMobile),
	}
}

type patchUserInput struct {
	UserInput
	IfMatch

	Body struct {
		ProfileFields

		FullName optional[string] `json:"full_name,omitzero" minLength:"1" maxLength:"200"`
		IsActive optional[bool]   `json:"is_active,omitzero" doc:"Needs user.deactivate as well."`
	}
}

func (s *server) patchUser(ctx context.Context, tx pgx.Tx, c *caller, in *patchUserInput) (*accountOutput, error) {
	companies, err := s.requireForUser(ctx, tx, c, in.ID, true, c.op.permission)
	if err != nil {
		return nil, err
	}
	account, err := s.Identity.LockAccount(ctx, tx, in.ID)
	if err != nil {
		return nil, err
	}
	if err := in.check(account.UpdatedAt); err != nil {
		return nil, err
	}
	if active := in.Body.IsActive.or(account.IsActive); active != account.IsActive {
		if _, err := s.requireForUser(ctx, tx, c, in.ID, true, access.UserDeactivate); err != nil {
			return nil, err
		}
		if account, err = s.Identity.SetActive(ctx, tx, c.who(), only(companies), account, active); err != nil {
			return nil, err
		}
	}
	to := in.Body.of(account, in.Body.FullName.or(account.FullName))
	return accountAnswer(s.Identity.ChangeAccount(ctx, c.tenant, tx, c.who(), only(companies), account, to))
}

func (s *server) deactivateUser(ctx context.Context, tx pgx.Tx, c *caller, in *UserInput) (*accountOutput, error) {
	companies, err := s.requireForUser(ctx, tx, c, in.ID, true, c.op.permission)
	if err != nil {
		return nil, err
	}
	account, err := s.Identity.LockAccount(ctx, tx, in.ID)
	if err != nil {
		return nil, err
	}
	return accountAnswer(s.Identity.SetActive(ctx, tx, c.who(), only(companies), account, false))
}

// requireForUser refuses the request unless the caller holds the permission in
// one of the user's companies or, to change them, in every one; or at home,
// which counts for all. A user with whom the caller shares no company is not
// there for them.
func (s *server) requireForUser(ctx context.Context, db pg.Querier, c *caller, userID int64, toChange bool, p access.Permission) (companies []int64, err error) {
	c.asked = true
	if companies, err = s.Identity.CompaniesOf(ctx, db, userID); err != nil {
		return nil, err
	}
	home, err := s.Access.Home(ctx, db)
	if err != nil {
		return nil, err
	}
	atHome, err := c.standing(ctx, db, home)
	if err != nil {
		return nil, err
	}
	seen, held, above := false, 0, false
	for _, company := range companies {
		mine, err := c.standing(ctx, db, company)
		if err != nil {
			return nil, err
		}
		seen = seen || mine.Visible
		if mine.Visible && c.allows(mine, p) {
			held++
		}
		if toChange && (userID != c.ID || c.Key != nil) { // a key may do less than its maker
			theirs := c.subject()
			theirs.UserID = userID
			standing, err := s.Access.Standing(ctx, db, theirs, company)
			if err != nil {
				return nil, err
			}
			above = above || c.below(standing, mine, atHome)
		}
	}
	switch {
	case !c.allows(atHome, p) && held == 0 && !seen && userID != c.ID:
		return nil, errNoUser()
	case !c.allows(atHome, p) && (held == 0 || toChange && held < len(companies)):
		return nil, forbidden(p)
	case above:
		return nil, fault.Forbidden("This user may do more than you in one of their companies. Ask somebody who may do as much.").Code("user_above")
	}
	return companies, nil
}

// below tells whether somebody's standing in a company holds what the caller
// does not hold, there or at home. Such a user is not for the caller to change:
// with their address changed and the password reset, the caller would be them.
func (c *caller) below(theirs, mine, atHome access.Standing) bool {
	if theirs.Owner() && !mine.Owner() && !atHome.Owner() {
		return true
	}
	return slices.ContainsFunc(theirs.Allowed(), func(p access.Permission) bool {
		there := c.allows(mine, p) && (mine.AllowsBelow(p) || !theirs.AllowsBelow(p))
		return !there && !c.allows(atHome, p)
	})
}

// only is the company, where it is the one and only: what is done to a user of
// several belongs to none of them.
func only(companies []int64) *int64 {
	if len(companies) != 1 {
		return nil
	}
	return &companies[0]
}

func errNoUser() error {
	return fault.NotFound("There is no such user, or you share no company with them.")
}
