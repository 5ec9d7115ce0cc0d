package identity

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/identity/dbsqlc"
	"github.com/ouvira/ouvira/dataplane/internal/limit"
	"github.com/ouvira/ouvira/dataplane/internal/notification"
	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/password"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/totp"
)

// The second factors: an authenticator app, or codes by SMS.
const (
	TOTP = "totp"
	SMS  = "sms"
)

// pendingFor is how long a factor waits for its first code.
const pendingFor = time.Hour

// Proof is what somebody shows of their second factor: a code of it, or one of
// the backup codes. One is enough.
type Proof struct {
	Code       string
	BackupCode string
}

// Enrolment is a factor that waits for its first code. It is shown once.
type Enrolment struct {
	Method      string
	Secret      string // base32, of an authenticator app
	URL         string // the same for a QR code
	BackupCodes []string
}

// factor is a second factor with its secret opened.
type factor struct {
	id     int64
	userID int64
	method string
	mobile string
	secret []byte
}

// EnableSecondFactor begins with a second factor: it counts once
// ConfirmSecondFactor has seen a code of it. Somebody who has one already, and
// so might be a thief with their session, shows a code of it or the password.
func (s *Service) EnableSecondFactor(ctx context.Context, t Tenant, actor Actor, method string, proof Proof, pw string, c Client) (Enrolment, error) {
	byPassword := false
	if actor.Is2FAEnabled && proof == (Proof{}) {
		if pw == "" {
			const message = "There is a second factor already. To replace it, send a code of it, a backup code, or your password."
			return Enrolment{}, fault.Forbidden(message).Code("proof_required").OnField("code", "required", message)
		}
		if _, err := s.ConfirmPassword(ctx, t, actor.ID, pw, "password", c); err != nil {
			return Enrolment{}, err
		}
		byPassword = true
	}
	var out Enrolment
	err := s.guarded(ctx, t, actor.ID, func(ctx context.Context, tx pgx.Tx, account dbsqlc.LockForGuessRow) (bool, error) {
		if account.Is2FAEnabled && !byPassword {
			if ok, err := s.proves(ctx, tx, t, account, proof, c); err != nil || !ok {
				return ok, err
			}
		}
		var err error
		out, err = s.enrol(ctx, tx, t, account, method)
		return err == nil, err
	})
	return out, err
}

func (s *Service) enrol(ctx context.Context, tx pgx.Tx, t Tenant, account dbsqlc.LockForGuessRow, method string) (Enrolment, error) {
	f := dbsqlc.AddFactorParams{UserID: account.ID, Method: method}
	if method == SMS {
		if account.PrimaryMobile == nil {
			const message = "There is no phone number in your profile to send codes to. Add one first."
			return Enrolment{}, fault.Invalid(message).Code("no_mobile").OnField("method", "no_mobile", message)
		}
		f.Mobile = account.PrimaryMobile
	}
	secret := totp.NewSecret()
	codes, digests, err := totp.NewBackupCodes(secret)
	if err != nil {
		return Enrolment{}, err
	}
	f.CodeHashes = digests
	if f.SecretSealed, err = s.key.Seal(secret, factorContext(t, account.ID)); err != nil {
		return Enrolment{}, fmt.Errorf("seal the secret of a second factor: %w", err)
	}
	if err := s.queries.DropFactors(ctx, tx, dbsqlc.DropFactorsParams{UserID: account.ID}); err != nil {
		return Enrolment{}, err
	}
	id, err := s.queries.AddFactor(ctx, tx, f)
	if err != nil {
		return Enrolment{}, err
	}
	out := Enrolment{Method: method, BackupCodes: codes}
	if method == SMS {
		return out, s.sendFactorCode(ctx, tx, t, factor{id: id, userID: account.ID, mobile: *f.Mobile})
	}
	name := account.Username
	if account.Email != nil {
		name = *account.Email
	}
	out.Secret = totp.Text(secret)
	out.URL, err = totp.URL(secret, t.Route.Slug, name)
	return out, err
}

