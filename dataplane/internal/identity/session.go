package identity

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/identity/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// Actions in the security log.
const (
	actionRegister       = "register"
	actionLogin          = "login"
	actionLoginFailed    = "login_failed"
	actionLogout         = "logout"
	actionRefreshReused  = "refresh_reused"
	actionSessionEnded   = "session_ended"
	actionPasswordForgot = "password_forgot"
	actionPasswordSet    = "password_set"
	actionPasswordWrong  = "password_wrong" // asked of somebody who is signed in

	actionUserActivated   = "user_activated"
	actionUserDeactivated = "user_deactivated"

	actionSignupVerified = "signup_verified"
	actionSignupOfUser   = "signup_of_existing_user"
	actionCodeRefused    = "code_refused"
	actionLoginHalf      = "login_second_factor_awaited"
	actionFactorEnabled  = "second_factor_enabled"
	actionFactorDisabled = "second_factor_disabled"
	actionFactorFailed   = "second_factor_failed"
	actionBackupUsed     = "backup_code_used"
	actionBackupRenewed  = "backup_codes_renewed"
	actionKeyCreated     = "api_key_created"
	actionSupportAllowed = "support_allowed"
	actionSupportEnded   = "support_ended"
	actionSupportEntered = "support_entered"
	actionKeyRevoked     = "api_key_revoked"
)

// Authenticate is the first statement of a request: one round trip for the
// session (or API key, or session of support), its user and the authorization epoch.
func (s *Service) Authenticate(ctx context.Context, db pg.Querier, v Verified) (Actor, error) {
	switch {
	case v.ByKey():
		return s.authenticateKey(ctx, db, v)
	case v.support:
		return s.authenticateSupport(ctx, db, v)
	}
	row, err := s.queries.Authenticate(ctx, db, dbsqlc.AuthenticateParams{SessionID: v.SessionID, UserID: v.UserID})
	if errors.Is(err, pgx.ErrNoRows) {
		return Actor{}, refused(errors.New("the session has ended, or its user is disabled"))
	}
	if err != nil {
		return Actor{}, err
	}
	return Actor{
		SessionID:  row.SessionID,
		AuthzEpoch: row.AuthzEpoch,
		AskedAt:    row.AskedAt,
		Profile: Profile{
			ID: row.ID, AccountUID: row.AccountUID, Username: row.Username, FullName: row.FullName,
			Email: row.Email, EmailVerified: row.EmailVerified, PrimaryMobile: row.PrimaryMobile, PhoneVerified: row.PhoneVerified,
			Is2FAEnabled: row.Is2FAEnabled, TwoFAType: row.TwoFAType,
			DateJoined: row.DateJoined, LastLogin: row.LastLogin, CreatedAt: row.CreatedAt, UpdatedAt: row.UpdatedAt,
		},
	}, nil
}

// newSession starts a session and gives its first tokens.
func (s *Service) newSession(ctx context.Context, t Tenant, db pg.Querier, u Profile, remember bool, action string, c Client) (Tokens, error) {
	id, refresh := uuid.New(), newRefreshToken(t.Route.TenantID)
	err := s.queries.StartSession(ctx, db, dbsqlc.StartSessionParams{
		SessionID: id, UserID: &u.ID, Remember: remember, UserAgent: c.userAgent(), IPAddress: c.ip(),
		LifetimeSeconds: lifetime(remember).Seconds(), TokenHash: refreshDigest(t.Route, refresh), IdleSeconds: idle(remember).Seconds(),
		UserDisplay: u.FullName, Action: action, Metadata: metadata("session", id.String()), RequestID: c.RequestID,
	})
	if err != nil {
		return Tokens{}, err
	}
	return s.tokensFor(ctx, t, db, u.ID, id, refresh, remember)
}

func (s *Service) tokensFor(ctx context.Context, t Tenant, db pg.Querier, userID int64, session uuid.UUID, refresh string, remember bool) (Tokens, error) {
	key, err := s.keys.current(ctx, t.Route, &s.queries, db)
	if err != nil {
		return Tokens{}, err
	}
	access, err := s.tokens.issue(t.Route, key, userID, session)
	if err != nil {
		return Tokens{}, err
	}
	return Tokens{Access: access, Refresh: refresh, ExpiresIn: AccessLifetime, Idle: idle(remember)}, nil
}

func lifetime(remember bool) time.Duration {
	if remember {
		return RememberLifetime
	}
	return SessionLifetime
}

func idle(remember bool) time.Duration {
	if remember {
		return RememberIdle
	}
	return RefreshIdle
}

