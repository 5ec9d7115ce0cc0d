package identity

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/identity/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/password"
	"github.com/ouvira/ouvira/shared/pg"
)

// Login is what somebody signs in with.
type Login struct {
	Identifier string // email address, phone number or user name
	Password   string
	Remember   bool
}

// SignedIn is how a login ends: with tokens, or half way with a challenge.
type SignedIn struct {
	Profile   Profile
	Tokens    Tokens
	Challenge *Challenge // there is a second factor: nobody is signed in yet
}

// credentials is what the login compares with. The zero value is nobody.
type credentials struct {
	userID  int64
	display string
	hash    string
	usable  bool // enabled, not locked, and has a password
	locked  bool
	second  bool // there is a second factor
}

// loginRefused is the one answer to wrong, unknown, locked and disabled.
func loginRefused() error {
	return fault.Unauthenticated("The identifier or the password is wrong.").Code("invalid_credentials")
}

// errMeanwhile says that the account is not as it was when the password was
// compared: locked, disabled, or with another hash.
var errMeanwhile = errors.New("the account was changed while the password was compared")

// Login signs somebody in. The connection is given back while the password is
// compared, which takes a core for some 20 ms.
func (s *Service) Login(ctx context.Context, t Tenant, in Login, c Client) (SignedIn, error) {
	out, err := s.tryLogin(ctx, t, in, c)
	if errors.Is(err, errMeanwhile) { // perhaps only another login, which has replaced an old hash
		out, err = s.tryLogin(ctx, t, in, c)
	}
	if errors.Is(err, errMeanwhile) {
		return SignedIn{}, loginRefused()
	}
	return out, err
}

func (s *Service) tryLogin(ctx context.Context, t Tenant, in Login, c Client) (SignedIn, error) {
	who, err := s.findCredentials(ctx, t, strings.TrimSpace(in.Identifier))
	if err != nil {
		return SignedIn{}, err
	}
	ok, rehash, err := password.Verify(ctx, who.hash, in.Password)
	if err != nil {
		return SignedIn{}, err
	}
	if !ok || !who.usable {
		if err := s.countFailure(ctx, t, who, ok, c); err != nil {
			return SignedIn{}, err
		}
		return SignedIn{}, loginRefused()
	}
	var newHash *string
	if rehash {
		hash, err := password.Hash(ctx, in.Password)
		if err != nil {
			return SignedIn{}, err
		}
		newHash = &hash
	}
	if who.second {
		challenge, err := s.challenge(ctx, t, who, newHash, in.Remember, c)
		return SignedIn{Challenge: &challenge}, err
	}
	profile, tokens, err := s.signIn(ctx, t, who, newHash, in.Remember, c)
	return SignedIn{Profile: profile, Tokens: tokens}, err
}

// findCredentials never fails for want of an account: who is not there gets
// the hash that nothing matches, so that the comparison costs the same.
func (s *Service) findCredentials(ctx context.Context, t Tenant, identifier string) (credentials, error) {
	who := credentials{hash: password.Dummy()}
	err := t.Do(ctx, func(db Conn) error {
		row, err := s.queries.FindCredentials(ctx, db, identifier)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		who.userID, who.display, who.locked, who.second = row.ID, row.FullName, row.Locked, row.Is2FAEnabled
		if row.PasswordHash != nil {
			who.hash = *row.PasswordHash
			who.usable = row.Enabled && !row.Locked
		}
		return nil
	})
	return who, err
}

// countFailure writes one row for everybody, so that an unknown identifier
// takes no less time than a wrong password. The identifier itself is not
// recorded: people type passwords into the wrong field.
func (s *Service) countFailure(ctx context.Context, t Tenant, who credentials, matched bool, c Client) error {
	reason := "wrong password"
	switch {
	case who.userID == 0:
		reason = "unknown identifier"
	case who.locked:
		reason = "locked"
	case !who.usable:
		reason = "disabled, or without a password"
	}
	return t.Do(ctx, func(db Conn) error {
		if who.userID == 0 || who.locked || matched {
			var userID *int64
			if who.userID != 0 {
				userID = &who.userID
			}
			return s.queries.RecordSecurity(ctx, db, dbsqlc.RecordSecurityParams{
				UserID: userID, UserDisplay: who.display, Action: actionLoginFailed,
				Metadata: metadata("reason", reason), IPAddress: c.ip(), RequestID: c.RequestID,
			})
		}
		return s.queries.CountFailedLogin(ctx, db, dbsqlc.CountFailedLoginParams{
			MaxFailures: MaxFailures, LockForSeconds: LockFor.Seconds(), UserID: &who.userID, UserDisplay: who.display,
			Action: actionLoginFailed, Metadata: metadata("reason", reason), IPAddress: c.ip(), RequestID: c.RequestID,
		})
	})
}

func (s *Service) signIn(ctx context.Context, t Tenant, who credentials, newHash *string, remember bool, c Client) (Profile, Tokens, error) {
	var profile Profile
	var tokens Tokens
	err := t.Do(ctx, func(db Conn) error {
		return pg.InTx(ctx, db, func(tx pgx.Tx) error {
			row, err := s.queries.SignIn(ctx, tx, dbsqlc.SignInParams{ID: who.userID, OldHash: who.hash, NewHash: newHash})
			if errors.Is(err, pgx.ErrNoRows) {
				return errMeanwhile
			}
			if err != nil {
				return err
			}
			profile = Profile(row)
			tokens, err = s.newSession(ctx, t, tx, profile, remember, actionLogin, c)
			return err
		})
	})
	return profile, tokens, err
}
