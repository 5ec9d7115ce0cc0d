package identity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/identity/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
)

// ChallengeLifetime is how long a login with two factors waits half way: the
// password was right, and the client has a session id that is good for nothing
// but the second half. It dies with the password, and MaxCompared codes are
// compared under it. Wrong ones also count toward the account's lockout, over
// all its challenges, and a right password forgives none of them.
const ChallengeLifetime = 10 * time.Minute

const challengePrefix = "ovc_"

// Challenge is the first half of a login with two factors.
type Challenge struct {
	SessionID string
	Method    string // TOTP or SMS
	CodeSent  bool   // by SMS; if not, there were too many and a backup code is left
	ExpiresIn time.Duration
}

// challenge ends the first half of a login.
func (s *Service) challenge(ctx context.Context, t Tenant, who credentials, newHash *string, remember bool, c Client) (Challenge, error) {
	out := Challenge{SessionID: newOpaque(challengePrefix), ExpiresIn: ChallengeLifetime}
	err := inTx(ctx, t, func(tx pgx.Tx) error {
		account, err := s.queries.PassPassword(ctx, tx, dbsqlc.PassPasswordParams{ID: who.userID, OldHash: who.hash, NewHash: newHash})
		if errors.Is(err, pgx.ErrNoRows) {
			return errMeanwhile
		}
		if err != nil {
			return err
		}
		f, err := s.factorOf(ctx, tx, t, who.userID, true)
		if err != nil {
			return fmt.Errorf("find the second factor: %w", err)
		}
		out.Method = f.method
		params := dbsqlc.PutChallengeParams{
			SessionHash: digest(out.SessionID), UserID: who.userID, PasswordDigest: account.PasswordDigest, Remember: remember,
			CodeSeconds: CodeLifetime.Seconds(), LifetimeSeconds: ChallengeLifetime.Seconds(),
		}
		if f.method == SMS {
			code := newCode()
			err := s.sendToFactor(ctx, tx, t, f, code)
			switch {
			case err == nil:
				out.CodeSent = true
				if params.CodeSealed, err = s.key.Seal([]byte(code), challengeContext(t, out.SessionID)); err != nil {
					return fmt.Errorf("seal a code: %w", err)
				}
			case !fault.Is(err, fault.KindRateLimited):
				return err
			}
		}
		if err := s.queries.PutChallenge(ctx, tx, params); err != nil {
			return err
		}
		return s.queries.RecordSecurity(ctx, tx, dbsqlc.RecordSecurityParams{
			UserID: &who.userID, UserDisplay: account.FullName, Action: actionLoginHalf,
			Metadata: metadata("method", f.method), IPAddress: c.ip(), RequestID: c.RequestID,
		})
	})
	return out, err
}

// FinishLogin is the second half: a session for whoever has the second factor
// too.
func (s *Service) FinishLogin(ctx context.Context, t Tenant, sessionID string, proof Proof, c Client) (Profile, Tokens, error) {
	var profile Profile
	var tokens Tokens
	ok := false
	err := inTx(ctx, t, func(tx pgx.Tx) error {
		taken, err := s.queries.TakeChallenge(ctx, tx, dbsqlc.TakeChallengeParams{SessionHash: digest(sessionID), MaxAttempts: MaxCompared})
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		account, err := s.queries.LockForGuess(ctx, tx, taken.UserID)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		if account.Locked || !account.Is2FAEnabled || !bytes.Equal(account.PasswordDigest, taken.PasswordDigest) {
			return s.queries.RecordSecurity(ctx, tx, dbsqlc.RecordSecurityParams{
				UserID: &account.ID, UserDisplay: account.FullName, Action: actionFactorFailed,
				Metadata: metadata("reason", "locked, or changed since the password was given"), IPAddress: c.ip(), RequestID: c.RequestID,
			})
		}
		if ok, err = s.answers(ctx, tx, t, taken, account, sessionID, proof, c); err != nil || !ok {
			return err
		}
		if err := s.queries.SpendChallenge(ctx, tx, digest(sessionID)); err != nil {
			return err
		}
		row, err := s.queries.CompleteLogin(ctx, tx, account.ID)
		if err != nil {
			return err
		}
		profile = Profile(row)
		tokens, err = s.newSession(ctx, t, tx, profile, taken.Remember, actionLogin, c)
		return err
	})
	if err == nil && !ok { // an error inside would have rolled the counts back
		err = fault.Unauthenticated("The code is wrong, or this login has ended. Try another code, or sign in again.").Code("invalid_code")
	}
	return profile, tokens, err
}

// answers compares what was shown under a challenge.
func (s *Service) answers(ctx context.Context, tx pgx.Tx, t Tenant, taken dbsqlc.TakeChallengeRow, account dbsqlc.LockForGuessRow, sessionID string, proof Proof, c Client) (bool, error) {
	if taken.CodeSealed == nil || proof.BackupCode != "" {
		return s.proves(ctx, tx, t, account, proof, c)
	}
	sent, err := s.key.Unseal(taken.CodeSealed, challengeContext(t, sessionID))
	if err != nil {
		return false, fmt.Errorf("open a code: %w", err)
	}
	if taken.CodeAlive && sameCode(sent, codeOf(proof.Code)) {
		return true, nil
	}
	return false, s.countWrongFactor(ctx, tx, account, c)
}

// challengeContext binds a sealed code to the one login that it finishes.
func challengeContext(t Tenant, sessionID string) []byte {
	return fmt.Appendf(nil, "login-code/%s/%x", t.Route.TenantID, digest(sessionID))
}