// Refresh gives new tokens for a refresh token.
func (s *Service) Refresh(ctx context.Context, t Tenant, token string, c Client) (Tokens, error) {
	if !refreshTokenOf(t.Route.TenantID, token) {
		return Tokens{}, refreshRefused("not a refresh token of this tenant")
	}
	var tokens Tokens
	var reused bool
	err := t.Do(ctx, func(db Conn) error {
		return pg.InTx(ctx, db, func(tx pgx.Tx) error {
			var err error
			tokens, reused, err = s.rotate(ctx, t, tx, token, c)
			return err
		})
	})
	if err != nil {
		return Tokens{}, err
	}
	if reused { // an error inside would have rolled the revocation back
		return Tokens{}, refreshRefused("a rotated refresh token was used again: its session is ended")
	}
	return tokens, nil
}

// SessionOf names the session of a refresh token, rotated or not: "" for what
// is no refresh token of the tenant.
func (s *Service) SessionOf(ctx context.Context, t Tenant, token string) (string, error) {
	if !refreshTokenOf(t.Route.TenantID, token) {
		return "", nil
	}
	name := ""
	err := t.Do(ctx, func(db Conn) error {
		id, err := s.queries.FamilyOfRefreshToken(ctx, db, refreshDigest(t.Route, token))
		if err == nil {
			name = id.String()
		} else if !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		return nil
	})
	return name, err
}

func refreshRefused(why string) error {
	return fault.Unauthenticated("The refresh token is not valid any more. Sign in again.").
		Code("invalid_refresh_token").Because(errors.New(why))
}

func (s *Service) rotate(ctx context.Context, t Tenant, tx pgx.Tx, parent string, c Client) (tokens Tokens, reused bool, err error) {
	row, err := s.queries.LockRefreshToken(ctx, tx, dbsqlc.LockRefreshTokenParams{TokenHash: refreshDigest(t.Route, parent), GraceSeconds: RefreshGrace.Seconds()})
	if errors.Is(err, pgx.ErrNoRows) {
		return Tokens{}, false, refreshRefused("unknown refresh token")
	}
	if err != nil {
		return Tokens{}, false, err
	}
	if !row.Alive || !row.Enabled {
		return Tokens{}, false, refreshRefused("the session has ended, or its user is disabled")
	}
	switch {
	case row.Rotated && row.WithinGrace:
		child, err := openChild(parent, row.ChildSealed)
		if err != nil {
			return Tokens{}, false, err
		}
		tokens, err = s.tokensFor(ctx, t, tx, row.UserID, row.SessionID, child, row.Remember)
		return tokens, false, err
	case row.Rotated:
		err = s.queries.RevokeSession(ctx, tx, dbsqlc.RevokeSessionParams{
			Reason: "refresh token reused", SessionID: row.SessionID, UserID: &row.UserID, UserDisplay: row.FullName,
			Action: actionRefreshReused, Metadata: metadata("session", row.SessionID.String()), IPAddress: c.ip(), RequestID: c.RequestID,
		})
		return Tokens{}, true, err
	}
	child := newRefreshToken(t.Route.TenantID)
	sealed, err := sealChild(parent, child)
	if err != nil {
		return Tokens{}, false, err
	}
	err = s.queries.RotateRefreshToken(ctx, tx, dbsqlc.RotateRefreshTokenParams{
		ChildHash: refreshDigest(t.Route, child), SessionID: row.SessionID, IdleSeconds: idle(row.Remember).Seconds(), SessionExpiresAt: row.SessionExpiresAt,
		ChildSealed: sealed, ParentHash: refreshDigest(t.Route, parent),
	})
	if err != nil {
		return Tokens{}, false, err
	}
	tokens, err = s.tokensFor(ctx, t, tx, row.UserID, row.SessionID, child, row.Remember)
	return tokens, false, err
}

// Logout ends the actor's session, and the one of the refresh token when that
// is another of theirs.
func (s *Service) Logout(ctx context.Context, t Tenant, tx pgx.Tx, actor Actor, refresh string, c Client) error {
	sessions := []uuid.UUID{actor.SessionID}
	if refreshTokenOf(t.Route.TenantID, refresh) {
		other, err := s.queries.SessionOfRefreshToken(ctx, tx, dbsqlc.SessionOfRefreshTokenParams{TokenHash: refreshDigest(t.Route, refresh), UserID: actor.ID})
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		if err == nil && other != actor.SessionID {
			sessions = append(sessions, other)
		}
	}
	for _, id := range sessions {
		err := s.queries.RevokeSession(ctx, tx, dbsqlc.RevokeSessionParams{
			Reason: actionLogout, SessionID: id, UserID: &actor.ID, UserDisplay: actor.FullName,
			Action: actionLogout, Metadata: metadata("session", id.String()), IPAddress: c.ip(), RequestID: c.RequestID,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// metadata makes the JSON object of a security log entry from pairs.
func metadata(pairs ...string) json.RawMessage {
	object := make(map[string]string, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		object[pairs[i]] = pairs[i+1]
	}
	raw, err := json.Marshal(object)
	if err != nil {
		panic(err) // a map of strings always marshals
	}
	return raw
}
