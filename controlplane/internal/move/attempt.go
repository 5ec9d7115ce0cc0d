package move

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/failpoint"
)

// Begin implements operation.Handler.
func (s *Service) Begin(run *operation.Run) operation.Attempt { return &attempt{s: s, run: run} }

// attempt is one run through the steps. What it holds is a cache: each step
// finds all it needs in the databases.
type attempt struct {
	s   *Service
	run *operation.Run

	move     *row
	source   *tenantdb.Work
	target   *tenantdb.Work
	compared *comparison // of StepVerify; nil in a run that has not compared yet
}

// row is what the control database says of a move.
type row struct {
	status         string
	maxConnections int
	sourceID       uuid.UUID
	targetID       uuid.UUID
	from, to       tenantdb.Database
	fenced         bool
	fences         int
	switched       bool
	aborted        bool
}

// served tells whether requests have to wait while the tenant changes servers.
func (r *row) served() bool { return r.status == "active" }

// Step implements operation.Attempt.
func (a *attempt) Step(ctx context.Context, name string) error {
	if err := a.load(ctx); err != nil {
		return err
	}
	step, known := map[string]func(context.Context) error{
		StepPreflight: a.preflight,
		StepTarget:    a.makeTarget,
		StepSubscribe: a.subscribe,
		StepCopy:      a.awaitCopy,
		StepVerify:    a.verify,
		StepSwitch:    a.change,
		StepSettle:    a.settle,
	}[name]
	if !known {
		return operation.Fail("unknown_step", "This release does not know the step it should do.", "Run the worker of the release that the operation was started by.")
	}
	if err := step(ctx); err != nil {
		return err
	}
	failpoint.Hit(ctx, failpointAfter(name))
	return nil
}

// load reads the move once per attempt.
func (a *attempt) load(ctx context.Context) error {
	if a.move != nil {
		return nil
	}
	m := row{from: tenantdb.Database{Tenant: a.run.TenantID}, to: tenantdb.Database{Tenant: a.run.TenantID}}
	err := a.s.db.QueryRow(ctx, `
		SELECT t.status, p.max_connections, m.source_id, m.target_id, m.source_incarnation, m.target_incarnation,
		       m.fenced, m.fences, m.switched_at IS NOT NULL, m.aborted_at IS NOT NULL
		FROM control.moves m
		JOIN control.tenants t ON t.id = m.tenant_id
		JOIN control.plans p ON p.id = t.plan_id
		WHERE m.operation_id = $1`, a.run.ID).
		Scan(&m.status, &m.maxConnections, &m.sourceID, &m.targetID, &m.from.Incarnation, &m.to.Incarnation,
			&m.fenced, &m.fences, &m.switched, &m.aborted)
	if err != nil {
		return fmt.Errorf("read the move: %w", err)
	}
	source, target := tenantdb.On(a.s.servers, m.sourceID, a.run), tenantdb.On(a.s.servers, m.targetID, a.run)
	if err := openBoth(ctx, &m, source, target); err != nil {
		source.Close()
		target.Close()
		return err
	}
	a.move, a.source, a.target = &m, source, target
	return nil
}

// openBoth takes the places for connections at both servers, in an order that all
// moves keep: two in opposite directions would wait for each other.
func openBoth(ctx context.Context, m *row, source, target *tenantdb.Work) error {
	first, second := source, target
	if strings.Compare(m.targetID.String(), m.sourceID.String()) < 0 {
		first, second = target, source
	}
	if err := first.Open(ctx); err != nil {
		return err
	}
	return second.Open(ctx)
}

func (a *attempt) name() string { return objectName(a.run.ID) }

// undoTimeout bounds what has to be done although the run's own time is over.
const undoTimeout = 30 * time.Second

// Undo implements operation.Attempt: the source is served again, and nothing of
// the move stays on either server. What cannot be reached is tried again.
func (a *attempt) Undo(ctx context.Context) error {
	if err := a.load(ctx); err != nil {
		return err
	}
	if !a.move.switched {
		// The row may be older than what another run has done.
		switched, err := a.reopen(ctx)
		if err != nil {
			return err
		}
		a.move.switched = switched
	}
	if a.move.switched {
		return nil // nothing is taken back any more; the sweep clears up
	}
	return errors.Join(a.clearTarget(ctx), a.clearSource(ctx))
}

// clearTarget removes the target, subscription first: a database with one is not
// dropped.
func (a *attempt) clearTarget(ctx context.Context) error {
	if err := a.unsubscribe(ctx); err != nil {
		return err
	}
	a.target.CloseInside()
	return a.target.Drop(ctx, a.move.to)
}

// Failed implements operation.Attempt.
func (a *attempt) Failed(ctx context.Context, tx pgx.Tx, why operation.Problem) error {
	_, err := tx.Exec(ctx, "UPDATE control.moves SET aborted_at = now(), credential = NULL WHERE operation_id = $1 AND switched_at IS NULL", a.run.ID)
	if err != nil {
		return fmt.Errorf("write the end of the move: %w", err)
	}
	return a.audit(ctx, tx, "tenant.move_failed", map[string]any{"code": why.Code})
}

func (a *attempt) audit(ctx context.Context, tx pgx.Tx, action string, detail map[string]any) error {
	detail["operation_id"] = a.run.ID
	detail["asked_by"] = a.run.CreatedBy
	return audit.Record(ctx, tx, audit.Entry{
		Actor: audit.Worker(a.run.ID.String()), Action: action,
		EntityType: "tenant", EntityID: a.run.TenantID.String(), TenantID: a.run.TenantID, Detail: detail,
	})
}

// Close implements operation.Attempt.
func (a *attempt) Close() {
	if a.source != nil {
		a.source.Close()
		a.target.Close()
	}
}