// ConfirmSecondFactor makes the factor count that waits for its first code, in
// place of the one before. It answers which it is.
func (s *Service) ConfirmSecondFactor(ctx context.Context, t Tenant, actor Actor, code string, c Client) (method string, err error) {
	err = s.guarded(ctx, t, actor.ID, func(ctx context.Context, tx pgx.Tx, account dbsqlc.LockForGuessRow) (bool, error) {
		f, err := s.factorOf(ctx, tx, t, actor.ID, false)
		if errors.Is(err, pgx.ErrNoRows) {
			return false, fault.Conflict("There is no second factor that waits for its first code. Enable one.").Code("nothing_to_confirm")
		}
		if err != nil {
			return false, err
		}
		// A wrong code counts against nothing: who asks has chosen the secret.
		if ok, err := s.matches(ctx, tx, t, f, code); err != nil || !ok {
			return ok, err
		}
		method = f.method
		params := dbsqlc.SetSecondFactorParams{ID: actor.ID, Method: &f.method}
		if f.method == SMS {
			params.ProvedMobile = &f.mobile
		}
		if err := s.queries.DropFactors(ctx, tx, dbsqlc.DropFactorsParams{UserID: actor.ID, Confirmed: true}); err != nil {
			return false, err
		}
		if err := s.queries.ConfirmFactor(ctx, tx, f.id); err != nil {
			return false, err
		}
		if err := s.queries.SetSecondFactor(ctx, tx, params); err != nil {
			return false, err
		}
		return true, s.tell(ctx, tx, t, account, actionFactorEnabled, f.method, "A second factor now protects your account.", c)
	})
	return method, err
}

// DisableSecondFactor takes the second factor away, from who has both.
func (s *Service) DisableSecondFactor(ctx context.Context, t Tenant, actor Actor, pw string, proof Proof, c Client) error {
	switch {
	case !actor.Is2FAEnabled:
		return noFactor()
	case proof == (Proof{}):
		const message = "Send a code of your second factor, or a backup code, besides the password."
		return fault.Invalid(message).OnField("code", "required", message)
	case t.Route.Settings.Require2FA:
		return fault.Conflict("This workspace wants a second factor of everybody. You can replace yours by enabling another.").Code("two_factor_required")
	}
	if _, err := s.ConfirmPassword(ctx, t, actor.ID, pw, "password", c); err != nil {
		return err
	}
	if password.CheckPolicy(pw) != nil {
		const message = "Your password is only long enough with a second factor. Change it to one of at least 12 characters first."
		return fault.Conflict(message).Code("password_policy").OnField("password", "too_short", message)
	}
	return s.guarded(ctx, t, actor.ID, func(ctx context.Context, tx pgx.Tx, account dbsqlc.LockForGuessRow) (bool, error) {
		if ok, err := s.proves(ctx, tx, t, account, proof, c); err != nil || !ok {
			return ok, err
		}
		for _, confirmed := range []bool{true, false} {
			if err := s.queries.DropFactors(ctx, tx, dbsqlc.DropFactorsParams{UserID: actor.ID, Confirmed: confirmed}); err != nil {
				return false, err
			}
		}
		if err := s.queries.SetSecondFactor(ctx, tx, dbsqlc.SetSecondFactorParams{ID: actor.ID}); err != nil {
			return false, err
		}
		return true, s.tell(ctx, tx, t, account, actionFactorDisabled, "", "The second factor of your account was taken away. If it was not you, reset your password at once.", c)
	})
}

// RenewBackupCodes gives a new set for a code of the factor. The set before
// counts no more.
func (s *Service) RenewBackupCodes(ctx context.Context, t Tenant, actor Actor, code string, c Client) (codes []string, err error) {
	if !actor.Is2FAEnabled {
		return nil, noFactor()
	}
	err = s.guarded(ctx, t, actor.ID, func(ctx context.Context, tx pgx.Tx, account dbsqlc.LockForGuessRow) (bool, error) {
		if ok, err := s.proves(ctx, tx, t, account, Proof{Code: code}, c); err != nil || !ok {
			return ok, err
		}
		f, err := s.factorOf(ctx, tx, t, actor.ID, true)
		if err != nil {
			return false, err
		}
		var digests [][]byte
		if codes, digests, err = totp.NewBackupCodes(f.secret); err != nil {
			return false, err
		}
		if err := s.queries.ReplaceBackupCodes(ctx, tx, dbsqlc.ReplaceBackupCodesParams{TwoFactorID: f.id, CodeHashes: digests}); err != nil {
			return false, err
		}
		return true, s.tell(ctx, tx, t, account, actionBackupRenewed, f.method, "New backup codes were made for your account. The old ones count no more.", c)
	})
	return codes, err
}

