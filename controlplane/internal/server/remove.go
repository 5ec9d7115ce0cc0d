package server

import (
	"context"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// Remove forgets a server that nothing is left on. Of one that is offline, and may not
// come back, databases are forgotten that nobody needs: ready ones of the warm pool, and
// those that tenants have left. Nothing is done on the server itself. also runs in the
// transaction (audit) with the number of those databases. Errors: fault.NotFound,
// fault.Conflict, which says what is in the way.
func (s *Service) Remove(ctx context.Context, id uuid.UUID, also func(tx pgx.Tx, s Server, left int) error) error {
	return pg.InTx(ctx, s.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT FROM control.servers WHERE id = $1 FOR UPDATE", id); err != nil {
			return fmt.Errorf("lock the server: %w", err)
		}
		server, err := s.known(ctx, tx, id)
		if err != nil {
			return err
		}
		if server.Status == "active" {
			return fault.Conflict("Tenants are placed on server " + server.Name + ": only one that is draining or offline is removed. " +
				"Drain it first (ouvira server drain " + server.Name + " --wait).").Code("server_active")
		}
		left, err := remaining(ctx, tx, server)
		if err != nil {
			return err
		}
		for _, statement := range []string{
			"DELETE FROM control.warm_databases WHERE server_id = $1",
			"DELETE FROM control.retired_databases WHERE server_id = $1",
			"DELETE FROM control.moves WHERE $1 IN (source_id, target_id)",
			"DELETE FROM control.servers WHERE id = $1",
		} {
			if _, err := tx.Exec(ctx, statement, id); err != nil {
				return fmt.Errorf("remove the server: %w", err)
			}
		}
		if also == nil {
			return nil
		}
		return also(tx, server, left)
	})
}

// remaining is how many databases are forgotten with the server. Errors: fault.Conflict.
func remaining(ctx context.Context, tx pgx.Tx, server Server) (int, error) {
	var tenants, warm, replaced, moving, leaving, left, drains int
	err := tx.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM control.tenants WHERE server_id = $1),
		       (SELECT count(*) FROM control.warm_databases WHERE server_id = $1),
		       (SELECT count(*) FROM control.retired_databases WHERE server_id = $1 AND dropped_at IS NULL),
		       (SELECT count(*) FROM control.moves WHERE $1 IN (source_id, target_id) AND switched_at IS NULL AND aborted_at IS NULL),
		       (SELECT count(*) FROM control.moves WHERE target_id = $1 AND switched_at IS NOT NULL AND dropped_at IS NULL),
		       (SELECT count(*) FROM control.moves WHERE source_id = $1 AND switched_at IS NOT NULL AND dropped_at IS NULL),
		       (SELECT count(*) FROM control.operations WHERE kind = 'server.drain' AND params ->> 'server_id' = $1::text AND status IN ('queued', 'running'))`,
		server.ID).Scan(&tenants, &warm, &replaced, &moving, &leaving, &left, &drains)
	if err != nil {
		return 0, fmt.Errorf("look what is left on the server: %w", err)
	}
	var inTheWay []string
	add := func(what string, n int, hint string) {
		if n > 0 {
			inTheWay = append(inTheWay, fmt.Sprintf("%s: %d%s", what, n, hint))
		}
	}
	add("tenants", tenants, " (move them, or restore them elsewhere; deleted ones count until they are purged)")
	add("moves under way", moving, "")
	add("drains under way", drains, "")
	add("moves to it whose source is still kept", leaving, " (for 24 hours)")
	if server.Status != "offline" {
		add("databases that tenants have left", left, " (kept for 24 hours)")
		add("databases that a restore has replaced", replaced, " (kept for a while)")
		add("databases ready in the warm pool", warm, " (dropped within seconds)")
	}
	if len(inTheWay) > 0 {
		text := "Server " + server.Name + " cannot be removed yet. In the way are " + strings.Join(inTheWay, "; ") + "."
		if server.Status != "offline" {
			text += " If the server does not come back, set it offline (ouvira server set " + server.Name + " --status offline): " +
				"then only tenants, moves and drains are waited for."
		}
		return 0, fault.Conflict(text).Code("server_in_use")
	}
	return warm + replaced + left, nil
}
