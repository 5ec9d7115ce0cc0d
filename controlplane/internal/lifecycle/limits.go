package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
)

// limitsAtOnce is how many roles are brought in line in one round.
const limitsAtOnce = 200

// outOfLine is a tenant whose role has another limit than its plan, as far as is known.
type outOfLine struct{ tenant, server uuid.UUID }

// Limits brings the connection limits of roles in line with the plans: nodes hear of a
// plan's change through the routes at once, and the servers stand behind them. Tenants
// that are not served get the limit with the end of their fence; those that an operation
// works on wait for its end. Any worker may call it as often as it likes. What cannot be
// reached is tried again the next time.
func (s *Service) Limits(ctx context.Context) error {
	rows, err := s.db.Query(ctx, `
		SELECT t.id, t.server_id FROM control.tenants t JOIN control.plans p ON p.id = t.plan_id
		WHERE t.status = 'active' AND t.server_id IS NOT NULL AND t.role_connections IS DISTINCT FROM p.max_connections
		  AND NOT EXISTS (SELECT FROM control.operations o WHERE o.tenant_id = t.id AND o.exclusive AND o.status IN ('queued', 'running'))
		ORDER BY t.server_id, t.id LIMIT $1`, limitsAtOnce)
	if err != nil {
		return fmt.Errorf("look for roles that are not as their plans: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (o outOfLine, err error) {
		err = row.Scan(&o.tenant, &o.server)
		return o, err
	})
	if err != nil {
		return fmt.Errorf("look for roles that are not as their plans: %w", err)
	}
	var failed []error
	for len(all) > 0 {
		n := 1
		for n < len(all) && all[n].server == all[0].server {
			n++
		}
		failed = append(failed, s.limitOn(ctx, all[:n]))
		all = all[n:]
	}
	return errors.Join(failed...)
}

// limitPatience bounds what is done on one server in a round: the next one does not wait
// for a server that is silent, or of which no connection is free.
const limitPatience = 30 * time.Second

// limitOn sees to the roles of one server, over one connection.
func (s *Service) limitOn(ctx context.Context, all []outOfLine) error {
	ctx, cancel := context.WithTimeout(ctx, limitPatience)
	defer cancel()
	w := tenantdb.On(s.servers, all[0].server, nil)
	defer w.Close()
	if _, err := w.Admin(ctx); err != nil {
		return err
	}
	var failed []error
	for _, o := range all {
		err := s.holding(ctx, o.tenant, lockRow, func(tx pgx.Tx, t *tenant) error {
			if t.status != statusActive || t.server == nil || *t.server != o.server {
				return nil // it is another tenant's business by now
			}
			if err := w.Limit(ctx, t.database(), t.maxConnections); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, "UPDATE control.tenants SET role_connections = $2 WHERE id = $1", t.id, t.maxConnections)
			return err
		})
		if err != nil {
			failed = append(failed, fmt.Errorf("bring the role of tenant %s in line: %w", o.tenant, err))
		}
	}
	return errors.Join(failed...)
}
