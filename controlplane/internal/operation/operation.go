package operation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// Status of an operation.
type Status string

// The states of an operation; the last three are final.
const (
	Queued    Status = "queued"
	Running   Status = "running"
	Succeeded Status = "succeeded"
	Failed    Status = "failed"
	Cancelled Status = "cancelled"
)

// Finished tells whether nothing will change any more.
func (s Status) Finished() bool { return s == Succeeded || s == Failed || s == Cancelled }

// Operation is one piece of long-running work as people see it.
type Operation struct {
	ID         uuid.UUID  `json:"id"`
	Kind       string     `json:"kind"`
	TenantID   *uuid.UUID `json:"tenant_id"`
	Tenant     *string    `json:"tenant"` // its slug, for people
	Status     Status     `json:"status"`
	Steps      []Step     `json:"steps"`
	Progress   float64    `json:"progress"` // 0–1
	Error      *Problem   `json:"error"`    // also why a queued one waits
	CreatedBy  string     `json:"created_by"`
	CreatedAt  time.Time  `json:"created_at"`
	UpdatedAt  time.Time  `json:"updated_at"`
	FinishedAt *time.Time `json:"finished_at"`
}

// Step of an operation: pending, running, succeeded or failed.
type Step struct {
	Name       string     `json:"name"`
	Status     string     `json:"status"`
	StartedAt  *time.Time `json:"started_at"`
	FinishedAt *time.Time `json:"finished_at"`
}

// Problem says why an operation waits or has failed, and what to do next.
type Problem struct {
	Code       string `json:"code"`
	Message    string `json:"message"`
	NextAction string `json:"next_action"`
}

// Spec is what is asked for.
type Spec struct {
	Kind      string
	TenantID  uuid.UUID // uuid.Nil: of no tenant
	Params    any       // becomes JSON; no secrets
	Steps     []string  // in their order
	CreatedBy string    // who asked, for people: "operator:<id>", "signup:<id>", …
	Exclusive bool      // works on the tenant's database as a whole: one at a time for each tenant
	Long      bool      // may take minutes or hours: waits behind its like, not before sign-ups
	// Here: this runner runs it itself, right after the commit, or hands it over. No
	// worker is woken, unless nothing has come of that after some seconds.
	Here *Runner
}

// Waker makes some worker look at an operation, once the transaction commits.
type Waker interface {
	Wake(ctx context.Context, tx pgx.Tx, ids ...uuid.UUID) error
}

// Store writes new operations and reads all of them. It may be used by several
// goroutines.
type Store struct {
	db    pg.DB
	waker Waker
}

// NewStore makes a store on the control database.
func NewStore(db pg.DB, waker Waker) *Store { return &Store{db: db, waker: waker} }

const (
	// wakeGrace is how long a wake-up may take before the reaper sends another.
	wakeGrace = 20 * time.Second
	// hereGrace is how long an operation is kept for the process that asked for it.
	hereGrace = 3 * time.Second
)

