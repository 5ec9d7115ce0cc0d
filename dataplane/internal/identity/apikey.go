package identity

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/dataplane/internal/identity/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// KeyLifetime is how long an API key works at most, and does when its maker
// names no other time.
const KeyLifetime = 365 * 24 * time.Hour

// An API key is "ouk_", the tenant's id, a short name by which people tell keys
// apart, and 256 random bits: "ouk_<26 characters>_<8>_<52>", in base32 without
// padding, lower case. The id lets a key of another tenant be refused before
// its database is asked; what stands before the secret is the prefix that lists
// show.
const (
	keyPrefix     = "ouk_"
	keyNameBytes  = 5
	keyNameLength = 8
)

var b32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

var (
	keyShownLength = len(keyPrefix) + b32.EncodedLen(16) + 1 + keyNameLength
	keyLength      = keyShownLength + 1 + b32.EncodedLen(secretBytes)
)

func newAPIKey(tenant uuid.UUID) (key, shown string) {
	random := make([]byte, keyNameBytes+secretBytes)
	_, _ = rand.Read(random) // never fails
	shown = keyPrefix + b32.EncodeToString(tenant[:]) + "_" + b32.EncodeToString(random[:keyNameBytes])
	return shown + "_" + b32.EncodeToString(random[keyNameBytes:]), shown
}

// looksLikeKey tells an API key from an access token by its shape.
func looksLikeKey(token string) bool { return strings.HasPrefix(token, keyPrefix) }

// verifyKey tells whether the text can be an API key of the tenant; whether it
// is one, the tenant's database knows.
func verifyKey(tenant uuid.UUID, epoch int64, text string) (Verified, error) {
	if len(text) != keyLength || !strings.HasPrefix(text, keyPrefix+b32.EncodeToString(tenant[:])+"_") {
		return Verified{}, errors.New("not an API key of this tenant")
	}
	return Verified{keyHash: digest(text), epoch: epoch}, nil
}

// UsedKey is the API key with which a request came. It narrows what its user may
// do: to its permissions, in its company and those below it.
type UsedKey struct {
	ID          int64
	Name        string
	CompanyID   int64
	Permissions []string
	ExpiresAt   time.Time
}

// Holds tells whether the permission was put on the key.
func (k *UsedKey) Holds(permission string) bool { return slices.Contains(k.Permissions, permission) }

func (s *Service) authenticateKey(ctx context.Context, db pg.Querier, v Verified) (Actor, error) {
	row, err := s.queries.AuthenticateKey(ctx, db, dbsqlc.AuthenticateKeyParams{TokenHash: v.keyHash, TokenEpoch: v.epoch})
	if errors.Is(err, pgx.ErrNoRows) {
		return Actor{}, refused(errors.New("the API key is unknown, expired or revoked, or its user is disabled"))
	}
	if err != nil {
		return Actor{}, err
	}
	return Actor{
		AuthzEpoch: row.AuthzEpoch,
		AskedAt:    row.AskedAt,
		Key:        &UsedKey{ID: row.KeyID, Name: row.KeyName, CompanyID: row.KeyCompanyID, Permissions: row.KeyPermissions, ExpiresAt: row.KeyExpiresAt},
		Profile: Profile{
			ID: row.ID, AccountUID: row.AccountUID, Username: row.Username, FullName: row.FullName,
			Email: row.Email, EmailVerified: row.EmailVerified, PrimaryMobile: row.PrimaryMobile, PhoneVerified: row.PhoneVerified,
			Is2FAEnabled: row.Is2FAEnabled, TwoFAType: row.TwoFAType,
			DateJoined: row.DateJoined, LastLogin: row.LastLogin, CreatedAt: row.CreatedAt, UpdatedAt: row.UpdatedAt,
		},
	}, nil
}

// KeyReaches tells whether the key works in a company.
func (s *Service) KeyReaches(ctx context.Context, db pg.Querier, k *UsedKey, companyID int64) (bool, error) {
	if k.CompanyID == companyID {
		return true, nil
	}
	return s.queries.KeyReaches(ctx, db, dbsqlc.KeyReachesParams{KeyCompanyID: k.CompanyID, CompanyID: companyID})
}

// KeyCompanies are the companies in which the key works.
func (s *Service) KeyCompanies(ctx context.Context, db pg.Querier, k *UsedKey) ([]int64, error) {
	return s.queries.KeyCompanies(ctx, db, k.CompanyID)
}

// APIKey is an API key as lists show it.
type APIKey struct {
	ID          int64
	Name        string
	UserID      int64
	UserDisplay string
	CompanyID   int64
	Prefix      string
	Permissions []string
	ExpiresAt   time.Time
	LastUsedAt  *time.Time
	CreatedAt   time.Time
	UpdatedAt   time.Time
	DeletedAt   *time.Time
}

// NewKey is an API key that is to be made. That its maker holds what stands on
// it is checked by who calls.
type NewKey struct {
	Name        string
	CompanyID   int64
	Permissions []string
	ExpiresAt   *time.Time // nil: as long as can be
}

// recordedKey is what the activity log keeps of an API key.
type recordedKey struct {
	Name        string    `json:"name" audit:"show"`
	User        int64     `json:"user" audit:"show"`
	Prefix      string    `json:"prefix" audit:"show"`
	Permissions []string  `json:"permissions" audit:"show"`
	ExpiresAt   time.Time `json:"expires_at" audit:"show"`
}

