package move

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/shared/failpoint"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// DrainKind of the operations that move everything off a server.
const DrainKind = "server.drain"

// StepTenants is the one step of a drain.
const StepTenants = "tenants"

// drainParams of an operation.
type drainParams struct {
	ServerID uuid.UUID `json:"server_id"`
	Server   string    `json:"server"`
}

// drainEvery is how often a drain looks how far its moves are. Between two looks it
// waits as an operation does, with the reason visible, and holds no worker.
const drainEvery = 2 * time.Second

// Drain takes the server out of the placing of tenants and asks for all of its own
// to be moved to others. Errors: fault.NotFound, fault.Conflict when it is being
// drained already.
func (s *Service) Drain(ctx context.Context, actor *audit.Actor, idOrName string) (id uuid.UUID, err error) {
	found, err := s.servers.Find(ctx, idOrName)
	if err != nil {
		return uuid.Nil, err
	}
	_, err = s.servers.SetStatus(ctx, found.ID, "draining", func(tx pgx.Tx, locked server.Server) error {
		var running uuid.UUID
		err := tx.QueryRow(ctx, `
			SELECT id FROM control.operations WHERE kind = $1 AND params ->> 'server_id' = $2 AND status IN ('queued', 'running')`,
			DrainKind, locked.ID.String()).Scan(&running)
		if err == nil {
			return fault.Conflict("Server " + locked.Name + " is being drained already: follow it with ouvira operation watch " + running.String() + ".").
				Code("operation_in_progress")
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("look for a drain of the server: %w", err)
		}
		id, err = s.operations.Enqueue(ctx, tx, operation.Spec{
			Kind: DrainKind, Params: drainParams{ServerID: locked.ID, Server: locked.Name}, Steps: []string{StepTenants},
			CreatedBy: actor.String(), Long: true,
		})
		if err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Entry{
			Actor: actor, Action: "server.drain", EntityType: "server", EntityID: locked.ID.String(),
			Detail: map[string]any{"name": locked.Name, "operation_id": id},
		})
	})
	return id, err
}

// Drains handles the operations that Drain asks for.
func (s *Service) Drains() operation.Handler { return drains{s} }

type drains struct{ s *Service }

// Begin implements operation.Handler.
func (d drains) Begin(run *operation.Run) operation.Attempt { return &drain{s: d.s, run: run} }

// drain is one look at a server that is being drained. Its truth is in the moves
// that it has asked for.
type drain struct {
	s   *Service
	run *operation.Run
}

// Undo implements operation.Attempt: what has moved stays where it is.
func (d *drain) Undo(context.Context) error { return nil }

// Failed implements operation.Attempt.
func (d *drain) Failed(context.Context, pgx.Tx, operation.Problem) error { return nil }

// Close implements operation.Attempt.
func (d *drain) Close() {}

// failpointAsked is where a drain can be stopped: it has asked for moves, and has not
// said so.
const failpointAsked = "drain/asked"

// progress of a drain.
type progress struct {
	total    int // tenants that were or are to be moved
	here     int // … that are still on the server
	underway int
	stuck    []stuck
}

// stuck is a tenant that cannot be moved, and why.
type stuck struct{ slug, why string }

// Step implements operation.Attempt.
func (d *drain) Step(ctx context.Context, _ string) error {
	var p drainParams
	if err := json.Unmarshal(d.run.Params, &p); err != nil {
		return operation.Fail("bad_parameters", "The operation's parameters cannot be read.", "Start it anew.").Because(err)
	}
	drained, err := d.s.servers.Get(ctx, p.ServerID)
	if err != nil {
		return err
	}
	if drained.Status == "active" {
		return operation.Fail("drain_stopped", "Server "+drained.Name+" was activated while it was drained.", "Drain it again if it shall be empty.")
	}
	waiting, err := d.look(ctx, p.ServerID)
	if err != nil {
		return err
	}
	for _, t := range waiting.next {
		if waiting.underway >= d.s.options.EachServer {
			break
		}
		why, err := d.start(ctx, t)
		switch {
		case err != nil:
			return err
		case why == "":
			waiting.underway++
		default:
			waiting.stuck = append(waiting.stuck, stuck{t.slug, why})
		}
	}
	failpoint.Hit(ctx, failpointAsked)
	switch {
	case waiting.here == 0:
		return nil
	case waiting.underway == 0 && len(waiting.stuck) == waiting.here:
		return operation.Fail("tenants_left", fmt.Sprintf("%d of %d tenants stay on server %s. %s", waiting.here, waiting.total, drained.Name, list(waiting.stuck)),
			"Remove the causes, then drain the server again.")
	}
	message := fmt.Sprintf("%d of %d tenants have left server %s, %d are moving.", waiting.total-waiting.here, waiting.total, drained.Name, waiting.underway)
	if len(waiting.stuck) > 0 {
		message += fmt.Sprintf(" %d cannot be moved: %s", len(waiting.stuck), list(waiting.stuck))
	}
	return operation.Later("draining", message, "Nothing: it goes on by itself.").In(drainEvery)
}

