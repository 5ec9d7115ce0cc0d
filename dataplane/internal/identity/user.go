package identity

import (
	"context"
	"errors"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/dataplane/internal/identity/dbsqlc"
	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// Account is a user as those see them who look after users.
type Account struct {
	Profile

	IsActive bool
}

// userSnapshot is what the audit keeps of a user.
type userSnapshot struct {
	Username      string  `json:"username" audit:"show"`
	FullName      string  `json:"full_name" audit:"show"`
	Email         *string `json:"email" audit:"show"`
	EmailVerified bool    `json:"email_verified" audit:"show"`
	PrimaryMobile *string `json:"primary_mobile" audit:"show"`
	PhoneVerified bool    `json:"phone_verified" audit:"show"`
	IsActive      bool    `json:"is_active" audit:"show"`
}

var users = audit.Of[userSnapshot]("user")

func (a Account) snapshot() userSnapshot {
	return userSnapshot{
		Username: a.Username, FullName: a.FullName, Email: a.Email, EmailVerified: a.EmailVerified,
		PrimaryMobile: a.PrimaryMobile, PhoneVerified: a.PhoneVerified, IsActive: a.IsActive,
	}
}

// AuditUsers records that somebody looked at other people's accounts: at one,
// or with a nil id at a list.
func AuditUsers(ctx context.Context, db pg.Querier, who audit.Who, companyID, id *int64) error {
	return users.Looked(ctx, db, who, companyID, id)
}

func errNoUser() error {
	return fault.NotFound("There is no such user, or you share no company with them.")
}

// Account is one user, who may be disabled. Who may see them is for the caller
// to know.
func (s *Service) Account(ctx context.Context, db pg.Querier, id int64) (Account, error) {
	row, err := s.queries.GetAccount(ctx, db, id)
	return accountOf(dbsqlc.ListAccountsRow(row), err)
}

// LockAccount is Account, with the row locked until the transaction ends.
func (s *Service) LockAccount(ctx context.Context, tx pgx.Tx, id int64) (Account, error) {
	row, err := s.queries.LockAccount(ctx, tx, id)
	return accountOf(dbsqlc.ListAccountsRow(row), err)
}

func accountOf(r dbsqlc.ListAccountsRow, err error) (Account, error) {
	if errors.Is(err, pgx.ErrNoRows) {
		return Account{}, errNoUser()
	}
	return Account{
		Profile: Profile{
			ID: r.ID, AccountUID: r.AccountUID, Username: r.Username, FullName: r.FullName,
			Email: r.Email, EmailVerified: r.EmailVerified, PrimaryMobile: r.PrimaryMobile, PhoneVerified: r.PhoneVerified,
			Is2FAEnabled: r.Is2FAEnabled, TwoFAType: r.TwoFAType,
			DateJoined: r.DateJoined, LastLogin: r.LastLogin, CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt,
		},
		IsActive: r.IsActive,
	}, err
}

// Accounts is a page of the users of some companies, or of the whole tenant,
// and how many there are in all.
func (s *Service) Accounts(ctx context.Context, db pg.Querier, everyone bool, companies []int64, limit, offset int32) ([]Account, int64, error) {
	count, err := s.queries.CountAccounts(ctx, db, dbsqlc.CountAccountsParams{Everyone: everyone, Companies: companies})
	if err != nil {
		return nil, 0, err
	}
	rows, err := s.queries.ListAccounts(ctx, db, dbsqlc.ListAccountsParams{Everyone: everyone, Companies: companies, MaxRows: limit, SkipRows: offset})
	if err != nil {
		return nil, 0, err
	}
	accounts := make([]Account, len(rows))
	for i, row := range rows {
		accounts[i], _ = accountOf(row, nil)
	}
	return accounts, count, nil
}

// CompaniesOf are the companies that the user is an active member of.
func (s *Service) CompaniesOf(ctx context.Context, db pg.Querier, userID int64) ([]int64, error) {
	return s.queries.CompaniesOfUser(ctx, db, userID)
}

// AccountChange is what an account is to be like.
type AccountChange struct {
	FullName      string
	Username      string
	Email         *string
	PrimaryMobile *string
}

// ChangeAccount brings an account, which the transaction has locked, to what it
// is to be. A changed address or number has to be verified again; a changed
// address ends the links that were mailed to the one before, and that one is
// told.
func (s *Service) ChangeAccount(ctx context.Context, t Tenant, tx pgx.Tx, who audit.Who, companyID *int64, before Account, to AccountChange) (Account, error) {
	after, err := changed(before, to)
	if err != nil || after.snapshot().equal(before.snapshot()) {
		return before, err
	}
	after.UpdatedAt, err = s.queries.UpdateAccount(ctx, tx, dbsqlc.UpdateAccountParams{
		ID: before.ID, FullName: after.FullName, Username: after.Username, Email: after.Email, EmailVerified: after.EmailVerified,
		PrimaryMobile: after.PrimaryMobile, PhoneVerified: after.PhoneVerified,
	})
	if err != nil {
		return Account{}, takenByAnother(err)
	}
	if !same(before.Email, after.Email) {
		if err := s.addressChanged(ctx, t, tx, before); err != nil {
			return Account{}, err
		}
	}
	return after, users.Updated(ctx, tx, who, companyID, before.ID, before.snapshot(), after.snapshot())
}

func (s *Service) addressChanged(ctx context.Context, t Tenant, tx pgx.Tx, before Account) error {
	if err := s.queries.KillPasswordTokens(ctx, tx, before.ID); err != nil || before.Email == nil {
		return err
	}
	return t.Outbox.Add(ctx, tx, outbox.Message{
		Channel: outbox.Email, To: *before.Email, Template: outbox.TemplateSecurity, UserID: &before.ID,
		Values: map[string]string{"event": "The email address of your account was changed. This address no longer belongs to it."},
	})
}

// usernames are names of one's own: none that looks like somebody's address or
// number, which sign in as well.
var usernames = regexp.MustCompile(`^[\p{L}\p{N}](?:[\p{L}\p{N}._-]{0,62}[\p{L}\p{N}])?$`)

// changed works out and checks what the account becomes.
func changed(before Account, to AccountChange) (Account, error) {
	after := before
	var err error
	if after.FullName, err = fullName(to.FullName); err != nil {
		return Account{}, err
	}
	if after.Email, err = normalized(to.Email, NormalizeEmail); err != nil {
		return Account{}, err
	}
	if after.PrimaryMobile, err = normalized(to.PrimaryMobile, NormalizeMobile); err != nil {
		return Account{}, err
	}
	if after.Email == nil && after.PrimaryMobile == nil {
		const message = "An account needs an email address or a phone number."
		return Account{}, fault.Invalid(message).OnField("email", "required", message)
	}
	if !same(before.PrimaryMobile, after.PrimaryMobile) {
		if before.Is2FAEnabled && before.TwoFAType != nil && *before.TwoFAType == "sms" {
			return Account{}, fault.Conflict("The codes of the second factor go to this number. Disable the second factor first, or change it to an app.").Code("number_in_use")
		}
		after.PhoneVerified = false
	}
	if !same(before.Email, after.Email) {
		after.EmailVerified = false
	}
	// A user name that was only the address goes with the address.
	after.Username = strings.TrimSpace(to.Username)
	if after.Username == before.Username && before.Email != nil && strings.EqualFold(before.Username, *before.Email) && after.Email != nil {
		after.Username = *after.Email
	}
	known := after.Username == before.Username || (after.Email != nil && strings.EqualFold(after.Username, *after.Email))
	// Digits alone would look like a number.
	if !known && (!usernames.MatchString(after.Username) || strings.Trim(after.Username, "0123456789._-") == "") {
		const message = "A user name has 1 to 64 letters, digits, dots, dashes and underscores, and at least one letter."
		return Account{}, fault.Invalid(message).OnField("username", "username", message)
	}
	return after, nil
}

func normalized(value *string, normalize func(string) (string, error)) (*string, error) {
	if value == nil {
		return nil, nil
	}
	v, err := normalize(*value)
	return &v, err
}

func same(a, b *string) bool {
	return (a == nil) == (b == nil) && (a == nil || *a == *b)
}

func (u userSnapshot) equal(v userSnapshot) bool {
	return u.Username == v.Username && u.FullName == v.FullName && u.EmailVerified == v.EmailVerified && u.PhoneVerified == v.PhoneVerified &&
		u.IsActive == v.IsActive && same(u.Email, v.Email) && same(u.PrimaryMobile, v.PrimaryMobile)
}

// takenByAnother is taken, where the name of the user is asked for by itself.
func takenByAnother(err error) error {
	if pg.Constraint(err) == "users_username_key" {
		return fault.Conflict("There is an account with this user name already. Choose another one.").
			Code("username_taken").OnField("username", "taken", "There is an account with this user name already.").Because(err)
	}
	return taken(err)
}

// SetActive disables an account, which the transaction has locked, or lets it
// in again. Who is disabled is signed out everywhere at once.
func (s *Service) SetActive(ctx context.Context, tx pgx.Tx, who audit.Who, companyID *int64, before Account, active bool) (Account, error) {
	if before.IsActive == active {
		return before, nil
	}
	if !active && who.UserID != nil && *who.UserID == before.ID {
		return Account{}, fault.Conflict("You cannot disable your own account. Ask another administrator.").Code("own_account")
	}
	after := before
	after.IsActive = active
	var err error
	after.UpdatedAt, err = s.queries.SetActive(ctx, tx, dbsqlc.SetActiveParams{ID: before.ID, IsActive: active})
	if pg.Constraint(err) == "companies_last_owner_check" {
		return Account{}, fault.Conflict("This user is the last owner of a company. Give it another owner first.").Code("last_owner").Because(err)
	}
	if err != nil {
		return Account{}, err
	}
	action := actionUserActivated
	if !active {
		action = actionUserDeactivated
		if err := s.queries.EndSessions(ctx, tx, dbsqlc.EndSessionsParams{UserID: before.ID, Reason: "user disabled"}); err != nil {
			return Account{}, err
		}
		if err := s.queries.KillPasswordTokens(ctx, tx, before.ID); err != nil {
			return Account{}, err
		}
	}
	if err := audit.Security(ctx, tx, who, action, map[string]any{"user": before.ID, "display": before.FullName}); err != nil {
		return Account{}, err
	}
	return after, users.Updated(ctx, tx, who, companyID, before.ID, before.snapshot(), after.snapshot())
}