// Enqueue writes an operation and its wake-up in the caller's transaction and
// returns its id. Errors: fault.Conflict, which names the operation that is in
// the way of an exclusive one.
func (s *Store) Enqueue(ctx context.Context, tx pgx.Tx, spec Spec) (uuid.UUID, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return uuid.Nil, fmt.Errorf("make an operation id: %w", err)
	}
	params, err := json.Marshal(spec.Params)
	if err != nil {
		return uuid.Nil, fmt.Errorf("encode the parameters of a %s: %w", spec.Kind, err)
	}
	if spec.Params == nil {
		params = []byte("{}")
	}
	var tenant *uuid.UUID
	if spec.TenantID != uuid.Nil {
		tenant = &spec.TenantID
	}
	grace, holder := wakeGrace, ""
	if spec.Here != nil {
		grace, holder = hereGrace, spec.Here.holder
	}
	tag, err := tx.Exec(ctx, `
		INSERT INTO control.operations (id, kind, tenant_id, params, created_by, wake_at, exclusive, long, lease_holder, lease_until)
		VALUES ($1, $2, $3, $4, $5, now() + $6::interval, $7, $8, $9, CASE WHEN $9 <> '' THEN now() + $6::interval END)
		ON CONFLICT (tenant_id) WHERE exclusive AND status IN ('queued', 'running') DO NOTHING`,
		id, spec.Kind, tenant, params, spec.CreatedBy, grace, spec.Exclusive, spec.Long, holder)
	if err != nil {
		return uuid.Nil, fmt.Errorf("write the operation: %w", err)
	}
	if tag.RowsAffected() == 0 {
		err := s.Idle(ctx, tx, spec.TenantID)
		if err == nil { // it has just ended
			err = busy(" or was a moment ago: try again")
		}
		return uuid.Nil, err
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO control.operation_steps (operation_id, position, name)
		SELECT $1, n, name FROM unnest($2::text[]) WITH ORDINALITY AS s (name, n)`,
		id, spec.Steps)
	if err != nil {
		return uuid.Nil, fmt.Errorf("write the operation's steps: %w", err)
	}
	if spec.Here != nil {
		return id, nil
	}
	if err := s.waker.Wake(ctx, tx, id); err != nil {
		return uuid.Nil, fmt.Errorf("wake the operation: %w", err)
	}
	return id, nil
}

// Idle looks whether an exclusive operation of the tenant is unfinished. Errors:
// fault.Conflict, which says what it is and whose.
func (s *Store) Idle(ctx context.Context, q pg.Querier, tenant uuid.UUID) error {
	var id uuid.UUID
	var kind, by string
	var since time.Time
	err := q.QueryRow(ctx, `
		SELECT o.id, o.kind, COALESCE(p.email, o.created_by), o.created_at
		FROM control.operations o LEFT JOIN control.operators p ON o.created_by = 'operator:' || p.id
		WHERE o.tenant_id = $1 AND o.exclusive AND o.status IN ('queued', 'running')`, tenant).Scan(&id, &kind, &by, &since)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("look up what is in the way: %w", err)
	}
	return busy(fmt.Sprintf(": %s, started by %s at %s. Wait for it (ouvira operation watch %s), then try again",
		kind, by, since.UTC().Format(time.RFC3339), id))
}

func busy(detail string) *fault.Error {
	return fault.Conflict("Another operation is at work on this tenant" + detail + ".").Code("operation_in_progress")
}

// selectOperations reads an operation and its steps at one moment.
const selectOperations = `
	SELECT o.id, o.kind, o.tenant_id, (SELECT t.slug FROM control.tenants t WHERE t.id = o.tenant_id), o.status, o.error, o.created_by, o.created_at, o.updated_at, o.finished_at,
	       COALESCE((SELECT jsonb_agg(jsonb_build_object('name', s.name, 'status', s.status,
	                     'started_at', s.started_at, 'finished_at', s.finished_at) ORDER BY s.position)
	                 FROM control.operation_steps s WHERE s.operation_id = o.id), '[]') AS steps
	FROM control.operations o`

func scanOperation(row pgx.CollectableRow) (*Operation, error) {
	var o Operation
	var problem, steps []byte
	err := row.Scan(&o.ID, &o.Kind, &o.TenantID, &o.Tenant, &o.Status, &problem, &o.CreatedBy, &o.CreatedAt, &o.UpdatedAt, &o.FinishedAt, &steps)
	if err != nil {
		return nil, err
	}
	if problem != nil {
		if err := json.Unmarshal(problem, &o.Error); err != nil {
			return nil, fmt.Errorf("decode the error of operation %s: %w", o.ID, err)
		}
	}
	if err := json.Unmarshal(steps, &o.Steps); err != nil {
		return nil, fmt.Errorf("decode the steps of operation %s: %w", o.ID, err)
	}
	done := 0
	for _, step := range o.Steps {
		if step.Status == string(Succeeded) {
			done++
		}
	}
	switch {
	case o.Status == Succeeded:
		o.Progress = 1
	case len(o.Steps) > 0:
		o.Progress = float64(done) / float64(len(o.Steps))
	}
	return &o, nil
}

// Get reads one operation. Errors: fault.NotFound.
func (s *Store) Get(ctx context.Context, id uuid.UUID) (*Operation, error) {
	return get(ctx, s.db, id)
}

// GetTx is Get inside the caller's transaction, for an answer that shows what
// was just written.
func (s *Store) GetTx(ctx context.Context, tx pgx.Tx, id uuid.UUID) (*Operation, error) {
	return get(ctx, tx, id)
}

func get(ctx context.Context, q pg.Querier, id uuid.UUID) (*Operation, error) {
	rows, err := q.Query(ctx, selectOperations+" WHERE o.id = $1", id)
	if err != nil {
		return nil, fmt.Errorf("read the operation: %w", err)
	}
	o, err := pgx.CollectExactlyOneRow(rows, scanOperation)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fault.NotFound("There is no such operation.")
	}
	return o, err
}

// Filter of List; zero fields do not filter.
type Filter struct {
	TenantID uuid.UUID
	Kind     string
	Status   Status
	// Unresolved leaves those that have failed and where the same did not succeed since,
	// of tenants that are not purged: what somebody has to look after.
	Unresolved bool
	Before     uuid.UUID // only older ones: the last id of the previous page
	Limit      int       // default 50, at most 500
}

// List returns operations, the newest first.
func (s *Store) List(ctx context.Context, f Filter) ([]*Operation, error) {
	limit := f.Limit
	if limit <= 0 {
		limit = 50
	}
	rows, err := s.db.Query(ctx, selectOperations+`
		WHERE ($1::uuid = $6 OR o.tenant_id = $1)
		  AND ($2::text = '' OR o.kind = $2)
		  AND ($3::text = '' OR o.status = $3)
		  AND ($4::uuid = $6 OR o.id < $4)
		  AND (NOT $7 OR o.status = 'failed' AND NOT EXISTS (
		      SELECT FROM control.operations n
		      WHERE n.kind = o.kind AND n.status = 'succeeded' AND n.id > o.id
		        AND (n.tenant_id = o.tenant_id OR n.tenant_id IS NULL AND o.tenant_id IS NULL AND n.params = o.params))
		      AND NOT EXISTS (SELECT FROM control.tenants t WHERE t.id = o.tenant_id AND t.status = 'purged'))
		ORDER BY o.id DESC LIMIT $5`,
		f.TenantID, f.Kind, f.Status, f.Before, min(limit, 500), uuid.Nil, f.Unresolved)
	if err != nil {
		return nil, fmt.Errorf("list operations: %w", err)
	}
	return pgx.CollectRows(rows, scanOperation)
}

// watchEvery is how often Watch looks. An operation takes seconds and few are
// watched: a poll is simpler than a LISTEN per process, and misses nothing.
const watchEvery = 250 * time.Millisecond

// Watch calls see with the operation as it is now and after each change, until
// it has finished, see returns an error, or ctx ends. Errors: fault.NotFound,
// that of see, that of ctx.
func (s *Store) Watch(ctx context.Context, id uuid.UUID, see func(*Operation) error) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var seen time.Time
	for {
		o, err := s.Get(ctx, id)
		if err != nil {
			return err
		}
		if !o.UpdatedAt.Equal(seen) {
			seen = o.UpdatedAt
			if err := see(o); err != nil {
				return err
			}
		}
		if o.Status.Finished() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
