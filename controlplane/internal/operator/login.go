package operator

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/operator/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/password"
	"github.com/ouvira/ouvira/shared/pg"
)

// Proof is what an operator shows of themselves: as in Credentials.
type Proof struct {
	Password string
	Code     string
}

// Credentials of a login.
type Credentials struct {
	Email     string
	Password  string
	Code      string // of the second factor, or a backup code, where there is one
	Cookie    bool   // for a browser: one token, kept alive by use
	UserAgent string
	IP        netip.Addr
	RequestID string
}

// Tokens are shown once; only their digests are kept.
type Tokens struct {
	Access    string
	Refresh   string // empty for a cookie login
	ExpiresIn time.Duration
	SessionID uuid.UUID
}

// refused is the one answer to every login that fails.
func refused() *fault.Error {
	return fault.Unauthenticated("The address, the password or the code is wrong, or the account is locked for a while after too many attempts.").Code("login_refused")
}

var errCodeWanted = errors.New("the second factor was not shown")

// codeWanted is what somebody hears who has shown the right password, and has a
// second factor.
func codeWanted() *fault.Error {
	return fault.Unauthenticated("Send the code of your second factor, or a backup code, as otp besides the password.").Code("otp_required").Because(errCodeWanted)
}

// Login checks the credentials and starts a session.
func (s *Service) Login(ctx context.Context, c Credentials) (Tokens, error) {
	var t Tokens
	err := s.proved(ctx, c.Email, Proof{Password: c.Password, Code: c.Code}, func(tx pgx.Tx, o dbsqlc.BeginLoginRow, second bool) error {
		var err error
		t, err = s.begin(ctx, tx, c, o, second)
		return err
	})
	return t, err
}

// Confirm lets somebody who is signed in show their credentials again, so that
// their login is fresh.
func (s *Service) Confirm(ctx context.Context, actor *audit.Actor, p Principal, proof Proof) error {
	return s.proved(ctx, p.Email, proof, func(tx pgx.Tx, o dbsqlc.BeginLoginRow, second bool) error {
		n, err := s.q.RenewAuthentication(ctx, tx, dbsqlc.RenewAuthenticationParams{ID: p.SessionID, SecondFactor: second})
		if err != nil {
			return fmt.Errorf("renew the authentication: %w", err)
		}
		if n == 0 {
			return signIn()
		}
		return record(ctx, tx, actor, "operator.confirm", o.ID, nil)
	})
}

// proved does the work, in a transaction, for somebody who shows all that their
// account asks for. The attempt was counted and committed before: a wrong one
// stays counted.
func (s *Service) proved(ctx context.Context, email string, proof Proof, work func(tx pgx.Tx, o dbsqlc.BeginLoginRow, second bool) error) error {
	// An address that cannot be one is unknown, like any other.
	email = strings.ToLower(strings.TrimSpace(email))
	o, err := s.q.BeginLogin(ctx, s.DB, dbsqlc.BeginLoginParams{Email: email, MaxFailures: maxFailures, LockMinutes: lockMinutes})
	known := err == nil
	if !known && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("look up the operator: %w", err)
	}
	hash := password.Dummy()
	if known {
		hash = o.PasswordHash
	}
	ok, rehash, err := password.Verify(ctx, hash, proof.Password)
	if err != nil {
		return err
	}
	if !known || !ok {
		return refused()
	}
	var newHash *string
	if rehash {
		h, err := password.Hash(ctx, proof.Password)
		if err != nil {
			return err
		}
		newHash = &h
	}
	err = pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		if err := s.q.CompleteLogin(ctx, tx, dbsqlc.CompleteLoginParams{ID: o.ID, NewHash: newHash}); err != nil {
			return fmt.Errorf("complete the login: %w", err)
		}
		second, err := s.proveFactor(ctx, tx, o.ID, proof.Code)
		if err != nil {
			return err
		}
		return work(tx, o, second)
	})
	if errors.Is(err, errCodeWanted) {
		// Nothing was guessed at: the password was right, the code comes next.
		if err := s.q.ReturnAttempt(ctx, s.DB, dbsqlc.ReturnAttemptParams{ID: o.ID, MaxFailures: maxFailures}); err != nil {
			return fmt.Errorf("take an attempt back: %w", err)
		}
	}
	return err
}

