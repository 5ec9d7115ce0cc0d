package outbox

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/shared/pg"
)

// ControlFleet is a Fleet by way of functions in the control database.
type ControlFleet struct {
	control pg.Querier // as the role ouvira_node
	nodeID  string
}

// NewControlFleet makes it; the id is the one of the node's heartbeat.
func NewControlFleet(control pg.Querier, nodeID string) ControlFleet {
	return ControlFleet{control, nodeID}
}

// ReportServed implements Fleet.
func (f ControlFleet) ReportServed(ctx context.Context, tenants []uuid.UUID) error {
	if _, err := f.control.Exec(ctx, "SELECT node.report_served($1, $2)", f.nodeID, tenants); err != nil {
		return fmt.Errorf("report the tenants that were served: %w", err)
	}
	return nil
}

// ServedBefore implements Fleet.
func (f ControlFleet) ServedBefore(ctx context.Context) ([]uuid.UUID, error) {
	return f.tenants(ctx, "SELECT node.served_before($1)", f.nodeID)
}

// Orphaned implements Fleet.
func (f ControlFleet) Orphaned(ctx context.Context, most int) ([]uuid.UUID, error) {
	return f.tenants(ctx, "SELECT node.orphaned($1, $2)", f.nodeID, most)
}

// Unswept implements Fleet.
func (f ControlFleet) Unswept(ctx context.Context, most int) ([]uuid.UUID, error) {
	return f.tenants(ctx, "SELECT node.unswept($1)", most)
}

func (f ControlFleet) tenants(ctx context.Context, sql string, args ...any) ([]uuid.UUID, error) {
	rows, err := f.control.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("ask for tenants to look after: %w", err)
	}
	tenants, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("ask for tenants to look after: %w", err)
	}
	return tenants, nil
}
