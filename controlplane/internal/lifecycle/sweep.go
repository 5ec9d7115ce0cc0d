package lifecycle

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

const (
	// sweeper is who asks for what nobody has asked for.
	sweeper = "worker:sweep"
	// purgesAtOnce keeps purges gentle: the first DROP after many changes waits for
	// a checkpoint, which everybody on that server feels.
	purgesAtOnce = 2
	fencesAtOnce = 100
)

// Sweep asks for the fences that are missing and for the purges that are due. All
// workers may do so at the same time.
func (s *Service) Sweep(ctx context.Context) error {
	if err := s.fenceWhatIsNot(ctx); err != nil {
		return err
	}
	return s.purgeWhatIsDue(ctx)
}

// fenceWhatIsNot finds tenants whose status asks for a fence that is not known to
// be where they are: they were moved, or a resumption did not come to its end. Those
// that an operation works on wait for its end; where a fence has just failed, a
// person has to look first.
func (s *Service) fenceWhatIsNot(ctx context.Context) error {
	return pg.InTx(ctx, s.db, func(tx pgx.Tx) error {
		ids, err := tenants(ctx, tx, `
			SELECT t.id FROM control.tenants t
			WHERE t.status IN ('suspended', 'deleted') AND t.server_id IS NOT NULL AND t.fence <> t.server_id || '/' || t.incarnation
			  AND NOT EXISTS (
			      SELECT FROM control.operations o
			      WHERE o.tenant_id = t.id
			        AND ((o.status IN ('queued', 'running') AND (o.exclusive OR o.kind = 'tenant.fence'))
			             OR (o.status = 'failed' AND o.kind = 'tenant.fence' AND o.finished_at > now() - interval '10 minutes')))
			ORDER BY t.id LIMIT $1 FOR NO KEY UPDATE OF t SKIP LOCKED`, fencesAtOnce)
		if err != nil {
			return fmt.Errorf("look for tenants without their fence: %w", err)
		}
		for _, id := range ids {
			if _, err := s.Fence(ctx, tx, id, sweeper); err != nil {
				return err
			}
		}
		return nil
	})
}

// purgeWhatIsDue begins with those whose grace was over first, a few at a time. One
// that has failed is tried again after an hour.
func (s *Service) purgeWhatIsDue(ctx context.Context) error {
	return pg.InTx(ctx, s.db, func(tx pgx.Tx) error {
		ids, err := tenants(ctx, tx, `
			SELECT t.id FROM control.tenants t
			WHERE t.status = 'deleted' AND t.purge_at <= now()
			  AND NOT EXISTS (
			      SELECT FROM control.operations o
			      WHERE o.tenant_id = t.id
			        AND ((o.status IN ('queued', 'running') AND o.exclusive)
			             OR (o.status = 'failed' AND o.kind = 'tenant.purge' AND o.finished_at > now() - interval '1 hour')))
			ORDER BY t.purge_at
			LIMIT greatest(0, $1 - (SELECT count(*) FROM control.operations o WHERE o.kind = 'tenant.purge' AND o.status IN ('queued', 'running')))
			FOR UPDATE OF t SKIP LOCKED`, purgesAtOnce)
		if err != nil {
			return fmt.Errorf("look for tenants whose grace is over: %w", err)
		}
		for _, id := range ids {
			_, err := s.Purge(ctx, tx, id, sweeper)
			if err != nil && !fault.Is(err, fault.KindConflict) { // another worker was faster
				return err
			}
		}
		return nil
	})
}

func tenants(ctx context.Context, tx pgx.Tx, sql string, limit int) ([]uuid.UUID, error) {
	rows, err := tx.Query(ctx, sql, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
}