func (s *Service) begin(ctx context.Context, tx pgx.Tx, c Credentials, o dbsqlc.BeginLoginRow, second bool) (Tokens, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return Tokens{}, fmt.Errorf("make an id: %w", err)
	}
	now := s.now()
	t := Tokens{Access: newToken(prefixAccess), Refresh: newToken(prefixRefresh), ExpiresIn: AccessLifetime, SessionID: id}
	lifetime := SessionLifetime
	if c.Cookie {
		t.Access, t.ExpiresIn, lifetime = newToken(prefixCookie), CookieIdle, CookieLifetime
	}
	err = s.q.InsertSession(ctx, tx, dbsqlc.InsertSessionParams{
		ID: id, OperatorID: o.ID,
		AccessHash: hashToken(t.Access), AccessExpiresAt: now.Add(t.ExpiresIn),
		RefreshHash: hashToken(t.Refresh), ExpiresAt: now.Add(lifetime),
		SecondFactor: second, UserAgent: bounded(c.UserAgent, 200), IpAddress: optional(c.IP),
	})
	if err != nil {
		return Tokens{}, fmt.Errorf("store the session: %w", err)
	}
	if c.Cookie {
		t.Refresh = "" // nobody will ever know it
	}
	actor := &audit.Actor{Kind: audit.KindOperator, ID: o.ID.String(), Name: o.Email, IP: c.IP, RequestID: c.RequestID}
	return t, record(ctx, tx, actor, "operator.login", o.ID, map[string]any{"session": id, "cookie": c.Cookie, "second_factor": second})
}

// Principal is an operator who has signed in, or for whom an API key acts.
type Principal struct {
	OperatorID uuid.UUID
	SessionID  uuid.UUID // none with a key
	Email      string
	FullName   string
	Role       Role
	SignedInAt time.Time  // when the credentials were last shown; refreshing shows none
	FactorAt   *time.Time // when the second factor was
	Key        *UsedKey   // nil: a person
}

// May tells whether the principal has the permission: by the role, and with a key
// by its scopes too.
func (p Principal) May(needed Permission) bool {
	return p.Role.May(needed) && (p.Key == nil || p.Key.Holds(needed))
}

// Actor of the audit log.
func (p Principal) Actor(ip netip.Addr, requestID string) *audit.Actor {
	name := p.Email
	if p.Key != nil {
		name += " (key " + p.Key.Name + ")"
	}
	return &audit.Actor{Kind: audit.KindOperator, ID: p.OperatorID.String(), Name: name, IP: ip, RequestID: requestID}
}

func signIn() *fault.Error {
	return fault.Unauthenticated("Sign in first (POST /v1/auth/login), or sign in again: this token is unknown or has expired.")
}

// Authenticate finds who a bearer token or an API key belongs to.
func (s *Service) Authenticate(ctx context.Context, token string) (Principal, error) {
	if plausible(token, prefixKey) {
		return s.authenticateKey(ctx, token)
	}
	if !plausible(token, prefixAccess) {
		return Principal{}, signIn()
	}
	row, err := s.find(ctx, token)
	if err != nil {
		return Principal{}, err
	}
	return principal(row), nil
}

// AuthenticateCookie finds who a cookie belongs to and keeps its session
// alive.
func (s *Service) AuthenticateCookie(ctx context.Context, token string) (Principal, error) {
	if !plausible(token, prefixCookie) {
		return Principal{}, signIn()
	}
	row, err := s.find(ctx, token)
	if err != nil {
		return Principal{}, err
	}
	// Not on each of the many requests of a page: only when half is used up.
	if row.AccessExpiresAt.Sub(s.now()) < CookieIdle/2 {
		err := s.q.ExtendSession(ctx, s.DB, dbsqlc.ExtendSessionParams{ID: row.ID, AccessExpiresAt: s.now().Add(CookieIdle)})
		if err != nil {
			return Principal{}, fmt.Errorf("extend the session: %w", err)
		}
	}
	return principal(row), nil
}

