package identity

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/dataplane/internal/identity/dbsqlc"
	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/shared/fault"
)

const (
	purposeEmail purpose = "verify_email"
	purposePhone purpose = "verify_phone"
)

// Contact is what of an account is verified by a code that goes there and comes
// back.
type Contact struct {
	purpose  purpose
	field    string
	what     string
	channel  outbox.Channel
	template outbox.Template
	of       func(*Account) (value *string, verified *bool)
	verify   func(s *Service, ctx context.Context, tx pgx.Tx, userID int64, value *string) (time.Time, error)
}

// The contacts of an account.
var (
	EmailContact = Contact{
		purpose: purposeEmail, field: "email", what: "email address", channel: outbox.Email, template: outbox.TemplateEmailCode,
		of: func(a *Account) (*string, *bool) { return a.Email, &a.EmailVerified },
		verify: func(s *Service, ctx context.Context, tx pgx.Tx, userID int64, value *string) (time.Time, error) {
			return s.queries.VerifyEmail(ctx, tx, dbsqlc.VerifyEmailParams{ID: userID, Email: value})
		},
	}
	PhoneContact = Contact{
		purpose: purposePhone, field: "primary_mobile", what: "phone number", channel: outbox.SMS, template: outbox.TemplatePhoneCode,
		of: func(a *Account) (*string, *bool) { return a.PrimaryMobile, &a.PhoneVerified },
		verify: func(s *Service, ctx context.Context, tx pgx.Tx, userID int64, value *string) (time.Time, error) {
			return s.queries.VerifyPhone(ctx, tx, dbsqlc.VerifyPhoneParams{ID: userID, PrimaryMobile: value})
		},
	}
)

const dataUser = "user"

// SendVerification sends a code to the actor's own address or number. The one
// before dies.
func (s *Service) SendVerification(ctx context.Context, t Tenant, actor Actor, which Contact) error {
	return inTx(ctx, t, func(tx pgx.Tx) error {
		_, value, err := s.unverified(ctx, tx, actor, which)
		if err != nil {
			return err
		}
		code := newCode()
		err = s.putCode(ctx, tx, t, which.purpose, *value, code, map[string]string{dataUser: strconv.FormatInt(actor.ID, 10)})
		if err != nil {
			return err
		}
		return t.Outbox.Add(ctx, tx, outbox.Message{Channel: which.channel, To: *value, Template: which.template, Values: codeValues(code), UserID: &actor.ID})
	})
}

// Verify takes the code that came back.
func (s *Service) Verify(ctx context.Context, t Tenant, actor Actor, who audit.Who, which Contact, code string) error {
	right := false
	err := inTx(ctx, t, func(tx pgx.Tx) error {
		account, value, err := s.unverified(ctx, tx, actor, which)
		if err != nil {
			return err
		}
		data, ok, err := s.useCode(ctx, tx, t, which.purpose, *value, code)
		if err != nil {
			return err
		}
		if right = ok && data[dataUser] == strconv.FormatInt(actor.ID, 10); !right {
			return audit.Security(ctx, tx, who, actionCodeRefused, map[string]any{"purpose": string(which.purpose)})
		}
		before := account.snapshot()
		if account.UpdatedAt, err = which.verify(s, ctx, tx, actor.ID, value); err != nil {
			return err
		}
		_, verified := which.of(&account)
		*verified = true
		return users.Updated(ctx, tx, who, nil, actor.ID, before, account.snapshot())
	})
	if err == nil && !right { // an error inside would have rolled the count back
		return wrongCode("code")
	}
	return err
}

// unverified locks the actor's account, whose address or number is there and
// still to be verified.
func (s *Service) unverified(ctx context.Context, tx pgx.Tx, actor Actor, which Contact) (Account, *string, error) {
	account, err := s.LockAccount(ctx, tx, actor.ID)
	if err != nil {
		return Account{}, nil, err
	}
	if !account.IsActive {
		return Account{}, nil, refused(errors.New("the user was disabled meanwhile"))
	}
	value, verified := which.of(&account)
	switch {
	case value == nil:
		return Account{}, nil, fault.Conflict("Your account has no "+which.what+". Add one to your profile first.").Code("nothing_to_verify").
			OnField(which.field, "absent", "There is none.")
	case *verified:
		return Account{}, nil, fault.Conflict("Your " + which.what + " is verified already.").Code("already_verified")
	}
	return account, value, nil
}
