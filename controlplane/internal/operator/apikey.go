package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/operator/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

const (
	// KeyLifetime is how long an API key works at most, and when nothing else was
	// asked for.
	KeyLifetime = 365 * 24 * time.Hour
	// keyShown is how much of a key lists show. The rest has 216 random bits.
	keyShown = len(prefixKey) + 7
	// keyUseNoted is how exactly lists tell when a key was last used.
	keyUseNoted = time.Minute
)

// UsedKey is the API key with which a request came.
type UsedKey struct {
	ID     uuid.UUID
	Name   string
	Scopes []string
}

// Holds tells whether the permission is on the key. There is no scope that means
// several: a key that may delete tenants says so.
func (k *UsedKey) Holds(p Permission) bool { return slices.Contains(k.Scopes, string(p)) }

// APIKey as lists show it.
type APIKey struct {
	ID         uuid.UUID
	Name       string
	Prefix     string
	Scopes     []string
	Operator   string // for whom it acts
	CreatedAt  time.Time
	ExpiresAt  time.Time
	LastUsedAt *time.Time
}

// NewKey is an API key that is to be made.
type NewKey struct {
	Name      string
	Scopes    []string
	ExpiresAt *time.Time // nil: as late as can be
}

// CreateAPIKey makes a key that acts for the operator, and returns it with the
// only copy of its text. Nobody puts on a key what they may not do.
func (s *Service) CreateAPIKey(ctx context.Context, actor *audit.Actor, p Principal, n NewKey) (APIKey, string, error) {
	n, err := s.checkKey(p, n)
	if err != nil {
		return APIKey{}, "", err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return APIKey{}, "", fmt.Errorf("make an id: %w", err)
	}
	text := newToken(prefixKey)
	k := APIKey{ID: id, Name: n.Name, Prefix: text[:keyShown], Scopes: n.Scopes, Operator: p.Email, ExpiresAt: *n.ExpiresAt}
	err = pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		// Locked, so that a deactivation meanwhile waits and then finds the key.
		o, err := s.lock(ctx, tx, p.OperatorID)
		if err != nil {
			return err
		}
		if !o.IsActive {
			return signIn()
		}
		k.CreatedAt, err = s.q.InsertAPIKey(ctx, tx, dbsqlc.InsertAPIKeyParams{
			ID: id, OperatorID: p.OperatorID, Name: k.Name, Prefix: k.Prefix, TokenHash: hashToken(text), Scopes: k.Scopes, ExpiresAt: k.ExpiresAt,
		})
		if err != nil {
			return fmt.Errorf("store the API key: %w", err)
		}
		return recordKey(ctx, tx, actor, "apikey.create", id, map[string]any{"name": k.Name, "prefix": k.Prefix, "scopes": k.Scopes, "expires_at": k.ExpiresAt})
	})
	return k, text, err
}

// checkKey brings what is asked for to the form that is stored.
func (s *Service) checkKey(p Principal, n NewKey) (NewKey, error) {
	n.Name = strings.TrimSpace(n.Name)
	if n.Name == "" || len(n.Name) > 100 {
		return n, fault.Invalid("The key needs a name of 1 to 100 characters, by which you tell it from others.").OnField("name", "length", "This must have 1 to 100 characters.")
	}
	slices.Sort(n.Scopes)
	n.Scopes = slices.Compact(n.Scopes)
	if len(n.Scopes) == 0 {
		return n, fault.Invalid("Name at least one permission that the key has.").OnField("scopes", "required", "This must not be empty.")
	}
	for _, scope := range n.Scopes {
		if !KnownPermission(Permission(scope)) {
			return n, fault.Invalid("A scope is none of the permissions that there are.").OnField("scopes", "unknown", "There is no such permission.")
		}
		if !p.May(Permission(scope)) {
			return n, fault.Forbidden("You cannot put on a key what you may not do yourself: " + scope + ".").Code("permission_denied")
		}
	}
	now := s.now()
	if n.ExpiresAt == nil {
		latest := now.Add(KeyLifetime)
		n.ExpiresAt = &latest
	}
	if !n.ExpiresAt.After(now) || n.ExpiresAt.After(now.Add(KeyLifetime+time.Minute)) {
		return n, fault.Invalid("A key expires in the future, and in a year at the latest.").OnField("expires_at", "range", "This must be in the future, and a year from now at the latest.")
	}
	return n, nil
}

func recordKey(ctx context.Context, tx pgx.Tx, actor *audit.Actor, action string, id uuid.UUID, detail map[string]any) error {
	return audit.Record(ctx, tx, audit.Entry{Actor: actor, Action: action, EntityType: "api_key", EntityID: id.String(), Detail: detail})
}

// APIKeys are the keys of the operator, or of all for who may edit operators. Those
// that were revoked are not among them, expired ones are.
func (s *Service) APIKeys(ctx context.Context, p Principal) ([]APIKey, error) {
	rows, err := s.q.ListAPIKeys(ctx, s.DB, dbsqlc.ListAPIKeysParams{OperatorID: p.OperatorID, Everyones: p.May(OperatorEdit)})
	if err != nil {
		return nil, fmt.Errorf("list the API keys: %w", err)
	}
	list := make([]APIKey, 0, len(rows))
	for _, r := range rows {
		list = append(list, APIKey(r))
	}
	return list, nil
}

// RevokeAPIKey ends a key from the next request on: one's own, or anybody's for
// who may edit operators.
func (s *Service) RevokeAPIKey(ctx context.Context, actor *audit.Actor, p Principal, id uuid.UUID) error {
	return pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		row, err := s.q.RevokeAPIKey(ctx, tx, dbsqlc.RevokeAPIKeyParams{ID: id, OperatorID: p.OperatorID, Everyones: p.May(OperatorEdit)})
		if errors.Is(err, pgx.ErrNoRows) {
			return fault.NotFound("There is no such API key, or it is revoked already.")
		}
		if err != nil {
			return fmt.Errorf("revoke an API key: %w", err)
		}
		return recordKey(ctx, tx, actor, "apikey.revoke", id, map[string]any{"name": row.Name, "prefix": row.Prefix})
	})
}

func (s *Service) authenticateKey(ctx context.Context, token string) (Principal, error) {
	row, err := s.q.FindAPIKey(ctx, s.DB, hashToken(token))
	if errors.Is(err, pgx.ErrNoRows) {
		return Principal{}, fault.Unauthenticated("This API key is unknown, expired or revoked, or its operator is deactivated.")
	}
	if err != nil {
		return Principal{}, fmt.Errorf("look up the API key: %w", err)
	}
	if row.LastUsedAt == nil || s.now().Sub(*row.LastUsedAt) > keyUseNoted {
		if err := s.q.NoteAPIKeyUse(ctx, s.DB, row.ID); err != nil {
			return Principal{}, fmt.Errorf("note the use of an API key: %w", err)
		}
	}
	return Principal{
		OperatorID: row.OperatorID, Email: row.Email, FullName: row.FullName, Role: Role(row.Role),
		Key: &UsedKey{ID: row.ID, Name: row.Name, Scopes: row.Scopes},
	}, nil
}
