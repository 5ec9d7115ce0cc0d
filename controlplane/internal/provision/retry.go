package provision

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/shared/fault"
)

// Retry starts anew for a tenant whose provisioning has failed: the next
// incarnation, asked for with the same parameters. It works in the caller's
// transaction (which records the audit row) and returns the new operation's
// id. Errors: fault.NotFound, fault.Conflict when the tenant has not failed.
func (s *Service) Retry(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, createdBy string) (uuid.UUID, error) {
	var status string
	err := tx.QueryRow(ctx, "SELECT status FROM control.tenants WHERE id = $1 FOR UPDATE", tenant).Scan(&status)
	if errors.Is(err, pgx.ErrNoRows) {
		return uuid.Nil, fault.NotFound("There is no such tenant.")
	}
	if err != nil {
		return uuid.Nil, fmt.Errorf("read the tenant: %w", err)
	}
	if status != "failed" {
		return uuid.Nil, fault.Conflict("The tenant is " + status + "; only one that has failed can be tried again.").Code("not_failed")
	}
	// What makes a tenant is its first operation: this room's, or a copy.
	again := operation.Spec{TenantID: tenant, CreatedBy: createdBy, Exclusive: true}
	var params json.RawMessage
	err = tx.QueryRow(ctx, `
		SELECT o.kind, o.params, o.long, ARRAY(SELECT name FROM control.operation_steps s WHERE s.operation_id = o.id ORDER BY position)
		FROM control.operations o WHERE o.tenant_id = $1 ORDER BY o.id LIMIT 1`, tenant).Scan(&again.Kind, &params, &again.Long, &again.Steps)
	if err != nil {
		return uuid.Nil, fmt.Errorf("read what was asked for: %w", err)
	}
	again.Params = params
	_, err = tx.Exec(ctx, `
		UPDATE control.tenants
		SET status = 'provisioning', status_reason = '', incarnation = incarnation + 1,
		    server_id = NULL, database_name = NULL, credential = NULL, updated_at = now()
		WHERE id = $1`, tenant)
	if err != nil {
		return uuid.Nil, fmt.Errorf("start the next incarnation: %w", err)
	}
	_, err = tx.Exec(ctx, "UPDATE control.signups SET status = 'provisioning', updated_at = now() WHERE tenant_id = $1 AND status = 'failed'", tenant)
	if err != nil {
		return uuid.Nil, fmt.Errorf("reopen the sign-up: %w", err)
	}
	return s.operations.Enqueue(ctx, tx, again)
}
