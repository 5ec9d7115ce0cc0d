package route

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"errors"
	"fmt"
)

// PublicKey is the key that the JWK describes.
func (k JWK) PublicKey() (*ecdsa.PublicKey, error) {
	x, errX := base64.RawURLEncoding.DecodeString(k.X)
	y, errY := base64.RawURLEncoding.DecodeString(k.Y)
	if err := errors.Join(errX, errY); err != nil || k.Kty != "EC" || k.Crv != "P-256" || len(x) != 32 || len(y) != 32 {
		return nil, errors.New("the tenant's public key is not a P-256 JWK")
	}
	const uncompressed = 4 // SEC 1, 2.3.3
	point := append(append([]byte{uncompressed}, x...), y...)
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return nil, fmt.Errorf("the tenant's public key: %w", err)
	}
	return key, nil
}
