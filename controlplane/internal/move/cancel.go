package move

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
)

// MayCancel implements operation.Cancellable: until the route leads to the target
// everything can be taken back.
func (s *Service) MayCancel(ctx context.Context, tx pgx.Tx, asked operation.Asked) error {
	var switched bool
	var target string
	err := tx.QueryRow(ctx, `
		SELECT m.switched_at IS NOT NULL, s.name FROM control.moves m JOIN control.servers s ON s.id = m.target_id
		WHERE m.operation_id = $1`, asked.ID).Scan(&switched, &target)
	if err != nil {
		return fmt.Errorf("read the move: %w", err)
	}
	if switched {
		return operation.PassedPoint("server " + target + " serves the tenant. Let it end, then move the tenant back.")
	}
	return nil
}

// MayCancel implements operation.Cancellable: what is moving finishes its move, and
// nobody else is asked to.
func (d drains) MayCancel(context.Context, pgx.Tx, operation.Asked) error { return nil }