// list names the first of those that are stuck.
func list(all []stuck) string {
	const most = 10
	var parts []string
	for _, s := range all[:min(len(all), most)] {
		parts = append(parts, s.slug+": "+s.why)
	}
	if len(all) > most {
		parts = append(parts, fmt.Sprintf("and %d more", len(all)-most))
	}
	return strings.Join(parts, " · ")
}

// errTargetBusy says that the emptiest server receives as many tenants as it may.
var errTargetBusy = errors.New("the server receives as many tenants as it may at once")

// spare refuses a server to which as many moves are under way as may be by drains.
func (s *Service) spare(ctx context.Context, tx pgx.Tx, target uuid.UUID) error {
	var arriving int
	err := tx.QueryRow(ctx, "SELECT count(*) FROM control.moves WHERE target_id = $1 AND switched_at IS NULL AND aborted_at IS NULL", target).Scan(&arriving)
	if err != nil {
		return fmt.Errorf("count the moves to a server: %w", err)
	}
	if arriving >= s.options.EachServer {
		return errTargetBusy
	}
	return nil
}

type resident struct {
	id   uuid.UUID
	slug string
}

// survey is what is still on the server, and who comes next.
type survey struct {
	progress

	next []resident
}

func (d *drain) look(ctx context.Context, serverID uuid.UUID) (survey, error) {
	var s survey
	rows, err := d.s.db.Query(ctx, `
		SELECT t.id, t.slug, t.status, o.status, COALESCE(o.error ->> 'message', ''),
		       EXISTS (SELECT FROM control.operations x WHERE x.tenant_id = t.id AND x.exclusive AND x.status IN ('queued', 'running'))
		FROM control.tenants t
		LEFT JOIN LATERAL (SELECT o.status, o.error FROM control.moves m JOIN control.operations o ON o.id = m.operation_id
		                   WHERE m.tenant_id = t.id AND m.drain_id = $2 ORDER BY o.id DESC LIMIT 1) o ON true
		WHERE t.server_id = $1 ORDER BY t.id`, serverID, d.run.ID)
	if err != nil {
		return s, fmt.Errorf("list the tenants of the server: %w", err)
	}
	var r resident
	var status, why string
	var moving *string
	var busy bool
	_, err = pgx.ForEachRow(rows, []any{&r.id, &r.slug, &status, &moving, &why, &busy}, func() error {
		s.here++
		switch {
		case moving != nil && (*moving == "queued" || *moving == "running"):
			s.underway++
		case busy: // with something else; it is looked at again
		case moving != nil: // it has failed
			s.stuck = append(s.stuck, stuck{r.slug, why})
		case !movable(status):
			s.stuck = append(s.stuck, stuck{r.slug, "it is " + status})
		default:
			s.next = append(s.next, r)
		}
		return nil
	})
	if err != nil {
		return s, fmt.Errorf("list the tenants of the server: %w", err)
	}
	var left int
	err = d.s.db.QueryRow(ctx, "SELECT count(*) FROM control.moves WHERE drain_id = $1 AND switched_at IS NOT NULL", d.run.ID).Scan(&left)
	if err != nil {
		return s, fmt.Errorf("count the moves of the drain: %w", err)
	}
	s.total = s.here + left
	return s, nil
}

// start asks for the move of one tenant, to the emptiest server of those that do
// not receive as many as they may. why tells what is in the way of this tenant;
// "" is none, or one that passes.
func (d *drain) start(ctx context.Context, t resident) (why string, err error) {
	actor := audit.Worker(d.run.ID.String())
	err = pg.InTx(ctx, d.s.db, func(tx pgx.Tx) error {
		_, err := d.s.start(ctx, tx, actor, t.id, "", uuid.NullUUID{UUID: d.run.ID, Valid: true})
		return err
	})
	refused, ok := errors.AsType[*fault.Error](err)
	switch {
	case err == nil, errors.Is(err, errTargetBusy):
		return "", nil
	case !ok || !fault.Is(err, fault.KindConflict):
		return "", err
	case refused.EffectiveCode() == "operation_in_progress":
		return "", nil
	}
	return refused.Error(), nil
}
