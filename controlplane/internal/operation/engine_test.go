package operation

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
	"github.com/ouvira/ouvira/shared/tracing"
)

func TestMain(m *testing.M) { testdb.Main(m) }

// script is a handler whose steps a test writes.
type script struct {
	step   func(ctx context.Context, run *Run, name string) error
	undo   func(ctx context.Context) error
	failed func(ctx context.Context, tx pgx.Tx, why Problem) error

	timeout time.Duration // of each step; 0: the usual
}

type scripted struct {
	*script

	run *Run
}

func (s *script) Begin(run *Run) Attempt { return &scripted{s, run} }

func (s *scripted) Step(ctx context.Context, name string) error {
	if s.step == nil {
		return nil
	}
	return s.step(ctx, s.run, name)
}

func (s *scripted) Undo(ctx context.Context) error {
	if s.undo == nil {
		return nil
	}
	return s.undo(ctx)
}

func (s *scripted) Failed(ctx context.Context, tx pgx.Tx, why Problem) error {
	if s.failed == nil {
		return nil
	}
	return s.failed(ctx, tx, why)
}

func (s *scripted) Close() {}

// Timeout implements Patient.
func (s *script) Timeout(string) time.Duration { return s.timeout }

type wakings struct {
	sync.Mutex

	ids []uuid.UUID
}

func (w *wakings) Wake(_ context.Context, _ pgx.Tx, ids ...uuid.UUID) error {
	w.Lock()
	defer w.Unlock()
	w.ids = append(w.ids, ids...)
	return nil
}

func (w *wakings) count(id uuid.UUID) int {
	w.Lock()
	defer w.Unlock()
	n := 0
	for _, woken := range w.ids {
		if woken == id {
			n++
		}
	}
	return n
}

type engine struct {
	*Store

	runner *Runner
	woken  *wakings
	script *script
}

func newEngine(t *testing.T) *engine {
	t.Helper()
	fingerprint, err := migrations.Control.Fingerprint()
	if err != nil {
		t.Fatal(err)
	}
	// The control schema alone: the engine is tested below River.
	address := testdb.New(t, testdb.Template{
		Name: "control without river", Fingerprint: fingerprint,
		Build: func(ctx context.Context, address string) error {
			conn, err := pgx.Connect(ctx, address)
			if err != nil {
				return err
			}
			defer conn.Close(ctx)
			for _, role := range []string{migrations.ControlOwnerRole, migrations.ControlRole, migrations.NodeRole} {
				if _, err := conn.Exec(ctx, "CREATE ROLE "+role); err != nil && pg.Code(err) != pg.CodeDuplicateObject {
					return err
				}
			}
			_, err = migrations.Up(ctx, address, migrations.Control)
			return err
		},
	})
	pool, err := pg.Open(t.Context(), address, pg.Options{MaxConnections: 6, Tracer: tracing.Queries{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	e := &engine{woken: &wakings{}, script: &script{}}
	e.Store = NewStore(pool, e.woken)
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	e.runner = NewRunner(e.Store, "test", log, map[string]Handler{"test": e.script})
	return e
}

func (e *engine) enqueue(t *testing.T) uuid.UUID {
	t.Helper()
	id, err := pg.InTxValue(t.Context(), e.db, func(tx pgx.Tx) (uuid.UUID, error) {
		return e.Enqueue(t.Context(), tx, Spec{Kind: "test", Params: map[string]int{"n": 1}, Steps: []string{"one", "two", "three"}, CreatedBy: "operator:1"})
	})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (e *engine) run(t *testing.T, id uuid.UUID) *Operation {
	t.Helper()
	if err := e.runner.Run(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	return e.get(t, id)
}

func (e *engine) get(t *testing.T, id uuid.UUID) *Operation {
	t.Helper()
	o, err := e.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func (e *engine) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := e.db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}
