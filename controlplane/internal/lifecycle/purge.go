package lifecycle

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/event"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
)

// detach ends what replicates from or to the databases.
func (a *attempt) detach(ctx context.Context) error {
	return a.deleted(ctx, func(t *tenant, w *tenantdb.Work) error {
		for _, d := range incarnations(t) {
			if err := w.Detach(ctx, d); err != nil {
				return err
			}
		}
		return nil
	})
}

// drop removes the databases and the roles of all incarnations: an earlier one may
// have been kept for a while after a restore.
func (a *attempt) drop(ctx context.Context) error {
	return a.deleted(ctx, func(t *tenant, w *tenantdb.Work) error {
		for _, d := range incarnations(t) {
			if err := w.Drop(ctx, d); err != nil {
				return err
			}
		}
		return nil
	})
}

func incarnations(t *tenant) []tenantdb.Database {
	all := make([]tenantdb.Database, 0, t.incarnation)
	for n := t.incarnation; n >= 1; n-- {
		all = append(all, tenantdb.Database{Tenant: t.id, Incarnation: n})
	}
	return all
}

// erase removes what the row knows of the database, the credential above all, and
// gives the tenant's domains free. The row stays: its slug is given to nobody else.
func (a *attempt) erase(ctx context.Context) error {
	return a.run.InTx(ctx, func(tx pgx.Tx) error {
		t, err := read(ctx, tx, a.run.TenantID, lockRow)
		if err != nil {
			return err
		}
		switch t.status {
		case statusPurged:
			return nil // by a run that did not live to record it
		case statusDeleted:
		default:
			return notDeleted(t)
		}
		if _, err := tx.Exec(ctx, "DELETE FROM control.domains WHERE tenant_id = $1", t.id); err != nil {
			return fmt.Errorf("give the tenant's domains free: %w", err)
		}
		_, err = tx.Exec(ctx, `
			UPDATE control.tenants
			SET status = 'purged', status_before = '', status_reason = '', purge_at = NULL, fence = '', server_id = NULL,
			    database_name = NULL, credential = NULL, signing_keys = '[]', settings = '{}', updated_at = now()
			WHERE id = $1`, t.id)
		if err != nil {
			return fmt.Errorf("erase the tenant's row: %w", err)
		}
		if err := a.tell(ctx, tx, t, event.TenantPurged, "tenant.purged"); err != nil {
			return err
		}
		return publish(ctx, tx, t.id, true)
	})
}

// publish gives the tenant's route its next version, if it ever had one. It comes
// last: it holds the route clock until the commit.
func publish(ctx context.Context, tx pgx.Tx, id uuid.UUID, deleted bool) error {
	_, err := tx.Exec(ctx, "SELECT control.publish_route(tenant_id, $2) FROM control.routes WHERE tenant_id = $1", id, deleted)
	if err != nil {
		return fmt.Errorf("publish the route: %w", err)
	}
	return nil
}
