package audit

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/shared/pg"
)

// ControlHeads keeps heads in the control database, by the functions that a
// node's role may call.
type ControlHeads struct{ db pg.Querier }

// NewControlHeads takes a pool of the control database, role ouvira_node.
func NewControlHeads(db pg.Querier) *ControlHeads { return &ControlHeads{db} }

// Kept implements Heads.
func (c *ControlHeads) Kept(ctx context.Context, tenant uuid.UUID) ([]Head, error) {
	rows, err := c.db.Query(ctx, "SELECT batch, head, kid, signature, stored_at FROM node.audit_heads($1)", tenant)
	if err != nil {
		return nil, fmt.Errorf("read the heads of an audit: %w", err)
	}
	heads, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Head])
	if err != nil {
		return nil, fmt.Errorf("read the heads of an audit: %w", err)
	}
	return heads, nil
}

// Advance implements Heads.
func (c *ControlHeads) Advance(ctx context.Context, tenant uuid.UUID, seen, next Head) (bool, error) {
	var stored bool
	err := c.db.QueryRow(ctx, "SELECT node.store_audit_head($1, $2, $3, $4, $5, $6, $7)",
		tenant, seen.Batch, seen.Hash, next.Batch, next.Hash, next.Kid, next.Signature).Scan(&stored)
	if err != nil {
		return false, fmt.Errorf("store the head of an audit: %w", err)
	}
	return stored, nil
}

// PendingRestore implements Heads.
func (c *ControlHeads) PendingRestore(ctx context.Context, tenant uuid.UUID, incarnation int) (uuid.UUID, error) {
	var backup uuid.NullUUID
	if err := c.db.QueryRow(ctx, "SELECT node.pending_restore($1, $2)", tenant, incarnation).Scan(&backup); err != nil {
		return uuid.Nil, fmt.Errorf("ask for a restore that an audit does not tell of yet: %w", err)
	}
	return backup.UUID, nil
}

// RestoreRecorded implements Heads.
func (c *ControlHeads) RestoreRecorded(ctx context.Context, tenant uuid.UUID, incarnation int) error {
	rows, err := c.db.Query(ctx, "SELECT node.restore_recorded($1, $2)", tenant, incarnation)
	if err != nil {
		return fmt.Errorf("tell that an audit tells of its restore: %w", err)
	}
	rows.Close()
	return rows.Err()
}
