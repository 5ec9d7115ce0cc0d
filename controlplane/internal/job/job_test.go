package job_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"github.com/ouvira/ouvira/controlplane/internal/controltest"
	"github.com/ouvira/ouvira/controlplane/internal/job"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

// handler runs one step, as the test says.
type handler func(ctx context.Context) error

func (h handler) Begin(*operation.Run) operation.Attempt                  { return h }
func (h handler) Step(ctx context.Context, _ string) error                { return h(ctx) }
func (h handler) Undo(context.Context) error                              { return nil }
func (h handler) Failed(context.Context, pgx.Tx, operation.Problem) error { return nil }
func (h handler) Close()                                                  {}

type plane struct {
	control controltest.Control
	queue   *job.Queue
	store   *operation.Store
}

func newPlane(t *testing.T) *plane {
	t.Helper()
	p := &plane{control: controltest.New(t)}
	var err error
	if p.queue, err = job.NewInsertOnly(p.control.Pool, nil); err != nil {
		t.Fatal(err)
	}
	p.store = operation.NewStore(p.control.Pool, p.queue)
	return p
}

func (p *plane) enqueue(t *testing.T) uuid.UUID {
	t.Helper()
	id, err := pg.InTxValue(t.Context(), p.control.Pool, func(tx pgx.Tx) (uuid.UUID, error) {
		return p.store.Enqueue(t.Context(), tx, operation.Spec{Kind: "test", Steps: []string{"only"}, CreatedBy: "test"})
	})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// work starts a worker; stop ends it as SIGTERM would.
func (p *plane) work(t *testing.T, name string, h handler, kinds ...job.Register) (stop func()) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	runner := operation.NewRunner(p.store, name, log, map[string]operation.Handler{"test": h})
	worker, err := job.NewWorker(p.control.Pool, job.Config{Log: log, Runner: runner, Kinds: kinds})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- worker.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the worker's end: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func (p *plane) await(t *testing.T, id uuid.UUID, status operation.Status) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var last *operation.Operation
	err := p.store.Watch(ctx, id, func(o *operation.Operation) error { last = o; return nil })
	if err != nil || last.Status != status {
		t.Fatalf("%v %+v", err, last)
	}
}

func TestAWorkerRunsWhatIsEnqueued(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	p.work(t, "w", func(context.Context) error { return nil })
	p.await(t, p.enqueue(t), operation.Succeeded)
}

// TestADeadWorkersOperationIsTakenUp: the wake-up is spent and its worker gone,
// River still counts the job as running.
func TestADeadWorkersOperationIsTakenUp(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	id := p.enqueue(t)
	_, err := p.control.Pool.Exec(t.Context(), "UPDATE river.river_job SET state = 'running', attempt = 1, attempted_at = now()")
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.control.Pool.Exec(t.Context(), `
		UPDATE control.operations SET status = 'running', epoch = 1, lease_holder = 'dead', lease_until = now() + interval '2 seconds', wake_at = now()
		WHERE id = $1`, id)
	if err != nil {
		t.Fatal(err)
	}
	p.work(t, "w", func(context.Context) error { return nil })
	p.await(t, id, operation.Succeeded)
}

// TestStoppingGivesTheLeaseBack: a step that does not end is interrupted, and
// another worker has the operation at once.
func TestStoppingGivesTheLeaseBack(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	begun := make(chan struct{})
	stop := p.work(t, "w1", func(ctx context.Context) error {
		close(begun)
		<-ctx.Done()
		return ctx.Err()
	})
	id := p.enqueue(t)
	<-begun
	stop()
	o, err := p.store.Get(t.Context(), id)
	if err != nil || o.Status != operation.Queued {
		t.Fatalf("%v %+v", err, o)
	}
	p.work(t, "w2", func(context.Context) error { return nil })
	p.await(t, id, operation.Succeeded)
}

type greet struct {
	Name string `json:"name"`
}

func (greet) Kind() string { return "greet" }

type greeter struct {
	river.WorkerDefaults[greet]

	greeted chan string
}

func (g *greeter) Work(_ context.Context, j *river.Job[greet]) error {
	g.greeted <- j.Args.Name
	return nil
}

func TestOtherRoomsHaveKindsOfTheirOwn(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	g := &greeter{greeted: make(chan string, 1)}
	p.work(t, "w", func(context.Context) error { return nil }, func(workers *river.Workers) { river.AddWorker(workers, g) })
	err := pg.InTx(t.Context(), p.control.Pool, func(tx pgx.Tx) error {
		_, err := p.queue.Client.InsertTx(t.Context(), tx, greet{Name: "Ada"}, nil)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case name := <-g.greeted:
		if name != "Ada" {
			t.Error(name)
		}
	case <-time.After(30 * time.Second):
		t.Error("nobody greeted")
	}
}

func TestMigrateMayBeRepeatedAndRaced(t *testing.T) {
	t.Parallel()
	c := controltest.New(t)
	ended := make(chan error)
	for range 3 {
		go func() { ended <- job.Migrate(context.Background(), c.SuperuserURL) }()
	}
	for range 3 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	var owner string
	err := c.Pool.QueryRow(t.Context(), "SELECT tableowner FROM pg_tables WHERE schemaname = 'river' AND tablename = 'river_job'").Scan(&owner)
	if err != nil || owner != "ouvira_control_owner" {
		t.Errorf("%s %v", owner, err)
	}
	// The nodes see nothing of it.
	node := testdb.Connect(t, c.NodeURL)
	if _, err := node.Exec(t.Context(), "SELECT FROM river.river_job"); pg.Code(err) != pg.CodeInsufficientRights {
		t.Errorf("a node reads the jobs: %v", err)
	}
}
