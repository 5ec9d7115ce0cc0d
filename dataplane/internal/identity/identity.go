// Package identity knows who asks: the users of a tenant, their passwords,
// sessions and tokens.
//
// It promises:
//
//   - An access token counts only at the tenant it was made for, and a token
//     that cannot be good is refused before anything is asked of a database.
//   - A session that was ended, and a user who was disabled, count for nothing
//     from the next request on: each request's first statement asks.
//   - A refresh token rotates. Shown again within the grace it gives the same
//     child; shown again later it ends the whole family.
//   - Wrong, unknown, locked and disabled logins look alike.
//   - Tokens are at least 128 random bits and stored only as digests.
//   - No connection is held while a password is hashed.
//
// Functions take the tenant's route and its database; nothing here knows which
// tenant is "current".
package identity

import (
	"context"
	"net/netip"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/dataplane/internal/identity/dbsqlc"
	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
)

// Lifetimes. A refresh token dies of idleness; its family, the session, has an
// absolute end that no refreshing moves.
const (
	AccessLifetime   = route.AccessLifetime
	RefreshIdle      = 7 * 24 * time.Hour
	RememberIdle     = 30 * 24 * time.Hour
	SessionLifetime  = 30 * 24 * time.Hour
	RememberLifetime = 90 * 24 * time.Hour
	// RefreshGrace is how long a rotated refresh token still gives its child: a
	// client that lost the answer may ask again.
	RefreshGrace = 30 * time.Second
)

// Lockout: this many failures in a row lock the account for this long.
const (
	MaxFailures = 5
	LockFor     = 30 * time.Minute
)

// Conn is a connection to one tenant's database.
type Conn interface {
	pg.Querier
	pg.Beginner
}

// Tenant is one tenant: what is known of it, and the way to its database. Do
// leases a connection for as long as work runs.
type Tenant struct {
	Route *route.Route
	Do    func(ctx context.Context, work func(Conn) error) error
	// Outbox takes the mail and SMS of the request.
	Outbox *outbox.Queue
}

// Client is where a request came from, for the security log.
type Client struct {
	IP        netip.Addr // may be invalid: unknown
	UserAgent string
	RequestID string
}

func (c Client) ip() *netip.Addr {
	if !c.IP.IsValid() {
		return nil
	}
	return &c.IP
}

// userAgent is cut: it is for people who look at their sessions.
func (c Client) userAgent() string {
	const most = 256
	runes := []rune(c.UserAgent)
	return string(runes[:min(len(runes), most)])
}

// Profile is a user as they see themselves.
type Profile struct {
	ID            int64
	AccountUID    string
	Username      string
	FullName      string
	Email         *string
	EmailVerified bool
	PrimaryMobile *string
	PhoneVerified bool
	Is2FAEnabled  bool
	TwoFAType     *string
	DateJoined    time.Time
	LastLogin     *time.Time
	CreatedAt     time.Time
	UpdatedAt     time.Time
}

// Actor is who asks, as the first statement of the request found them.
type Actor struct {
	Profile

	SessionID  uuid.UUID // of a session; zero with an API key, and for support
	AuthzEpoch int64
	AskedAt    time.Time // by the clock of the tenant's database
	Key        *UsedKey  // with an API key
	Support    *Support  // when support acts for the user
}

// Tokens are what a client signs in with.
type Tokens struct {
	Access    string
	Refresh   string
	ExpiresIn time.Duration // of the access token
	Idle      time.Duration // of the refresh token: it dies when it is not used for so long
}

// Service is the room. It holds no state of a tenant but caches that may be
// lost at any time.
type Service struct {
	queries dbsqlc.Queries
	tokens  *AccessTokens
	keys    *signingKeys
	key     Key
}

// New makes the service. key opens the tenants' sealed signing keys, and seals
// one-time codes and the secrets of second factors.
func New(tokens *AccessTokens, key Key) *Service {
	return &Service{tokens: tokens, keys: newSigningKeys(key), key: key}
}
