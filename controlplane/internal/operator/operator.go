// Package operator knows the people who run the platform: their accounts,
// their logins and what each role may do.
//
// It promises: a fresh installation has no operator and no default password;
// passwords are kept as argon2id hashes, tokens as SHA-256 digests of 256
// random bits; an unknown address, a wrong password and a locked account get
// the same answer after the same work; no more than five guesses at a password
// are compared before the account locks, however many arrive at once.
package operator

import (
	"context"
	"errors"
	"fmt"
	"net/mail"
	"net/netip"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/operator/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/password"
	"github.com/ouvira/ouvira/shared/pg"
)

// How long things live.
const (
	AccessLifetime  = 15 * time.Minute
	CookieIdle      = 30 * time.Minute   // a cookie login ends when it is not used for so long
	CookieLifetime  = 12 * time.Hour     // and in any case after this
	SessionLifetime = 7 * 24 * time.Hour // of a bearer login; refreshing does not extend it
	Fresh           = 15 * time.Minute   // what cannot be undone wants a login that is no older

	maxFailures = 5
	lockMinutes = 30
)

// Operator is an account.
type Operator struct {
	ID          uuid.UUID
	Email       string
	FullName    string
	Role        Role
	IsActive    bool
	LastLoginAt *time.Time
	CreatedAt   time.Time
}

// Service of the room.
type Service struct {
	DB  *pgxpool.Pool
	Now func() time.Time // nil means time.Now

	q dbsqlc.Queries
}

func (s *Service) now() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now()
}

// New is a request for an account.
type New struct {
	Email    string
	FullName string
	Role     Role
	Password string
}

// Create makes an account.
func (s *Service) Create(ctx context.Context, actor *audit.Actor, n New) (Operator, error) {
	email, err := NormalizeEmail(n.Email)
	if err != nil {
		return Operator{}, err
	}
	if !n.Role.Valid() {
		return Operator{}, fault.Invalid("The role must be owner, operator, support or auditor.").OnField("role", "choice", "There is no such role.")
	}
	if err := password.CheckPolicy(n.Password); err != nil {
		return Operator{}, err
	}
	hash, err := password.Hash(ctx, n.Password)
	if err != nil {
		return Operator{}, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return Operator{}, fmt.Errorf("make an id: %w", err)
	}
	o := Operator{ID: id, Email: email, FullName: strings.TrimSpace(n.FullName), Role: n.Role, IsActive: true, CreatedAt: s.now()}
	err = pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		err := s.q.InsertOperator(ctx, tx, dbsqlc.InsertOperatorParams{
			ID: id, Email: email, FullName: o.FullName, Role: string(o.Role), PasswordHash: hash,
		})
		if pg.Constraint(err) == "operators_email_key" {
			return fault.Conflict("An operator with this address exists already.").Code("email_taken").
				OnField("email", "taken", "This address is taken.").Because(err)
		}
		if err != nil {
			return fmt.Errorf("store the operator: %w", err)
		}
		return audit.Record(ctx, tx, audit.Entry{
			Actor: actor, Action: "operator.create", EntityType: "operator", EntityID: id.String(),
			Detail: map[string]any{"email": email, "role": o.Role},
		})
	})
	return o, err
}

// NormalizeEmail brings an address to the form in which accounts are kept. An
// address with anything around it (a name, a line break) is refused, and so
// are quoted and non-ASCII ones, which many mail servers do not take.
func NormalizeEmail(s string) (string, error) {
	s = strings.TrimSpace(s)
	parsed, err := mail.ParseAddress(s)
	if err != nil || parsed.Address != s || parsed.Name != "" || len(s) > 254 || strings.ContainsFunc(s, notInAddress) {
		return "", fault.Invalid("The email address is not valid.").OnField("email", "email", "This is not an email address.")
	}
	return strings.ToLower(s), nil
}

func notInAddress(r rune) bool { return r <= ' ' || r >= 0x7f || r == '"' || r == '\\' }

// List gives all accounts by address.
func (s *Service) List(ctx context.Context) ([]Operator, error) {
	rows, err := s.q.ListOperators(ctx, s.DB)
	if err != nil {
		return nil, fmt.Errorf("list the operators: %w", err)
	}
	list := make([]Operator, 0, len(rows))
	for _, r := range rows {
		list = append(list, Operator{
			ID: r.ID, Email: r.Email, FullName: r.FullName, Role: Role(r.Role),
			IsActive: r.IsActive, LastLoginAt: r.LastLoginAt, CreatedAt: r.CreatedAt,
		})
	}
	return list, nil
}

