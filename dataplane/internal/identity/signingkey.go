package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/google/uuid"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/ouvira/ouvira/dataplane/internal/identity/dbsqlc"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
)

// Opener opens what was sealed to the data plane (seal.DataKey).
type Opener interface {
	Open(sealed, context []byte) ([]byte, error)
}

// openedKeys is how many private keys a node keeps in memory.
const openedKeys = 10_000

type signingKey struct {
	kid     string
	private *ecdsa.PrivateKey
}

type keyID struct {
	tenant uuid.UUID
	kid    string
}

// signingKeys reads and opens the tenants' private keys. A kid names one key
// for ever, so an opened key is never out of date; which kid signs is decided
// by the route each time.
type signingKeys struct {
	opener Opener
	opened *lru.Cache[keyID, *ecdsa.PrivateKey]
}

func newSigningKeys(opener Opener) *signingKeys {
	cache, err := lru.New[keyID, *ecdsa.PrivateKey](openedKeys)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return &signingKeys{opener: opener, opened: cache}
}

// current is the key that signs: the last one of the route. A new key stands
// before the others until every node can verify what it signs.
func (s *signingKeys) current(ctx context.Context, tenant *route.Route, queries *dbsqlc.Queries, db pg.Querier) (signingKey, error) {
	if len(tenant.Keys) == 0 {
		return signingKey{}, errors.New("the tenant's route announces no signing key")
	}
	id := keyID{tenant.TenantID, tenant.Keys[len(tenant.Keys)-1].Kid}
	if private, ok := s.opened.Get(id); ok {
		return signingKey{id.kid, private}, nil
	}
	sealed, err := queries.SigningKey(ctx, db, id.kid)
	if err != nil {
		return signingKey{}, fmt.Errorf("read the signing key: %w", err)
	}
	der, err := s.opener.Open(sealed, route.SigningKeyContext(id.tenant, id.kid))
	if err != nil {
		return signingKey{}, fmt.Errorf("open the signing key: %w", err)
	}
	private, err := parsePrivate(der)
	if err != nil {
		return signingKey{}, err
	}
	s.opened.Add(id, private)
	return signingKey{id.kid, private}, nil
}

// parsePrivate reads PKCS #8.
func parsePrivate(der []byte) (*ecdsa.PrivateKey, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errors.New("the signing key is not in PKCS #8 form") // the parser's words could quote it
	}
	private, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || private.Curve != elliptic.P256() {
		return nil, errors.New("the signing key is not a P-256 key")
	}
	return private, nil
}
