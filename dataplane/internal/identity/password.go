package identity

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/identity/dbsqlc"
	"github.com/ouvira/ouvira/dataplane/internal/notification"
	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/password"
	"github.com/ouvira/ouvira/shared/pg"
)

// PasswordChange is what one's own password is changed with.
type PasswordChange struct {
	Current string
	New     string
}

// ConfirmPassword asks somebody who is signed in for their password again,
// before what a stolen session must not do. Wrong ones count towards the
// lockout as at the login. It holds no connection while it compares; the fault
// names the field. The hash that matched is for a change that must not happen
// when the password has been replaced meanwhile.
func (s *Service) ConfirmPassword(ctx context.Context, t Tenant, userID int64, given, field string, c Client) (hash string, err error) {
	p, err := s.passwordsOf(ctx, t, userID)
	if err != nil {
		return "", err
	}
	return p.current, s.confirm(ctx, t, p, given, field, c)
}

func (s *Service) confirm(ctx context.Context, t Tenant, p passwords, given, field string, c Client) error {
	if p.locked {
		return fault.RateLimited("There were too many wrong passwords, so the account is locked for a while. Try again later, or reset the password.").
			Code("account_locked").RetryAfter(LockFor)
	}
	ok, _, err := password.Verify(ctx, p.current, given)
	if err != nil || ok {
		return err
	}
	err = t.Do(ctx, func(db Conn) error {
		return s.queries.CountFailedLogin(ctx, db, dbsqlc.CountFailedLoginParams{
			MaxFailures: MaxFailures, LockForSeconds: LockFor.Seconds(), UserID: &p.userID, UserDisplay: p.display,
			Action: actionPasswordWrong, Metadata: metadata(), IPAddress: c.ip(), RequestID: c.RequestID,
		})
	})
	if err != nil {
		return err
	}
	const message = "This is not your password. After 5 wrong ones the account is locked for 30 minutes."
	return fault.Invalid("The current password is wrong.").Code("wrong_password").OnField(field, "wrong", message)
}

// ChangePassword replaces the actor's own password. Their other sessions end;
// the one that asks goes on.
func (s *Service) ChangePassword(ctx context.Context, t Tenant, actor Actor, in PasswordChange, c Client) error {
	const field = "new_password"
	p, err := s.passwordsOf(ctx, t, actor.ID)
	if err != nil {
		return err
	}
	if err := s.confirm(ctx, t, p, in.Current, "current_password", c); err != nil {
		return err
	}
	hash, err := p.replaceable(ctx, in.New, field)
	if err != nil {
		return err
	}
	err = inTx(ctx, t, func(tx pgx.Tx) error {
		return s.replacePassword(ctx, t, tx, replacement{
			SetPasswordParams: dbsqlc.SetPasswordParams{ID: actor.ID, PasswordHash: &hash, OldHash: &p.current, SessionID: &actor.SessionID},
			keep:              &actor.SessionID,
		}, c)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return fault.Conflict("The password was changed, or the session ended, while this was under way. Sign in again.").Code("password_changed")
	}
	return err
}

func linkRefused() error {
	const message = "This link has been used, has expired, or was never valid. Ask for a new one."
	return fault.Invalid(message).Code("invalid_token").OnField("token", "invalid", message)
}

// SetPassword sets the password of whoever holds the token of a mailed link.
// The token works once. All sessions of the user end.
func (s *Service) SetPassword(ctx context.Context, t Tenant, token, newPassword string, c Client) error {
	// Comparing and hashing are the expensive parts: only for who may.
	var userID int64
	err := t.Do(ctx, func(db Conn) error {
		var err error
		userID, err = s.queries.FindPasswordToken(ctx, db, digest(token))
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return linkRefused()
	}
	if err != nil {
		return err
	}
	p, err := s.passwordsOf(ctx, t, userID)
	if err != nil {
		return err
	}
	hash, err := p.replaceable(ctx, newPassword, "password")
	if err != nil {
		return err
	}
	err = inTx(ctx, t, func(tx pgx.Tx) error {
		userID, err := s.queries.UsePasswordToken(ctx, tx, digest(token))
		if err != nil {
			return err
		}
		// The token went to the user's address: using it proves the address.
		return s.replacePassword(ctx, t, tx, replacement{
			SetPasswordParams: dbsqlc.SetPasswordParams{ID: userID, PasswordHash: &hash, ProvesEmail: true},
		}, c)
	})
	if errors.Is(err, pgx.ErrNoRows) { // used by another request meanwhile
		return linkRefused()
	}
	return err
}

type replacement struct {
	dbsqlc.SetPasswordParams

	keep *uuid.UUID // the session that goes on
}

// replacePassword ends with pgx.ErrNoRows when the password may not be replaced
// any more.
func (s *Service) replacePassword(ctx context.Context, t Tenant, tx pgx.Tx, r replacement, c Client) error {
	if err := s.queries.KeepPassword(ctx, tx, dbsqlc.KeepPasswordParams{UserID: r.ID, Others: remembered - 2}); err != nil {
		return err
	}
	user, err := s.queries.SetPassword(ctx, tx, r.SetPasswordParams)
	if err != nil {
		return err
	}
	err = s.queries.EndAfterPasswordChange(ctx, tx, dbsqlc.EndAfterPasswordChangeParams{
		UserID: &r.ID, KeptSession: r.keep, UserDisplay: user.FullName, Action: actionPasswordSet,
		Metadata: metadata(), IPAddress: c.ip(), RequestID: c.RequestID,
	})
	if err != nil {
		return err
	}
	if err := notification.Add(ctx, tx, r.ID, notification.Security, "Your password was changed."); err != nil || user.Email == nil {
		return err
	}
	return t.Outbox.Add(ctx, tx, outbox.Message{Channel: outbox.Email, To: *user.Email, Template: outbox.TemplatePasswordSet, UserID: &r.ID})
}

// inTx leases a connection for one transaction.
func inTx(ctx context.Context, t Tenant, work func(pgx.Tx) error) error {
	return t.Do(ctx, func(db Conn) error { return pg.InTx(ctx, db, work) })
}