var apiKeys = audit.Of[recordedKey]("api_key")

// CreateAPIKey makes a key that acts for the actor, and returns it with the
// only copy of its text. A key that was made with another one lives no longer
// than that one.
func (s *Service) CreateAPIKey(ctx context.Context, t Tenant, tx pgx.Tx, actor Actor, in NewKey, who audit.Who) (APIKey, string, error) {
	in.Name = strings.TrimSpace(in.Name)
	if in.Name == "" {
		return APIKey{}, "", fault.Invalid("The key needs a name, by which you tell it from others.").OnField("name", "required", "This must not be empty.")
	}
	slices.Sort(in.Permissions)
	in.Permissions = slices.Compact(in.Permissions)
	if err := s.checkKeyExpiry(in.ExpiresAt); err != nil {
		return APIKey{}, "", err
	}
	var parent *int64
	if actor.Key != nil {
		// Locked, so that a revocation meanwhile waits and then finds the child.
		if _, err := s.queries.LockKey(ctx, tx, actor.Key.ID); err != nil {
			return APIKey{}, "", refused(err)
		}
		parent = &actor.Key.ID
		if in.ExpiresAt == nil || in.ExpiresAt.After(actor.Key.ExpiresAt) {
			in.ExpiresAt = &actor.Key.ExpiresAt
		}
	}
	text, shown := newAPIKey(t.Route.TenantID)
	row, err := s.queries.CreateKey(ctx, tx, dbsqlc.CreateKeyParams{
		Name: in.Name, UserID: actor.ID, CompanyID: in.CompanyID, ParentKeyID: parent, Prefix: shown, TokenHash: digest(text),
		Permissions: in.Permissions, TokenEpoch: t.Route.TokenEpoch, ExpiresAt: in.ExpiresAt, LifetimeSeconds: KeyLifetime.Seconds(),
	})
	if err != nil {
		return APIKey{}, "", err
	}
	key := APIKey{
		ID: row.ID, Name: in.Name, UserID: actor.ID, UserDisplay: actor.FullName, CompanyID: in.CompanyID, Prefix: shown,
		Permissions: in.Permissions, ExpiresAt: row.ExpiresAt, CreatedAt: row.CreatedAt, UpdatedAt: row.UpdatedAt,
	}
	err = apiKeys.Created(ctx, tx, who, &in.CompanyID, row.ID, recordedKey{key.Name, key.UserID, key.Prefix, key.Permissions, key.ExpiresAt})
	if err != nil {
		return APIKey{}, "", err
	}
	return key, text, audit.Security(ctx, tx, who, actionKeyCreated, map[string]any{"key": shown, "company": in.CompanyID})
}

func (s *Service) checkKeyExpiry(at *time.Time) error {
	const message = "A key expires in the future, and in a year at the latest."
	if now := s.tokens.now(); at != nil && (!at.After(now) || at.After(now.Add(KeyLifetime+leeway))) {
		return fault.Invalid(message).OnField("expires_at", "range", message)
	}
	return nil
}

// UnknownPermissions are those of the codes that the tenant does not have.
func (s *Service) UnknownPermissions(ctx context.Context, db pg.Querier, codes []string) ([]string, error) {
	return s.queries.UnknownPermissions(ctx, db, codes)
}

// APIKeys is a page of the keys of companies, the newest first, and how many
// there are in all. Revoked keys are not among them, expired ones are.
func (s *Service) APIKeys(ctx context.Context, db pg.Querier, companies []int64, limit, offset int32) ([]APIKey, int64, error) {
	count, err := s.queries.CountKeys(ctx, db, companies)
	if err != nil {
		return nil, 0, err
	}
	rows, err := s.queries.ListKeys(ctx, db, dbsqlc.ListKeysParams{Companies: companies, MaxRows: limit, SkipRows: offset})
	if err != nil {
		return nil, 0, err
	}
	keys := make([]APIKey, len(rows))
	for i, row := range rows {
		keys[i] = APIKey(row)
	}
	return keys, count, nil
}

// CompanyOfAPIKey locks a key that is not revoked and tells its company.
func (s *Service) CompanyOfAPIKey(ctx context.Context, tx pgx.Tx, id int64) (int64, error) {
	row, err := s.queries.LockKey(ctx, tx, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, ErrNoAPIKey()
	}
	return row.CompanyID, err
}

// ErrNoAPIKey is the answer for a key that is not there, or not to be seen.
func ErrNoAPIKey() error {
	return fault.NotFound("There is no such API key, or it is revoked already.")
}

// RevokeAPIKey ends a key, and those that were made with it, from the next
// request on.
func (s *Service) RevokeAPIKey(ctx context.Context, tx pgx.Tx, id int64, who audit.Who) error {
	rows, err := s.queries.RevokeKey(ctx, tx, id)
	if err != nil {
		return err
	}
	for _, row := range rows {
		err := apiKeys.Deleted(ctx, tx, who, &row.CompanyID, row.ID, recordedKey{row.Name, row.UserID, row.Prefix, row.Permissions, row.ExpiresAt})
		if err != nil {
			return err
		}
		if err := audit.Security(ctx, tx, who, actionKeyRevoked, map[string]any{"key": row.Prefix, "company": row.CompanyID}); err != nil {
			return err
		}
	}
	return nil
}
