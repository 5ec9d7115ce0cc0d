// Package retention is what the control database forgets. Rooms that keep something
// for a while of their own forget it themselves; what is common to all of them, and
// would grow for ever, is forgotten here.
//
// It promises: nothing is forgotten that something else still refers to; a round is
// short, however much there is, and several workers may do it at the same time; every
// table has a bound, or a reason why it has none ([Tables]).
package retention

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// How long what is over is kept.
const (
	day            = 24 * time.Hour
	KeepEvents     = 90 * day
	KeepOperations = 90 * day
	KeepBackups    = 90 * day // rows of backups that are no more, or never were
	KeepSignups    = 90 * day // that came to nothing
	KeepMembers    = 30 * day // processes that are not heard of any more
)

// atOnce bounds a statement, and rounds how many of them there are in a sweep.
const (
	atOnce = 2000
	rounds = 20
)

// rule deletes what is older than keep, at most $2 rows.
type rule struct {
	what string
	keep time.Duration
	sql  string
}

// rules in an order that lets the later ones find less that is referred to.
var rules = []rule{
	{"sign-ups", KeepSignups, `
		DELETE FROM control.signups WHERE id IN (
			SELECT id FROM control.signups
			WHERE updated_at < now() - $1::interval AND status IN ('expired', 'rejected', 'failed') AND tenant_id IS NULL
			LIMIT $2 FOR UPDATE SKIP LOCKED)`},
	{"processes", KeepMembers, "DELETE FROM control.members WHERE id IN (SELECT id FROM control.members WHERE last_seen_at < now() - $1::interval LIMIT $2 FOR UPDATE SKIP LOCKED)"},
	{"keys of processes", KeepMembers, `
		DELETE FROM control.key_rings WHERE member_id IN (
			SELECT k.member_id FROM control.key_rings k
			WHERE k.changed_at < now() - $1::interval AND NOT EXISTS (SELECT FROM control.members m WHERE m.id = k.member_id)
			LIMIT $2 FOR UPDATE SKIP LOCKED)`},
	{"events", KeepEvents, `
		DELETE FROM control.events WHERE id IN (
			SELECT e.id FROM control.events e
			WHERE e.created_at < now() - $1::interval
			  AND NOT EXISTS (SELECT FROM control.webhook_deliveries d WHERE d.event_id = e.id)
			ORDER BY e.created_at LIMIT $2 FOR UPDATE SKIP LOCKED)`},
	{"backups", KeepBackups, `
		DELETE FROM control.backups WHERE id IN (
			SELECT b.id FROM control.backups b
			WHERE b.finished_at < now() - $1::interval AND b.status IN ('removed', 'failed')
			  AND NOT EXISTS (SELECT FROM control.restores r WHERE r.backup_id = b.id)
			LIMIT $2 FOR UPDATE SKIP LOCKED)`},
	// The first operation of a tenant says how it was made, and who owns it. A move is
	// looked after until its source is dropped.
	{"operations", KeepOperations, `
		DELETE FROM control.operations WHERE id IN (
			SELECT o.id FROM control.operations o
			WHERE o.finished_at < now() - $1::interval
			  AND (o.tenant_id IS NULL OR o.id <> (SELECT f.id FROM control.operations f WHERE f.tenant_id = o.tenant_id ORDER BY f.id LIMIT 1))
			  AND NOT EXISTS (SELECT FROM control.backups b WHERE b.operation_id = o.id)
			  AND NOT EXISTS (SELECT FROM control.restores r WHERE r.operation_id = o.id)
			  AND NOT EXISTS (SELECT FROM control.moves m WHERE m.operation_id = o.id AND m.aborted_at IS NULL AND m.dropped_at IS NULL)
			ORDER BY o.finished_at LIMIT $2 FOR UPDATE SKIP LOCKED)`},
}

// Sweep forgets what is old enough. What is left over is forgotten the next time.
func Sweep(ctx context.Context, db *pgxpool.Pool) error {
	var failed []error
	for _, r := range rules {
		for range rounds {
			tag, err := db.Exec(ctx, r.sql, r.keep, atOnce)
			if err != nil {
				failed = append(failed, fmt.Errorf("forget old %s: %w", r.what, err))
				break
			}
			if tag.RowsAffected() < atOnce {
				break
			}
		}
	}
	return errors.Join(failed...)
}

// Tables says of each table of the control database what bounds it.
func Tables() map[string]string {
	const (
		never   = "is kept for ever: it is what has happened"
		tenants = "as many as there are tenants, purged ones included: a slug is given out once"
		fleet   = "as many as there are of what it describes"
		replace = "a row for each of what there is now"
		own     = "its room forgets: "
	)
	return map[string]string{
		"audit_log": never, "payments": never, "support_codes": never,
		"tenants": tenants, "routes": tenants, "audit_heads": tenants, "restores": tenants, "retired_databases": tenants, "tenant_sizes": tenants,
		"plans": fleet, "servers": fleet, "operators": fleet, "operator_factors": fleet, "operator_backup_codes": fleet, "operator_api_keys": fleet,
		"webhook_endpoints": fleet, "backup_rules": fleet, "warm_targets": fleet,
		"route_clock": replace, "share_history": replace, "reclaim_lease": replace, "warm_databases": replace, "usage_visits": replace,
		"quota_breaches": replace, "served": replace, "sweeps": replace, "instances": replace, "shares": replace, "database_looks": tenants,
		"domains":              own + "those that were never proven after a week, those of purged tenants with them",
		"operator_sessions":    own + "30 days after their end",
		"operator_invitations": own + "after 90 days", "operator_password_resets": own + "after 30 days",
		"webhook_deliveries": own + "30 days after they were delivered or given up",
		"idempotency_keys":   own + "after 24 hours",
		"signup_limits":      own + "when they have no effect any more",
		"usage_hours":        own + "after 14 days", "usage_days": own + "after 400 days", "usage_reports": own + "after 7 days",
		"migration_ledger": fleet, "schema_migrations": replace,
		"members": "30 days after they were last heard of", "key_rings": "with the processes that have told of them, after 30 days",
		"signups": "90 days after they came to nothing", "events": "after 90 days, when no delivery refers to them",
		"operations": "90 days after their end, but for the first of a tenant", "operation_steps": "with their operations", "moves": "with their operations, when the source is dropped",
		"backups": "90 days after they were removed or have failed",
	}
}
