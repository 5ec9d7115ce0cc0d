package provision

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/failpoint"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
)

// secret is a new password of a tenant's role, in the two forms that are kept.
type secret struct {
	verifier string // for Postgres
	sealed   []byte // for the nodes: the control plane cannot open it
}

func (s *Service) credential(d tenantdb.Database) (secret, error) {
	password := pg.NewPassword()
	verifier, err := pg.SCRAMVerifier(password)
	if err != nil {
		return secret{}, err
	}
	sealed, err := s.data.Seal([]byte(password), route.CredentialContext(d.Tenant, d.Incarnation))
	if err != nil {
		return secret{}, fmt.Errorf("seal the role's password: %w", err)
	}
	return secret{verifier, sealed}, nil
}

// role gives the tenant's login role a new password: stored first, sealed so
// that only a node can read it, then set as a verifier.
func (a *attempt) role(ctx context.Context) error {
	if _, err := a.work.Admin(ctx); err != nil {
		return err
	}
	secret, err := a.s.credential(a.database())
	if err != nil {
		return err
	}
	err = a.run.InTx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE control.tenants SET credential = $2, updated_at = now() WHERE id = $1 AND status = 'provisioning'", a.run.TenantID, secret.sealed)
		return err
	})
	if err != nil {
		return fmt.Errorf("store the role's password: %w", err)
	}
	failpoint.Hit(ctx, failpointRoleStored)
	return a.work.Role(ctx, a.database(), secret.verifier, a.tenant.maxConnections)
}

// create makes a database from the template, closed.
func create(ctx context.Context, work *tenantdb.Work, d tenantdb.Database) error {
	template, err := work.Template(ctx)
	if err != nil {
		return err
	}
	return work.Create(ctx, d, template)
}

// migrate brings the database to this release's version. A database from the
// template is there already; one that was made before an upgrade is not.
func migrate(ctx context.Context, work *tenantdb.Work, d tenantdb.Database) error {
	_, err := work.CatchUp(ctx, d)
	return err
}