// Credentials of a login.
type Credentials struct {
	Email     string
	Password  string
	Cookie    bool // for a browser: one token, kept alive by use
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
	return fault.Unauthenticated("The address or the password is wrong, or the account is locked for a while after too many attempts.").Code("login_refused")
}

// Login checks the credentials and starts a session.
func (s *Service) Login(ctx context.Context, c Credentials) (Tokens, error) {
	// An address that cannot be one is unknown, like any other.
	email := strings.ToLower(strings.TrimSpace(c.Email))
	found, err := s.q.BeginLogin(ctx, s.DB, dbsqlc.BeginLoginParams{
		Email: email, MaxFailures: maxFailures, LockMinutes: lockMinutes,
	})
	known := err == nil
	if !known && !errors.Is(err, pgx.ErrNoRows) {
		return Tokens{}, fmt.Errorf("look up the operator: %w", err)
	}
	hash := password.Dummy
	if known {
		hash = found.PasswordHash
	}
	ok, rehash, err := password.Verify(ctx, hash, c.Password)
	if err != nil {
		return Tokens{}, err
	}
	if !known || !ok {
		return Tokens{}, refused()
	}
	var newHash *string
	if rehash {
		h, err := password.Hash(ctx, c.Password)
		if err != nil {
			return Tokens{}, err
		}
		newHash = &h
	}
	return s.begin(ctx, c, found, newHash)
}

func (s *Service) begin(ctx context.Context, c Credentials, o dbsqlc.BeginLoginRow, newHash *string) (Tokens, error) {
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
	session := dbsqlc.InsertSessionParams{
		ID: id, OperatorID: o.ID,
		AccessHash: hashToken(t.Access), AccessExpiresAt: now.Add(t.ExpiresIn),
		RefreshHash: hashToken(t.Refresh), ExpiresAt: now.Add(lifetime),
		UserAgent: bounded(c.UserAgent, 200), IpAddress: optional(c.IP),
	}
	if c.Cookie {
		t.Refresh = "" // nobody will ever know it
	}
	err = pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		if err := s.q.CompleteLogin(ctx, tx, dbsqlc.CompleteLoginParams{ID: o.ID, NewHash: newHash}); err != nil {
			return fmt.Errorf("complete the login: %w", err)
		}
		if err := s.q.InsertSession(ctx, tx, session); err != nil {
			return fmt.Errorf("store the session: %w", err)
		}
		return audit.Record(ctx, tx, audit.Entry{
			Actor:  &audit.Actor{Kind: audit.KindOperator, ID: o.ID.String(), Name: o.Email, IP: c.IP, RequestID: c.RequestID},
			Action: "operator.login", EntityType: "operator", EntityID: o.ID.String(),
			Detail: map[string]any{"session": id, "cookie": c.Cookie},
		})
	})
	if err != nil {
		return Tokens{}, err
	}
	return t, nil
}

// Principal is an operator who has signed in.
type Principal struct {
	OperatorID uuid.UUID
	SessionID  uuid.UUID
	Email      string
	FullName   string
	Role       Role
	SignedInAt time.Time // when the credentials were last shown; refreshing shows none
}

// Actor of the audit log.
func (p Principal) Actor(ip netip.Addr, requestID string) *audit.Actor {
	return &audit.Actor{Kind: audit.KindOperator, ID: p.OperatorID.String(), Name: p.Email, IP: ip, RequestID: requestID}
}

func signIn() *fault.Error {
	return fault.Unauthenticated("Sign in first (POST /v1/auth/login), or sign in again: this token is unknown or has expired.")
}

// Authenticate finds who a bearer token belongs to.
func (s *Service) Authenticate(ctx context.Context, token string) (Principal, error) {
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
		SignedInAt: row.AuthenticatedAt,
	}
}

// CheckFresh refuses who has not shown their credentials of late: a session that
// somebody else got hold of must not do what cannot be undone.
func (s *Service) CheckFresh(p Principal) error {
	if s.now().Sub(p.SignedInAt) > Fresh {
		return fault.Forbidden("This wants a fresh login: sign in again, and repeat it within 15 minutes.").Code("fresh_login_required")
	}
	return nil
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
		return audit.Record(ctx, tx, audit.Entry{
			Actor: actor, Action: "operator.logout", EntityType: "operator", EntityID: p.OperatorID.String(),
			Detail: map[string]any{"session": p.SessionID},
		})
	})
}

// Sweep forgets sessions that ended long ago.
func (s *Service) Sweep(ctx context.Context) error {
	if _, err := s.q.DeleteEndedSessions(ctx, s.DB); err != nil {
		return fmt.Errorf("forget ended sessions: %w", err)
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
