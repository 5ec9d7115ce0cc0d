package identity

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/route"
)

const (
	typeAccess = "access"
	// maxTokenBytes bounds what is looked at: our tokens have some 500.
	maxTokenBytes = 4096
	// verifiedTokens is how many verified tokens a node remembers, about 200
	// bytes each. Verifying a signature costs a third of a small request.
	verifiedTokens = 50_000
	// leeway for nodes whose clocks differ.
	leeway = 5 * time.Second
)

// AccessTokens makes and checks access tokens: JWTs with ES256 and the key of
// one tenant.
type AccessTokens struct {
	scheme, domain, port string
	verified             *lru.Cache[[sha256.Size]byte, Verified]
	now                  func() time.Time
}

// Verified is what a good access token says.
type Verified struct {
	UserID    int64
	SessionID uuid.UUID
	Expires   time.Time

	keyHash []byte // of an API key: nothing else is known of it
	support bool   // the session is one of support, which acts for the user

	kid   string
	epoch int64
}

// ByKey tells whether this is an API key, of which only the shape was checked.
func (v Verified) ByKey() bool { return v.keyHash != nil }

// KeyDigest tells API keys apart; it is "" for access tokens.
func (v Verified) KeyDigest() string { return string(v.keyHash) }

type claims struct {
	jwt.RegisteredClaims

	SessionID string `json:"sid"`
	Epoch     int64  `json:"gen"`
	Type      string `json:"typ"`
	Actor     *actor `json:"act,omitempty"` // RFC 8693: who acts for the subject
}

// actor is the operator of a support session.
type actor struct {
	Subject string `json:"sub"`
	Name    string `json:"name"`
}

// NewAccessTokens takes the parts of the tenants' platform addresses, of which
// the issuer is made. They come from the configuration, never from a request.
func NewAccessTokens(scheme, baseDomain, port string) (*AccessTokens, error) {
	if scheme == "" || baseDomain == "" {
		return nil, errors.New("the tokens' issuer needs a scheme and a base domain: set OUVIRA_PUBLIC_SCHEME and OUVIRA_BASE_DOMAIN")
	}
	cache, err := lru.New[[sha256.Size]byte, Verified](verifiedTokens)
	if err != nil {
		return nil, fmt.Errorf("make the cache of verified tokens: %w", err)
	}
	return &AccessTokens{scheme: scheme, domain: baseDomain, port: port, verified: cache, now: time.Now}, nil
}

// Issuer is the platform address of the tenant: of its slug, which never
// changes, whatever domains it has.
func (a *AccessTokens) Issuer(tenant *route.Route) string {
	return a.address(tenant.Slug + "." + a.domain)
}

// Link leads to a page with a token in its query: to the tenant's own page
// where it has set one, else to the path at its primary domain. Both are what
// is stored of the tenant; what a request says of hosts has no part in it.
func (a *AccessTokens) Link(tenant *route.Route, page, path, token string) (string, error) {
	if page == "" {
		page = a.Primary(tenant) + path
	}
	u, err := url.Parse(page)
	if err != nil {
		return "", errors.New("the page that the tenant has set for its links is not a URL")
	}
	query := u.Query()
	query.Set("token", token)
	u.RawQuery = query.Encode()
	return u.String(), nil
}

// Primary is the address of the tenant's primary domain, or of its name on the
// platform where it has none.
func (a *AccessTokens) Primary(tenant *route.Route) string {
	if tenant.CustomPrimary && len(tenant.Hosts) > 0 {
		return a.address(tenant.Hosts[0])
	}
	return a.Issuer(tenant)
}

func (a *AccessTokens) address(host string) string {
	if a.port != "" {
		host = net.JoinHostPort(host, a.port)
	}
	return (&url.URL{Scheme: a.scheme, Host: host}).String()
}

func (a *AccessTokens) issue(tenant *route.Route, key signingKey, userID int64, session uuid.UUID) (string, error) {
	return a.sign(tenant, key, userID, session, AccessLifetime, nil)
}