// SendFactorCode sends a code to somebody whose second factor is SMS, for what
// wants one of somebody who is signed in.
func (s *Service) SendFactorCode(ctx context.Context, t Tenant, tx pgx.Tx, actor Actor) error {
	f, err := s.factorOf(ctx, tx, t, actor.ID, true)
	if errors.Is(err, pgx.ErrNoRows) || (err == nil && f.method != SMS) {
		return fault.Conflict("Codes are sent to those whose second factor is SMS. Yours comes from your authenticator app, or there is none.").Code("not_by_sms")
	}
	if err != nil {
		return err
	}
	return s.sendFactorCode(ctx, tx, t, f)
}

func (s *Service) sendFactorCode(ctx context.Context, tx pgx.Tx, t Tenant, f factor) error {
	code := newCode()
	if err := s.putCode(ctx, tx, t, purposeSecondFactor, f.mobile, code, map[string]string{"user": userKey(f.userID)}); err != nil {
		return err
	}
	return s.sendToFactor(ctx, tx, t, f, code)
}

// sendToFactor sends a code to the number of a second factor, as often as codes
// may go to one number. They are counted apart from those of sign-ups, which
// anyone can ask for: nobody uses up what another needs to sign in.
//
// The count is in the transaction, which holds the user's row anyway; what is
// rolled back has not been sent.
func (s *Service) sendToFactor(ctx context.Context, tx pgx.Tx, t Tenant, f factor, code string) error {
	verdict, err := limit.Take(ctx, tx, t.Route.Settings.Limit(route.LimitOTPSendPerNumber), "second-factor/"+f.mobile)
	if err != nil {
		return err
	}
	if !verdict.Allowed {
		return fault.RateLimited("Several codes were sent to your phone a short while ago. Use a backup code, or wait for as long as Retry-After says.").
			Code("rate_limited").RetryAfter(verdict.Wait)
	}
	return sendSMS(ctx, tx, t, outbox.TemplateLoginCode, f.mobile, code, &f.userID)
}

// guarded runs work in a transaction that holds the account's row, so that
// guesses at it come one after another. When work answers false, a code was
// wrong: what has been counted is committed all the same, and the caller hears
// so. Who has guessed too often is refused before anything is compared.
func (s *Service) guarded(ctx context.Context, t Tenant, userID int64, work func(context.Context, pgx.Tx, dbsqlc.LockForGuessRow) (bool, error)) error {
	ok := false
	err := inTx(ctx, t, func(tx pgx.Tx) error {
		account, err := s.queries.LockForGuess(ctx, tx, userID)
		if errors.Is(err, pgx.ErrNoRows) {
			return refused(errors.New("the user is disabled"))
		}
		if err != nil {
			return err
		}
		if account.Locked {
			return fault.RateLimited("There were too many wrong codes or passwords, so the account is locked for a while. Try again later.").
				Code("account_locked").RetryAfter(LockFor)
		}
		ok, err = work(ctx, tx, account)
		return err
	})
	if err == nil && !ok {
		return wrongCode("code")
	}
	return err
}

// proves compares what was shown with the factor that counts. What is wrong
// counts toward the lockout, as a wrong password does. The account's row is
// held.
func (s *Service) proves(ctx context.Context, tx pgx.Tx, t Tenant, account dbsqlc.LockForGuessRow, proof Proof, c Client) (bool, error) {
	f, err := s.factorOf(ctx, tx, t, account.ID, true)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, noFactor()
	}
	if err != nil {
		return false, err
	}
	var ok bool
	if proof.BackupCode != "" {
		ok, err = s.useBackupCode(ctx, tx, f, account, proof.BackupCode, c)
	} else {
		ok, err = s.matches(ctx, tx, t, f, proof.Code)
	}
	if err != nil || ok {
		return ok, err
	}
	return false, s.countWrongFactor(ctx, tx, account, c)
}

