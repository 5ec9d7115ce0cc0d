package operation

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/shared/pg"
)

const (
	reapEvery = 2 * time.Second
	reapBatch = 100
)

// Reap wakes operations that are due and nobody's, until ctx ends: those whose
// worker died, those whose wait is over, those whose wake-up was lost. Every
// worker runs it, so that none depends on a leader.
func (r *Runner) Reap(ctx context.Context) {
	tick := time.NewTicker(reapEvery)
	defer tick.Stop()
	for {
		if n, err := r.reap(ctx); err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "reaper could not look", "error", err)
		} else if n > 0 {
			r.log.DebugContext(ctx, "operations woken", "count", n)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// reap wakes what is due now and says how many.
func (r *Runner) reap(ctx context.Context) (int, error) {
	return pg.InTxValue(ctx, r.db, func(tx pgx.Tx) (int, error) {
		rows, err := tx.Query(ctx, `
			UPDATE control.operations SET wake_at = now() + $1::interval
			WHERE id IN (
				SELECT id FROM control.operations
				WHERE status IN ('queued', 'running') AND wake_at <= now() AND (lease_until IS NULL OR lease_until < now())
				ORDER BY wake_at LIMIT $2 FOR UPDATE SKIP LOCKED)
			RETURNING id`, wakeGrace, reapBatch)
		if err != nil {
			return 0, fmt.Errorf("look for operations that are due: %w", err)
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil {
			return 0, fmt.Errorf("look for operations that are due: %w", err)
		}
		if len(ids) == 0 {
			return 0, nil
		}
		return len(ids), r.waker.Wake(ctx, tx, ids...)
	})
}
