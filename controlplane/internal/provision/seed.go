package provision

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/shared/route"
)

// seedInput is what ouvira.seed_tenant is called with.
type seedInput struct {
	id             uuid.UUID
	owner          Owner
	emailVerified  bool
	passwordHash   *string
	tokenHash      []byte
	tokenExpiresAt *time.Time
	company        string
}

// seed writes the marker, the owner, the first company and the signing key into
// the tenant's database, and lets the tenant's role in, last of all.
func (a *attempt) seed(ctx context.Context) error {
	in, err := a.seedInput(ctx)
	if err != nil {
		return err
	}
	kid, public, sealed, err := a.signingKey()
	if err != nil {
		return err
	}
	if err := a.work.Stamp(ctx, a.database()); err != nil {
		return err
	}
	inside, err := a.work.Inside(ctx, a.database())
	if err != nil {
		return err
	}
	var seeded struct {
		SigningKeys json.RawMessage `json:"signing_keys"`
	}
	var version int64
	err = inside.Scan(ctx, []any{&seeded, &version}, `
		SELECT ouvira.seed_tenant($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11), (SELECT version FROM ouvira.schema_migrations)`,
		in.id, in.owner.FullName, in.owner.Email, in.emailVerified, in.passwordHash, in.tokenHash, in.tokenExpiresAt,
		in.company, kid, public, sealed)
	if err != nil {
		return err
	}
	if err := a.work.Admit(ctx, a.database()); err != nil {
		return err
	}
	err = a.run.InTx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			UPDATE control.tenants SET signing_keys = $2, schema_version = $3, updated_at = now()
			WHERE id = $1 AND status = 'provisioning'`, a.run.TenantID, seeded.SigningKeys, version)
		return err
	})
	if err != nil {
		return fmt.Errorf("store the tenant's public keys: %w", err)
	}
	return nil
}

func (a *attempt) seedInput(ctx context.Context) (seedInput, error) {
	if a.params.SignupID == uuid.Nil {
		return a.invited()
	}
	in := seedInput{id: a.params.SignupID, emailVerified: true}
	err := a.s.db.QueryRow(ctx, `
		SELECT company_name, full_name, email, password_hash FROM control.signups WHERE id = $1 AND tenant_id = $2`,
		a.params.SignupID, a.run.TenantID).
		Scan(&in.company, &in.owner.FullName, &in.owner.Email, &in.passwordHash)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && in.passwordHash == nil {
		return seedInput{}, operation.Fail("signup_gone", "The sign-up or its password is no longer kept.",
			"Ask the customer to sign up again, or create the tenant as an operator.")
	}
	if err != nil {
		return seedInput{}, fmt.Errorf("read the sign-up: %w", err)
	}
	return in, nil
}

// invited is the owner of a tenant that an operator creates: without a
// password, with a link to set one.
func (a *attempt) invited() (seedInput, error) {
	if a.params.Owner == nil {
		return seedInput{}, operation.Fail("owner_missing", "Nobody was named as the tenant's owner.", "Create the tenant again with an owner.")
	}
	token, err := OwnerToken(a.s.control, a.run.ID)
	if err != nil {
		return seedInput{}, err
	}
	expires := time.Now().Add(OwnerTokenLifetime)
	return seedInput{
		id: a.run.TenantID, owner: *a.params.Owner, company: a.tenant.name,
		tokenHash: OwnerTokenHash(token), tokenExpiresAt: &expires,
	}, nil
}

// signingKey makes an ES256 key pair: the public half as a JWK named by its
// thumbprint (RFC 7638), the private half in PKCS #8, sealed to the data plane.
func (a *attempt) signingKey() (kid string, public, sealed []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", nil, nil, fmt.Errorf("make a signing key: %w", err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return "", nil, nil, fmt.Errorf("encode the signing key: %w", err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	// An uncompressed point: 0x04, x, y.
	jwk := route.JWK{Kty: "EC", Crv: "P-256", X: b64(point[1:33]), Y: b64(point[33:65]), Alg: "ES256", Use: "sig"}
	thumbprint := sha256.Sum256(fmt.Appendf(nil, `{"crv":"P-256","kty":"EC","x":"%s","y":"%s"}`, jwk.X, jwk.Y))
	jwk.Kid = b64(thumbprint[:])
	if public, err = json.Marshal(jwk); err != nil {
		return "", nil, nil, fmt.Errorf("encode the signing key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", nil, nil, fmt.Errorf("encode the signing key: %w", err)
	}
	sealed, err = a.s.data.Seal(der, route.SigningKeyContext(a.run.TenantID, jwk.Kid))
	if err != nil {
		return "", nil, nil, fmt.Errorf("seal the signing key: %w", err)
	}
	return jwk.Kid, public, sealed, nil
}
