package identity

import (
	"context"
	"crypto/subtle"
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/identity/dbsqlc"
	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/password"
	"github.com/ouvira/ouvira/shared/pg"
)

// An account by phone takes three steps: a code goes to the number (Signup),
// comes back (VerifySignup), and an address and a password make the account
// (FinishSignup).
//
// Nobody learns from the first two whether a number has an account: for one
// that has, a code is stored that nobody can guess, none is sent, and the
// answers are those to any other number. The owner is not written to either, or
// anyone could make the workspace pay for messages to its users; that somebody
// tried is in the security log.
const (
	// SignupOpen is how long codes can be asked for again.
	SignupOpen = time.Hour
	// SignupFinish is how long a verified number waits for its account.
	SignupFinish = 15 * time.Minute
)

const signupPrefix = "ovs_"

// Signup is the first step.
type Signup struct {
	FullName      string
	PrimaryMobile string
}

// Signup sends a code to the number.
func (s *Service) Signup(ctx context.Context, t Tenant, in Signup, c Client) (mobile string, err error) {
	if err := mayRegister(t); err != nil {
		return "", err
	}
	name, err := fullName(in.FullName)
	if err != nil {
		return "", err
	}
	if mobile, err = NormalizeMobile(in.PrimaryMobile); err != nil {
		return "", err
	}
	return mobile, t.Do(ctx, func(db Conn) error {
		return pg.InTx(ctx, db, func(tx pgx.Tx) error {
			return s.sendSignupCode(ctx, tx, t, mobile, c, func(code string) (bool, error) {
				return true, s.putCode(ctx, tx, t, purposeSignup, mobile, code, map[string]string{"full_name": name})
			})
		})
	})
}

// ResendSignup sends another code, where a sign-up is under way. The one before
// dies.
func (s *Service) ResendSignup(ctx context.Context, t Tenant, primaryMobile string, c Client) error {
	if err := mayRegister(t); err != nil {
		return err
	}
	mobile, err := NormalizeMobile(primaryMobile)
	if err != nil {
		return err
	}
	return t.Do(ctx, func(db Conn) error {
		return pg.InTx(ctx, db, func(tx pgx.Tx) error {
			return s.sendSignupCode(ctx, tx, t, mobile, c, func(code string) (bool, error) {
				return s.replaceCode(ctx, tx, t, purposeSignup, mobile, code, SignupOpen)
			})
		})
	})
}

// sendSignupCode stores a code and sends it to a number without an account. For
// one with an account it does as much work and sends nothing.
func (s *Service) sendSignupCode(ctx context.Context, tx pgx.Tx, t Tenant, mobile string, c Client, store func(code string) (bool, error)) error {
	owner, err := s.queries.OwnerOfMobile(ctx, tx, mobile)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	code, taken := newCode(), err == nil
	if taken {
		code = "" // nobody can guess it
	}
	stored, err := store(code)
	if err != nil || !stored {
		return err
	}
	if taken {
		return s.queries.RecordSecurity(ctx, tx, dbsqlc.RecordSecurityParams{
			UserID: &owner.ID, UserDisplay: owner.FullName, Action: actionSignupOfUser,
			Metadata: metadata(), IPAddress: c.ip(), RequestID: c.RequestID,
		})
	}
	return sendSMS(ctx, tx, t, outbox.TemplateOTP, mobile, code, nil)
}

// VerifySignup takes the code that came back. The token that it answers lets
// whoever holds it finish the sign-up from anywhere.
func (s *Service) VerifySignup(ctx context.Context, t Tenant, primaryMobile, code string, c Client) (mobile, token string, err error) {
	if err := mayRegister(t); err != nil {
		return "", "", err
	}
	if mobile, err = NormalizeMobile(primaryMobile); err != nil {
		return "", "", err
	}
	right := false
	token = newOpaque(signupPrefix)
	err = t.Do(ctx, func(db Conn) error {
		return pg.InTx(ctx, db, func(tx pgx.Tx) error {
			var data map[string]string
			data, right, err = s.useCode(ctx, tx, t, purposeSignup, mobile, code)
			if err != nil {
				return err
			}
			action := actionSignupVerified
			if right {
				err = s.queries.PutSignup(ctx, tx, dbsqlc.PutSignupParams{
					PrimaryMobile: mobile, FullName: data["full_name"], TokenHash: digest(token), IPAddress: c.ip(), LifetimeSeconds: SignupFinish.Seconds(),
				})
			} else {
				action = actionCodeRefused
			}
			if err != nil {
				return err
			}
			return s.queries.RecordSecurity(ctx, tx, dbsqlc.RecordSecurityParams{
				Action: action, Metadata: metadata("purpose", string(purposeSignup)), IPAddress: c.ip(), RequestID: c.RequestID,
			})
		})
	})
	if err != nil {
		return "", "", err
	}
	if !right { // an error inside would have rolled the count back
		return "", "", wrongCode("otp")
	}
	return mobile, token, nil
}

