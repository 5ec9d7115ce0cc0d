package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
)

// Sign signs a statement with the key that signs the tenant's tokens, as ES256
// does: r and s, 32 bytes each. A statement must not look like a JWT, or it
// could be shown as a token: it begins with its purpose in plain words.
func (s *Service) Sign(ctx context.Context, db pg.Querier, tenant *route.Route, statement []byte) (kid string, signature []byte, err error) {
	key, err := s.keys.current(ctx, tenant, &s.queries, db)
	if err != nil {
		return "", nil, err
	}
	digest := sha256.Sum256(statement)
	r, ss, err := ecdsa.Sign(rand.Reader, key.private, digest[:])
	if err != nil {
		return "", nil, fmt.Errorf("sign: %w", err)
	}
	signature = make([]byte, 64)
	r.FillBytes(signature[:32])
	ss.FillBytes(signature[32:])
	return key.kid, signature, nil
}
