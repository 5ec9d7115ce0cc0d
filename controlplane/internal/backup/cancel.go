package backup

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
)

// MayCancel implements operation.Cancellable: until the archive counts.
func (h taking) MayCancel(ctx context.Context, tx pgx.Tx, asked operation.Asked) error {
	var complete bool
	err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM control.backups WHERE operation_id = $1 AND status = 'complete')", asked.ID).Scan(&complete)
	if err != nil {
		return fmt.Errorf("read the backup: %w", err)
	}
	if complete {
		return operation.PassedPoint("the backup is complete.")
	}
	return nil
}

// MayCancel implements operation.Cancellable: until the new tenant is served.
func (h copying) MayCancel(ctx context.Context, tx pgx.Tx, asked operation.Asked) error {
	var status string
	if err := tx.QueryRow(ctx, "SELECT status FROM control.tenants WHERE id = $1", asked.TenantID).Scan(&status); err != nil {
		return fmt.Errorf("read the tenant: %w", err)
	}
	if status != "provisioning" {
		return operation.PassedPoint("the new tenant is " + status + ". Delete it if it is not wanted.")
	}
	return nil
}

// MayCancel implements operation.Cancellable: until the restored database serves.
func (h replacing) MayCancel(ctx context.Context, tx pgx.Tx, asked operation.Asked) error {
	var p replaceParams
	if err := json.Unmarshal(asked.Params, &p); err != nil {
		return fmt.Errorf("decode the parameters of a restore: %w", err)
	}
	var incarnation int
	if err := tx.QueryRow(ctx, "SELECT incarnation FROM control.tenants WHERE id = $1", asked.TenantID).Scan(&incarnation); err != nil {
		return fmt.Errorf("read the tenant: %w", err)
	}
	if incarnation == p.Incarnation {
		return operation.PassedPoint("the restored database serves the tenant. Restore another backup if it is the wrong one.")
	}
	return nil
}