// matches compares a code of the factor and spends it.
func (s *Service) matches(ctx context.Context, tx pgx.Tx, t Tenant, f factor, code string) (bool, error) {
	if f.method == SMS {
		data, ok, err := s.useCode(ctx, tx, t, purposeSecondFactor, f.mobile, code)
		return ok && data["user"] == userKey(f.userID), err
	}
	step, ok, err := totp.Step(f.secret, code, time.Now())
	if err != nil || !ok {
		return false, err
	}
	rows, err := s.queries.AdvanceStep(ctx, tx, dbsqlc.AdvanceStepParams{ID: f.id, Step: step})
	return rows == 1, err // 0: this code, or a later one, has been used
}

func (s *Service) useBackupCode(ctx context.Context, tx pgx.Tx, f factor, account dbsqlc.LockForGuessRow, code string, c Client) (bool, error) {
	kept, err := totp.BackupDigest(f.secret, code)
	if err != nil {
		return false, err
	}
	rows, err := s.queries.UseBackupCode(ctx, tx, dbsqlc.UseBackupCodeParams{TwoFactorID: f.id, CodeHash: kept})
	if err != nil || rows == 0 {
		return false, err
	}
	return true, s.recordFactor(ctx, tx, account, actionBackupUsed, f.method, c)
}

func (s *Service) countWrongFactor(ctx context.Context, tx pgx.Tx, account dbsqlc.LockForGuessRow, c Client) error {
	return s.queries.CountFailedLogin(ctx, tx, dbsqlc.CountFailedLoginParams{
		MaxFailures: MaxFailures, LockForSeconds: LockFor.Seconds(), UserID: &account.ID, UserDisplay: account.FullName,
		Action: actionFactorFailed, Metadata: metadata(), IPAddress: c.ip(), RequestID: c.RequestID,
	})
}

// factorOf finds the factor that counts, or the one that waits; pgx.ErrNoRows
// where there is none.
func (s *Service) factorOf(ctx context.Context, tx pgx.Tx, t Tenant, userID int64, confirmed bool) (factor, error) {
	row, err := s.queries.FindFactor(ctx, tx, dbsqlc.FindFactorParams{UserID: userID, Confirmed: confirmed, PendingSeconds: pendingFor.Seconds()})
	if err != nil {
		return factor{}, err
	}
	f := factor{id: row.ID, userID: row.UserID, method: row.Method}
	if row.Mobile != nil {
		f.mobile = *row.Mobile
	}
	if f.secret, err = s.key.Unseal(row.SecretSealed, factorContext(t, userID)); err != nil {
		return factor{}, fmt.Errorf("open the secret of a second factor: %w", err)
	}
	return f, nil
}

// tell writes to the security log and to the user, in the app and by mail.
func (s *Service) tell(ctx context.Context, tx pgx.Tx, t Tenant, account dbsqlc.LockForGuessRow, action, method, event string, c Client) error {
	if err := s.recordFactor(ctx, tx, account, action, method, c); err != nil {
		return err
	}
	if err := notification.Add(ctx, tx, account.ID, notification.Security, event); err != nil || account.Email == nil {
		return err
	}
	return t.Outbox.Add(ctx, tx, outbox.Message{
		Channel: outbox.Email, To: *account.Email, Template: outbox.TemplateSecurity,
		Values: map[string]string{"event": event}, UserID: &account.ID,
	})
}

func (s *Service) recordFactor(ctx context.Context, tx pgx.Tx, account dbsqlc.LockForGuessRow, action, method string, c Client) error {
	detail := metadata()
	if method != "" {
		detail = metadata("method", method)
	}
	return s.queries.RecordSecurity(ctx, tx, dbsqlc.RecordSecurityParams{
		UserID: &account.ID, UserDisplay: account.FullName, Action: action,
		Metadata: detail, IPAddress: c.ip(), RequestID: c.RequestID,
	})
}

func noFactor() error {
	return fault.Conflict("Your account has no second factor. Enable one first.").Code("no_second_factor")
}

func userKey(id int64) string { return strconv.FormatInt(id, 10) }

// factorContext binds a sealed secret to its user.
func factorContext(t Tenant, userID int64) []byte {
	return fmt.Appendf(nil, "second-factor/%s/%d", t.Route.TenantID, userID)
}