func (a *AccessTokens) sign(tenant *route.Route, key signingKey, userID int64, session uuid.UUID, lifetime time.Duration, act *actor) (string, error) {
	now := a.now()
	token := jwt.NewWithClaims(jwt.SigningMethodES256, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer:    a.Issuer(tenant),
			Audience:  jwt.ClaimStrings{tenant.TenantID.String()},
			Subject:   strconv.FormatInt(userID, 10),
			IssuedAt:  jwt.NewNumericDate(now),
			ExpiresAt: jwt.NewNumericDate(now.Add(lifetime)),
		},
		SessionID: session.String(),
		Epoch:     tenant.TokenEpoch,
		Type:      typeAccess,
		Actor:     act,
	})
	token.Header["kid"] = key.kid
	signed, err := token.SignedString(key.private)
	if err != nil {
		return "", fmt.Errorf("sign an access token: %w", err)
	}
	return signed, nil
}

// refused is the one answer to every token that is not good.
func refused(cause error) error {
	return fault.Unauthenticated("The access token is missing, expired or not valid here. Sign in again.").
		Code("invalid_token").Because(cause)
}

// Verify checks an access token against the tenant's public keys, and an API
// key by its shape and tenant. It asks nothing of any database. What can change
// while a token lives (its key, the tenant's epoch, the time) is checked each
// time, cached or not.
func (a *AccessTokens) Verify(tenant *route.Route, token string) (Verified, error) {
	if token == "" || len(token) > maxTokenBytes {
		return Verified{}, refused(errors.New("no token, or one of impossible size"))
	}
	if tenant.TenantID == uuid.Nil {
		return Verified{}, refused(errors.New("the tenant has no id, so no token can be meant for it"))
	}
	if looksLikeKey(token) {
		v, err := verifyKey(tenant.TenantID, tenant.TokenEpoch, token)
		if err != nil {
			return Verified{}, refused(err)
		}
		return v, nil
	}
	var room [1024]byte // most tokens fit, and nothing is allocated
	cacheKey := sha256.Sum256(append(append(room[:0], tenant.TenantID[:]...), token...))
	v, known := a.verified.Get(cacheKey)
	if !known {
		var err error
		if v, err = a.parse(tenant, token); err != nil {
			return Verified{}, refused(err)
		}
		a.verified.Add(cacheKey, v)
	}
	_, keyKnown := publicJWK(tenant, v.kid)
	if !keyKnown || v.epoch != tenant.TokenEpoch || a.now().After(v.Expires.Add(leeway)) {
		a.verified.Remove(cacheKey)
		return Verified{}, refused(errors.New("the token has expired, or its key or epoch has been withdrawn"))
	}
	return v, nil
}

func (a *AccessTokens) parse(tenant *route.Route, token string) (Verified, error) {
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodES256.Alg()}),
		jwt.WithAudience(tenant.TenantID.String()),
		jwt.WithIssuer(a.Issuer(tenant)),
		jwt.WithExpirationRequired(),
		jwt.WithLeeway(leeway),
		jwt.WithTimeFunc(a.now),
	)
	var c claims
	var kid string
	_, err := parser.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
		// The key is the tenant's own, found by kid; jku, jwk and x5u are not
		// looked at.
		kid, _ = t.Header["kid"].(string)
		jwk, ok := publicJWK(tenant, kid)
		if !ok {
			return nil, errors.New("the token's key is not one of the tenant's")
		}
		return jwk.PublicKey()
	})
	if err != nil {
		return Verified{}, err
	}
	if c.Type != typeAccess {
		return Verified{}, errors.New("the token is not an access token")
	}
	v := Verified{kid: kid, epoch: c.Epoch, Expires: c.ExpiresAt.Time, support: c.Actor != nil}
	if v.UserID, err = strconv.ParseInt(c.Subject, 10, 64); err != nil {
		return Verified{}, errors.New("the token's subject is not a user")
	}
	if v.SessionID, err = uuid.Parse(c.SessionID); err != nil {
		return Verified{}, errors.New("the token names no session")
	}
	return v, nil
}

func publicJWK(tenant *route.Route, kid string) (route.JWK, bool) {
	for _, k := range tenant.Keys {
		if kid != "" && k.Kid == kid {
			return k, true
		}
	}
	return route.JWK{}, false
}
