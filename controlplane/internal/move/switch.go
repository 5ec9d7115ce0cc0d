package move

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/shared/failpoint"
	"github.com/ouvira/ouvira/shared/pause"
)

const (
	// quietTimeout is how much of the budget is spent on letting requests finish
	// that had begun before the hold.
	quietTimeout = 500 * time.Millisecond
	quietEvery   = 5 * time.Millisecond
	// fencePause is how long the source serves at least before the change is
	// tried again.
	fencePause = 5 * time.Second
)

// change leads the tenant to the target. It begins and ends with a tenant that is
// served: by the target if all went well within the budget, else by the source.
func (a *attempt) change(ctx context.Context) error {
	if a.move.fenced {
		// An earlier run has died in the middle, perhaps at its very end.
		switched, err := a.reopen(ctx)
		if err != nil {
			return err
		}
		a.move.switched = switched
	}
	if a.move.switched {
		return nil
	}
	if a.compared == nil {
		if err := a.verify(ctx); err != nil {
			return err
		}
	}
	// It also opens what is needed while requests wait.
	if err := a.catchUp(ctx); err != nil {
		return err
	}
	begun := time.Now()
	if err := a.hold(ctx); err != nil {
		return err
	}
	failpoint.Hit(ctx, failpointHeld)
	within, cancel := context.WithDeadline(ctx, begun.Add(a.s.options.Budget))
	defer cancel()
	err := a.lead(ctx, within)
	if err == nil {
		a.move.switched, a.move.fenced = true, false
		a.s.log.InfoContext(ctx, "tenant moved", "operation", a.run.ID, "tenant", a.run.TenantID, "write_pause_ms", time.Since(begun).Milliseconds())
		return nil
	}
	return a.takeBack(ctx, err, within.Err() != nil)
}

// takeBack lets the source serve again after a change that did not come about.
func (a *attempt) takeBack(ctx context.Context, why error, late bool) error {
	a.compared = nil // its place in time is gone
	switched, err := a.reopen(ctx)
	if err != nil {
		return errors.Join(err, why)
	}
	if switched { // the commit was made and its answer lost
		a.move.switched = true
		return nil
	}
	if failure, ok := errors.AsType[*operation.Failure](why); ok && failure.Final || !late || ctx.Err() != nil {
		return why
	}
	if a.move.fences >= a.s.options.Fences {
		return operation.Fail("fence_budget", fmt.Sprintf("The change of servers did not fit into %v, %d times; the tenant is served where it was.", a.s.options.Budget, a.move.fences),
			"Move it when it writes less.").Because(why)
	}
	return operation.Later("fence_budget", fmt.Sprintf("The change of servers did not fit into %v; the tenant is served where it was.", a.s.options.Budget),
		"It is tried again.").In(fencePause).Because(why)
}

// hold lets requests wait, and writes down that the source is about to be fenced.
func (a *attempt) hold(ctx context.Context) error {
	err := a.run.InTx(ctx, func(tx pgx.Tx) error {
		status, here, err := a.lockTenant(ctx, tx)
		if err != nil {
			return err
		}
		if !here || !movable(status) {
			return operation.Fail("tenant_changed", "The tenant was changed while it moved: it is "+status+".", "Look where it is, then ask for the move again.")
		}
		a.move.status = status
		_, err = tx.Exec(ctx, "UPDATE control.moves SET fenced = true, fences = fences + 1, held_at = clock_timestamp() WHERE operation_id = $1", a.run.ID)
		if err != nil || !a.move.served() {
			return err
		}
		return setMode(ctx, tx, a, "serve", "hold")
	})
	if err == nil {
		a.move.fenced = true
		a.move.fences++
	}
	return err
}

// lockTenant reads the tenant's status, and whether the move still begins where it
// is, for the rest of the transaction.
func (a *attempt) lockTenant(ctx context.Context, tx pgx.Tx) (status string, here bool, err error) {
	err = tx.QueryRow(ctx, "SELECT status, COALESCE(server_id = $2 AND incarnation = $3, false) FROM control.tenants WHERE id = $1 FOR UPDATE",
		a.run.TenantID, a.move.sourceID, a.move.from.Incarnation).Scan(&status, &here)
	if err != nil {
		err = fmt.Errorf("lock the tenant: %w", err)
	}
	return status, here, err
}

