package tenantdb

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/seal"
)

// Credential is a new password for the role of a database: sealed, so that only a
// node can read it, and as the verifier that Postgres is given. Store what is sealed
// before the role has it.
type Credential struct {
	Sealed   []byte
	Verifier string
}

// NewCredential makes a password that nobody here keeps.
func NewCredential(data *seal.PublicKey, d Database) (Credential, error) {
	password := pg.NewPassword()
	verifier, err := pg.SCRAMVerifier(password)
	if err != nil {
		return Credential{}, err
	}
	sealed, err := data.Seal([]byte(password), route.CredentialContext(d.Tenant, d.Incarnation))
	if err != nil {
		return Credential{}, fmt.Errorf("seal the role's password: %w", err)
	}
	return Credential{Sealed: sealed, Verifier: verifier}, nil
}

// SigningKey is a tenant's ES256 key: the public half as a JWK named by its
// thumbprint (RFC 7638), the private half in PKCS #8, sealed to the data plane.
type SigningKey struct {
	Kid     string
	Public  []byte
	Private []byte
}

// NewSigningKey makes one.
func NewSigningKey(data *seal.PublicKey, tenant uuid.UUID) (SigningKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return SigningKey{}, fmt.Errorf("make a signing key: %w", err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return SigningKey{}, fmt.Errorf("encode the signing key: %w", err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	// An uncompressed point: 0x04, x, y.
	jwk := route.JWK{Kty: "EC", Crv: "P-256", X: b64(point[1:33]), Y: b64(point[33:65]), Alg: "ES256", Use: "sig"}
	thumbprint := sha256.Sum256(fmt.Appendf(nil, `{"crv":"P-256","kty":"EC","x":"%s","y":"%s"}`, jwk.X, jwk.Y))
	jwk.Kid = b64(thumbprint[:])
	public, err := json.Marshal(jwk)
	if err != nil {
		return SigningKey{}, fmt.Errorf("encode the signing key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return SigningKey{}, fmt.Errorf("encode the signing key: %w", err)
	}
	sealed, err := data.Seal(der, route.SigningKeyContext(tenant, jwk.Kid))
	if err != nil {
		return SigningKey{}, fmt.Errorf("seal the signing key: %w", err)
	}
	return SigningKey{Kid: jwk.Kid, Public: public, Private: sealed}, nil
}
