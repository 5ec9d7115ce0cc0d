package provision

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
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
	key, err := tenantdb.NewSigningKey(a.s.data, a.run.TenantID)
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
		in.company, key.Kid, string(key.Public), key.Private)
	if err != nil {
		return err
	}
	if err := a.work.Admit(ctx, a.database()); err != nil {
		return err
	}
	err = a.run.Finish(ctx, func(tx pgx.Tx) error {
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
	token, err := OwnerToken(a.s.control, a.params.LinkKey, a.run.ID)
	if err != nil {
		return seedInput{}, err
	}
	expires := time.Now().Add(OwnerTokenLifetime)
	return seedInput{
		id: a.run.TenantID, owner: *a.params.Owner, company: a.tenant.name,
		tokenHash: OwnerTokenHash(token), tokenExpiresAt: &expires,
	}, nil
}