// setMode changes the route's mode and publishes it, if it was what it should be.
func setMode(ctx context.Context, tx pgx.Tx, a *attempt, from, to string) error {
	tag, err := tx.Exec(ctx, "UPDATE control.tenants SET route_mode = $3, updated_at = now() WHERE id = $1 AND route_mode = $2", a.run.TenantID, from, to)
	if err != nil {
		return fmt.Errorf("set the route's mode: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return nil
	}
	return publish(ctx, tx, a)
}

// publish comes last: it holds the route clock until the commit.
func publish(ctx context.Context, tx pgx.Tx, a *attempt) error {
	_, err := tx.Exec(ctx, "SELECT control.publish_route(tenant_id, deleted) FROM control.routes WHERE tenant_id = $1", a.run.TenantID)
	if err != nil {
		return fmt.Errorf("publish the route: %w", err)
	}
	return nil
}

// lead does what has to be done while requests wait. A failpoint stalls the run
// itself, not its budget.
func (a *attempt) lead(run, ctx context.Context) error {
	if err := a.quiet(ctx); err != nil {
		return err
	}
	if err := a.source.Fence(ctx, a.move.from); err != nil {
		return err
	}
	failpoint.Hit(run, failpointFenced)
	if err := a.awaitMark(ctx); err != nil {
		return err
	}
	failpoint.Hit(run, failpointMarked)
	if err := a.copySequences(ctx); err != nil {
		return err
	}
	if err := a.recheck(ctx); err != nil {
		return err
	}
	if err := a.admit(ctx); err != nil {
		return err
	}
	failpoint.Hit(run, failpointRechecked)
	return a.flip(ctx)
}

// quiet waits until no request is at work in the source, or some of the budget is
// gone: the fence ends those that are left, and who sent them tries again.
func (a *attempt) quiet(ctx context.Context) error {
	if !a.move.served() {
		return nil
	}
	admin, err := a.source.Admin(ctx)
	if err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, min(quietTimeout, a.s.options.Budget/4))
	defer cancel()
	for idle := 0; idle < 2; {
		var busy bool
		err := admin.Scan(ctx, []any{&busy}, `
			SELECT EXISTS (SELECT FROM pg_stat_activity WHERE usename = $1 AND state <> 'idle' AND backend_type = 'client backend')`, a.move.from.Name())
		if err != nil {
			return err
		}
		if idle++; busy {
			idle = 0
		}
		if !pause.For(waiting, quietEvery) {
			return ctx.Err()
		}
	}
	return nil
}

// admit lets the tenant's role into the target, if the tenant is served; nobody
// has its password before the flip. One that is not served stays fenced.
func (a *attempt) admit(ctx context.Context) error {
	door := a.target.Fence(ctx, a.move.to)
	if a.move.served() {
		door = a.target.Unfence(ctx, a.move.to, a.move.maxConnections)
	}
	return errors.Join(door, a.target.Admit(ctx, a.move.to))
}

// flip is the one transaction that changes the route.
func (a *attempt) flip(ctx context.Context) error {
	target, err := a.target.Inside(ctx, a.move.to)
	if err != nil {
		return err
	}
	var version int64
	if err := target.Scan(ctx, []any{&version}, "SELECT version FROM ouvira.schema_migrations"); err != nil {
		return err
	}
	return a.run.InTx(ctx, func(tx pgx.Tx) error {
		status, here, err := a.lockTenant(ctx, tx)
		if err != nil {
			return err
		}
		if !here || status != a.move.status {
			return operation.Later("tenant_changed", "The tenant became "+status+" at the moment of the change.", "It is tried again.")
		}
		var pauseMS int64
		err = tx.QueryRow(ctx, `
			UPDATE control.moves SET fenced = false, switched_at = clock_timestamp(), drop_at = clock_timestamp() + $2::interval
			WHERE operation_id = $1 RETURNING (extract(epoch FROM switched_at - held_at) * 1000)::bigint`, a.run.ID, a.s.options.Keep).Scan(&pauseMS)
		if err != nil {
			return fmt.Errorf("write the change of servers: %w", err)
		}
		_, err = tx.Exec(ctx, `
			UPDATE control.tenants t
			SET server_id = m.target_id, incarnation = m.target_incarnation, database_name = $2, credential = m.credential,
			    schema_version = $3, route_mode = CASE WHEN t.route_mode = 'hold' THEN 'serve' ELSE t.route_mode END, updated_at = now()
			FROM control.moves m WHERE m.operation_id = $1 AND t.id = m.tenant_id`, a.run.ID, a.move.to.Name(), version)
		if err != nil {
			return fmt.Errorf("write the tenant's place: %w", err)
		}
		if err := a.audit(ctx, tx, "tenant.moved", map[string]any{"write_pause_ms": pauseMS}); err != nil {
			return err
		}
		return publish(ctx, tx, a)
	})
}

// reopen lets the source serve again, unless the tenant has changed servers: then
// it says so and leaves everything. It is what must not fail, so it takes its own
// time, and ends first what a statement that was given up may still do.
func (a *attempt) reopen(ctx context.Context) (switched bool, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	status, switched, fenced, err := a.truth(ctx)
	if err != nil || switched || !fenced {
		a.move.fenced = fenced
		return switched, err
	}
	if err := a.source.Reconnect(ctx); err != nil {
		return false, err
	}
	if status == "active" {
		if err := a.source.Unfence(ctx, a.move.from, a.move.maxConnections); err != nil {
			return false, err
		}
	}
	now := status
	err = a.run.InTx(ctx, func(tx pgx.Tx) error {
		if now, _, err = a.lockTenant(ctx, tx); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "UPDATE control.moves SET fenced = false, held_at = NULL WHERE operation_id = $1", a.run.ID); err != nil {
			return fmt.Errorf("write that the source is open: %w", err)
		}
		return setMode(ctx, tx, a, "hold", "serve")
	})
	if err != nil {
		return false, err
	}
	a.move.fenced = false
	if now != "active" && status == "active" { // suspended in between
		return false, a.source.Fence(ctx, a.move.from)
	}
	return false, nil
}

// truth is what the control database says, after any transaction that may still be
// under way.
func (a *attempt) truth(ctx context.Context) (status string, switched, fenced bool, err error) {
	err = a.run.InTx(ctx, func(tx pgx.Tx) error {
		if status, _, err = a.lockTenant(ctx, tx); err != nil {
			return err
		}
		err = tx.QueryRow(ctx, "SELECT switched_at IS NOT NULL, fenced FROM control.moves WHERE operation_id = $1", a.run.ID).Scan(&switched, &fenced)
		if err != nil {
			return fmt.Errorf("read the move: %w", err)
		}
		return nil
	})
	return status, switched, fenced, err
}