// FinishedSignup is the last step.
type FinishedSignup struct {
	PrimaryMobile string
	Email         string
	Password      string
	Token         string // from VerifySignup; may be empty
}

// FinishSignup makes the account of a verified number, and signs it in. Clients
// need not show the token: without one, the request must come from the address
// from which the code came, so that a stranger who knows the number, and that
// it was just verified, cannot put an account of theirs on it.
func (s *Service) FinishSignup(ctx context.Context, t Tenant, in FinishedSignup, c Client) (Profile, Tokens, error) {
	if err := mayRegister(t); err != nil {
		return Profile{}, Tokens{}, err
	}
	mobile, err := NormalizeMobile(in.PrimaryMobile)
	if err != nil {
		return Profile{}, Tokens{}, err
	}
	email, err := NormalizeEmail(in.Email)
	if err != nil {
		return Profile{}, Tokens{}, err
	}
	if err := password.CheckPolicy(in.Password); err != nil {
		return Profile{}, Tokens{}, err
	}
	// Hashing is the expensive part: only for who may.
	var signup dbsqlc.FindSignupRow
	err = t.Do(ctx, func(db Conn) error {
		signup, err = s.queries.FindSignup(ctx, db, mobile)
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) || (err == nil && !holds(in.Token, signup, c)) {
		return Profile{}, Tokens{}, notVerified()
	}
	if err != nil {
		return Profile{}, Tokens{}, err
	}
	hash, err := password.Hash(ctx, in.Password)
	if err != nil {
		return Profile{}, Tokens{}, err
	}
	var profile Profile
	var tokens Tokens
	err = t.Do(ctx, func(db Conn) error {
		return pg.InTx(ctx, db, func(tx pgx.Tx) error {
			if err := makeRoom(ctx, t, tx); err != nil {
				return err
			}
			name, err := s.queries.TakeSignup(ctx, tx, dbsqlc.TakeSignupParams{PrimaryMobile: mobile, TokenHash: signup.TokenHash})
			if errors.Is(err, pgx.ErrNoRows) { // finished by another request meanwhile
				return notVerified()
			}
			if err != nil {
				return err
			}
			row, err := s.queries.CreateUserByMobile(ctx, tx, dbsqlc.CreateUserByMobileParams{
				Username: email, FullName: name, Email: &email, PrimaryMobile: &mobile, PasswordHash: &hash,
			})
			if err != nil {
				return taken(err) // the number stays verified: another address may do
			}
			profile = Profile(row)
			tokens, err = s.newSession(ctx, t, tx, profile, false, actionRegister, c)
			return err
		})
	})
	return profile, tokens, err
}

// holds tells whether a request to finish a sign-up comes from who verified the
// number.
func holds(token string, signup dbsqlc.FindSignupRow, c Client) bool {
	if token != "" {
		return subtle.ConstantTimeCompare(signup.TokenHash, digest(token)) == 1
	}
	return signup.IPAddress != nil && c.IP.IsValid() && sameClient(*signup.IPAddress, c.IP)
}

// sameClient compares addresses. A client of IPv6 changes its address within
// its network of 64 bits as it pleases.
func sameClient(a, b netip.Addr) bool {
	a, b = a.Unmap(), b.Unmap()
	if a.Is6() && b.Is6() {
		const network = 64
		prefix, err := a.Prefix(network)
		return err == nil && prefix.Contains(b.WithZone(""))
	}
	return a == b
}

func notVerified() error {
	const message = "This number is not verified, or was verified too long ago. Start the sign-up again."
	return fault.Invalid(message).Code("mobile_not_verified").OnField("primary_mobile", "not_verified", message)
}

// FirstUse remembers the digest of a token that counts once, and answers whether
// it is the first time that this tenant sees it.
func (s *Service) FirstUse(ctx context.Context, t Tenant, digest []byte, lifetime time.Duration) (bool, error) {
	first := false
	err := t.Do(ctx, func(db Conn) error {
		rows, err := s.queries.FirstUse(ctx, db, dbsqlc.FirstUseParams{TokenHash: digest, LifetimeSeconds: lifetime.Seconds()})
		first = rows == 1
		return err
	})
	return first, err
}

// mayRegister refuses who is not invited where the tenant wants that.
func mayRegister(t Tenant) error {
	if t.Route.Settings.AllowsSelfRegistration() {
		return nil
	}
	return fault.Forbidden("This workspace is joined by invitation only. Ask one of its owners for one.").Code("registration_closed")
}

func fullName(text string) (string, error) {
	name := strings.TrimSpace(text)
	if name == "" {
		return "", fault.Invalid("The full name must not be empty.").OnField("full_name", "required", "This must not be empty.")
	}
	return name, nil
}
