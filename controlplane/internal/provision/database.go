package provision

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/failpoint"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
)

// role gives the tenant's login role a new password: stored first, sealed so
// that only a node can read it, then set as a verifier.
func (a *attempt) role(ctx context.Context) error {
	if _, err := a.work.Admin(ctx); err != nil {
		return err
	}
	password := pg.NewPassword()
	verifier, err := pg.SCRAMVerifier(password)
	if err != nil {
		return err
	}
	sealed, err := a.s.data.Seal([]byte(password), route.CredentialContext(a.run.TenantID, a.tenant.incarnation))
	if err != nil {
		return fmt.Errorf("seal the role's password: %w", err)
	}
	err = a.run.InTx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE control.tenants SET credential = $2, updated_at = now() WHERE id = $1 AND status = 'provisioning'", a.run.TenantID, sealed)
		return err
	})
	if err != nil {
		return fmt.Errorf("store the role's password: %w", err)
	}
	failpoint.Hit(ctx, failpointRoleStored)
	return a.work.Role(ctx, a.database(), verifier, a.tenant.maxConnections)
}

// create makes the tenant's database from the template, closed.
func (a *attempt) create(ctx context.Context) error {
	template, err := a.work.Template(ctx)
	if err != nil {
		return err
	}
	return a.work.Create(ctx, a.database(), template)
}

// lockdown takes everything from everybody else and opens the database. The
// tenant's role still may not connect.
func (a *attempt) lockdown(ctx context.Context) error {
	return a.work.Lockdown(ctx, a.database())
}

// migrate brings the database to this release's version. A database from the
// template is there already; one that was made before an upgrade is not.
func (a *attempt) migrate(ctx context.Context) error {
	latest, err := migrations.Tenant.Latest()
	if err != nil {
		return err
	}
	inside, err := a.work.Inside(ctx, a.database())
	if err != nil {
		return err
	}
	var current bool
	err = inside.Scan(ctx, []any{&current}, `
		SELECT EXISTS (SELECT FROM ouvira.schema_migrations WHERE version = $1 AND NOT dirty)`, int64(latest))
	if err != nil || current {
		return err
	}
	return a.work.Migrate(ctx, a.database().Name())
}
