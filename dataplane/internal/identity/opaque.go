package identity

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/shared/route"
)

// A refresh token is "ovr_", the tenant's id and 256 random bits, the last two
// in base64url. The id is no secret; it lets a token of another tenant be
// refused before its database is asked.
const (
	refreshPrefix = "ovr_"
	secretBytes   = 32
)

var b64 = base64.RawURLEncoding

var refreshBytes = len(refreshPrefix) + b64.EncodedLen(16) + b64.EncodedLen(secretBytes)

func newRefreshToken(tenant uuid.UUID) string {
	secret := make([]byte, secretBytes)
	_, _ = rand.Read(secret) // never fails
	return refreshPrefix + b64.EncodeToString(tenant[:]) + b64.EncodeToString(secret)
}

// newOpaque is a prefix and 256 random bits.
func newOpaque(prefix string) string {
	secret := make([]byte, secretBytes)
	_, _ = rand.Read(secret) // never fails
	return prefix + b64.EncodeToString(secret)
}

// refreshTokenOf tells whether the text can be a refresh token of the tenant.
func refreshTokenOf(tenant uuid.UUID, text string) bool {
	return len(text) == refreshBytes && strings.HasPrefix(text, refreshPrefix+b64.EncodeToString(tenant[:]))
}

// digest is how tokens are stored. They are random, so one plain hash will do.
func digest(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

// refreshDigest is how refresh tokens are stored: bound to the tenant's token epoch
// at the time, so that a token from before the epoch was raised is an unknown one.
// In the first epoch it is the plain digest.
func refreshDigest(tenant *route.Route, token string) []byte {
	if tenant.TokenEpoch <= 1 {
		return digest(token)
	}
	return digest(fmt.Sprintf("%s/%d", token, tenant.TokenEpoch))
}

// sealChild encrypts a refresh token under a key derived from its parent: who
// has the parent gets the child again, who reads the database gets nothing.
func sealChild(parent, child string) ([]byte, error) {
	aead, err := childCipher(parent)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, aead.NonceSize())
	_, _ = rand.Read(nonce) // never fails
	return aead.Seal(nonce, nonce, []byte(child), nil), nil
}

func openChild(parent string, sealed []byte) (string, error) {
	aead, err := childCipher(parent)
	if err != nil {
		return "", err
	}
	if len(sealed) < aead.NonceSize() {
		return "", errors.New("the sealed refresh token is too short")
	}
	child, err := aead.Open(nil, sealed[:aead.NonceSize()], sealed[aead.NonceSize():], nil)
	if err != nil {
		return "", errors.New("the sealed refresh token does not open")
	}
	return string(child), nil
}

func childCipher(parent string) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, []byte(parent), nil, "ouvira refresh child", 32)
	if err != nil {
		return nil, fmt.Errorf("derive the key of a refresh token: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("derive the key of a refresh token: %w", err)
	}
	return cipher.NewGCM(block)
}