func (s *Service) find(ctx context.Context, token string) (dbsqlc.FindSessionRow, error) {
	row, err := s.q.FindSession(ctx, s.DB, hashToken(token))
	if errors.Is(err, pgx.ErrNoRows) {
		return row, signIn()
	}
	if err != nil {
		return row, fmt.Errorf("look up the session: %w", err)
	}
	return row, nil
}

func principal(row dbsqlc.FindSessionRow) Principal {
	return Principal{
		OperatorID: row.OperatorID, SessionID: row.ID, Email: row.Email, FullName: row.FullName, Role: Role(row.Role),
		SignedInAt: row.AuthenticatedAt, FactorAt: row.SecondFactorAt,
	}
}

// CheckFresh refuses who has not shown their credentials of late: a session that
// somebody else got hold of must not do what cannot be undone. A key shows none;
// what it may do is named on it.
func (s *Service) CheckFresh(p Principal) error {
	if p.Key == nil && s.now().Sub(p.SignedInAt) > Fresh {
		return fault.Forbidden("This wants a fresh login: show your credentials again (POST /v1/auth/confirm, or sign in), and repeat it within 15 minutes.").Code("fresh_login_required")
	}
	return nil
}

// CheckFreshFactor refuses who has not shown their second factor of late.
func (s *Service) CheckFreshFactor(p Principal) error {
	if p.FactorAt == nil || s.now().Sub(*p.FactorAt) > Fresh {
		return fault.Forbidden("This wants a second factor that was shown within the last 15 minutes: enrol one if you have none, or sign in again with its code.").Code("second_factor_required")
	}
	return s.CheckFresh(p)
}

// Refresh exchanges a refresh token for new tokens; the old ones are dead.
func (s *Service) Refresh(ctx context.Context, refresh string) (Tokens, error) {
	if !plausible(refresh, prefixRefresh) {
		return Tokens{}, signIn()
	}
	now := s.now()
	t := Tokens{Access: newToken(prefixAccess), Refresh: newToken(prefixRefresh)}
	row, err := s.q.RotateSession(ctx, s.DB, dbsqlc.RotateSessionParams{
		RefreshHash: hashToken(refresh), AccessHash: hashToken(t.Access),
		NewRefreshHash: hashToken(t.Refresh), AccessExpiresAt: now.Add(AccessLifetime),
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return Tokens{}, signIn()
	}
	if err != nil {
		return Tokens{}, fmt.Errorf("rotate the session: %w", err)
	}
	t.SessionID, t.ExpiresIn = row.ID, row.AccessExpiresAt.Sub(now)
	return t, nil
}

// Logout ends the session.
func (s *Service) Logout(ctx context.Context, actor *audit.Actor, p Principal) error {
	return pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		if _, err := s.q.RevokeSession(ctx, tx, p.SessionID); err != nil {
			return fmt.Errorf("end the session: %w", err)
		}
		return record(ctx, tx, actor, "operator.logout", p.OperatorID, map[string]any{"session": p.SessionID})
	})
}

// endSessions ends all sessions of an account, but for one.
func (s *Service) endSessions(ctx context.Context, tx pgx.Tx, operatorID, but uuid.UUID) error {
	if _, err := s.q.EndSessions(ctx, tx, dbsqlc.EndSessionsParams{OperatorID: operatorID, But: but}); err != nil {
		return fmt.Errorf("end the sessions: %w", err)
	}
	return nil
}

// Sweep forgets sessions and links that ended long ago.
func (s *Service) Sweep(ctx context.Context) error {
	if _, err := s.q.DeleteEndedSessions(ctx, s.DB); err != nil {
		return fmt.Errorf("forget ended sessions: %w", err)
	}
	if err := s.q.DeleteOldLinks(ctx, s.DB); err != nil {
		return fmt.Errorf("forget old links: %w", err)
	}
	return nil
}

func bounded(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "")
}

func optional(ip netip.Addr) *netip.Addr {
	if !ip.IsValid() {
		return nil
	}
	return &ip
}
