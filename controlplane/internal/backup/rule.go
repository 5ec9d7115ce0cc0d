package backup

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// Rule says how often the tenants of a plan are backed up, and how long that is kept.
type Rule struct {
	Plan          string // code
	IntervalHours int    // 0: none are taken by themselves
	Keep          int    // so many of a tenant at most
	KeepDays      int    // so long at most; the last one is kept for longer
}

// Rules lists those of all plans.
func (s *Service) Rules(ctx context.Context) ([]Rule, error) {
	rows, err := s.db.Query(ctx, "SELECT plan, interval_hours, keep, keep_days FROM control.backup_rules_in_force ORDER BY plan")
	if err != nil {
		return nil, fmt.Errorf("list the rules of backups: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Rule])
}

// SetRule changes a plan's. Its tenants are planned anew. Errors: fault.NotFound,
// fault.Invalid.
func (s *Service) SetRule(ctx context.Context, actor *audit.Actor, r Rule) error {
	wrong := fault.Invalid("The rule is not right. See errors for each part of it.")
	for _, f := range []struct {
		name               string
		value, least, most int
	}{{"interval_hours", r.IntervalHours, 0, 8760}, {"keep", r.Keep, 1, 10000}, {"keep_days", r.KeepDays, 1, 3650}} {
		if f.value < f.least || f.value > f.most {
			wrong.OnField(f.name, "range", fmt.Sprintf("Use a number from %d to %d.", f.least, f.most))
		}
	}
	if len(wrong.Fields) > 0 {
		return wrong
	}
	return pg.InTx(ctx, s.db, func(tx pgx.Tx) error {
		var plan uuid.UUID
		err := tx.QueryRow(ctx, `
			INSERT INTO control.backup_rules (plan_id, interval_hours, keep, keep_days)
			SELECT id, $2, $3, $4 FROM control.plans WHERE code = $1
			ON CONFLICT (plan_id) DO UPDATE
			SET interval_hours = EXCLUDED.interval_hours, keep = EXCLUDED.keep, keep_days = EXCLUDED.keep_days, updated_at = now()
			RETURNING plan_id`, r.Plan, r.IntervalHours, r.Keep, r.KeepDays).Scan(&plan)
		if errors.Is(err, pgx.ErrNoRows) {
			return fault.NotFound("There is no such plan. See GET /v1/plans.")
		}
		if err == nil {
			_, err = tx.Exec(ctx, "UPDATE control.tenants SET next_backup_at = NULL WHERE plan_id = $1", plan)
		}
		if err != nil {
			return fmt.Errorf("set the rule of backups: %w", err)
		}
		return audit.Record(ctx, tx, audit.Entry{
			Actor: actor, Action: "plan.backups", EntityType: "plan", EntityID: plan.String(),
			Detail: map[string]any{"interval_hours": r.IntervalHours, "keep": r.Keep, "keep_days": r.KeepDays},
		})
	})
}
