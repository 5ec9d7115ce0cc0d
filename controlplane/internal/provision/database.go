package provision

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/failpoint"
)

// role gives the tenant's login role a new password: stored first, sealed so
// that only a node can read it, then set as a verifier.
func (a *attempt) role(ctx context.Context) error {
	if _, err := a.work.Admin(ctx); err != nil {
		return err
	}
	credential, err := tenantdb.NewCredential(a.s.data, a.database())
	if err != nil {
		return err
	}
	err = a.run.InTx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE control.tenants SET credential = $2, updated_at = now() WHERE id = $1 AND status = 'provisioning'", a.run.TenantID, credential.Sealed)
		return err
	})
	if err != nil {
		return fmt.Errorf("store the role's password: %w", err)
	}
	failpoint.Hit(ctx, failpointRoleStored)
	return a.work.Role(ctx, a.database(), credential.Verifier, a.tenant.maxConnections)
}

// create makes a database from the template, closed.
func create(ctx context.Context, work *tenantdb.Work, d tenantdb.Database) error {
	template, err := work.Template(ctx)
	if err != nil {
		return err
	}
	return work.Create(ctx, d, template)
}
