// Package job is where River meets the control plane: its schema, its clients,
// and the job kinds, which are thin. What must survive is in the rows that a
// job is woken for (package operation), never in the job.
//
// Invariants:
//   - a job is inserted in the transaction that writes the row it is about;
//   - wake-ups are not unique: River would count a dead worker's job as
//     running for a while and drop the next one as a duplicate;
//   - every worker knows all kinds, because a leader discards jobs whose kind
//     it does not know;
//   - arguments hold no secrets: they are shown on /jobs.
package job

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
)

// Schema of the control database that holds River's tables.
const Schema = "river"

// The queues of operations are apart from the default one, so that a burst of
// sign-ups does not keep mail waiting, and from each other, so that backups do not
// keep sign-ups waiting.
const (
	queueOperations = "operations"
	queueLong       = "operations_long"
)

// WakeOperation asks a worker to look at an operation.
type WakeOperation struct {
	OperationID uuid.UUID `json:"operation_id"`
}

// Kind implements river.JobArgs.
func (WakeOperation) Kind() string { return "operation_wake" }

// InsertOpts implements river.JobArgsWithInsertOpts.
func (WakeOperation) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: queueOperations, MaxAttempts: 3}
}

// Register adds the job kinds of a room to those that a client knows.
type Register func(workers *river.Workers)

// Queue inserts jobs. It implements operation.Waker.
type Queue struct {
	// Client is for the jobs page and for rooms with job kinds of their own
	// (InsertTx).
	Client *river.Client[pgx.Tx]
}

// NewInsertOnly makes a queue for a process that works no jobs. log may be nil.
func NewInsertOnly(pool *pgxpool.Pool, log *slog.Logger) (*Queue, error) {
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{Schema: Schema, Logger: quiet(log)})
	if err != nil {
		return nil, fmt.Errorf("make the job queue: %w", err)
	}
	return &Queue{Client: client}, nil
}

// Wake implements operation.Waker.
func (q *Queue) Wake(ctx context.Context, tx pgx.Tx, ids ...uuid.UUID) error {
	jobs := make([]river.InsertManyParams, len(ids))
	rows, err := tx.Query(ctx, "SELECT id FROM control.operations WHERE id = ANY ($1) AND long", ids)
	if err != nil {
		return fmt.Errorf("look up the operations to wake: %w", err)
	}
	long, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return fmt.Errorf("look up the operations to wake: %w", err)
	}
	for i, id := range ids {
		jobs[i] = river.InsertManyParams{Args: WakeOperation{OperationID: id}}
		if slices.Contains(long, id) {
			jobs[i].InsertOpts = &river.InsertOpts{Queue: queueLong, MaxAttempts: 3}
		}
	}
	if _, err := q.Client.InsertManyFastTx(ctx, tx, jobs); err != nil {
		return fmt.Errorf("insert a wake-up: %w", err)
	}
	return nil
}

const (
	// Of jobs that are no operations: those bound their own steps.
	jobTimeout = 60 * time.Second
	// The least time between two looks for jobs. River's 100 ms is for queues of
	// thousands of short jobs; here it would leave workers idle between
	// operations while others wait.
	fetchCooldown = 10 * time.Millisecond
	// River's own net under the reaper.
	rescueAfter = 90 * time.Second
	// How long running jobs may go on when the process is asked to stop, and
	// then how long they may take to notice.
	stopPatience = 5 * time.Second
	stopTimeout  = 8 * time.Second
)

// Config of a Worker.
type Config struct {
	Log *slog.Logger
	// Runner runs the operations.
	Runner *operation.Runner
	// Kinds are the job kinds of other rooms.
	Kinds []Register
	// Operations is how many run at once; default 4.
	Operations int
	// Long is how many of those that take long run besides; default 2.
	Long int
	// Others is how many other jobs run at once; default 8.
	Others int
}

// Worker works all jobs and reaps operations.
type Worker struct {
	client *river.Client[pgx.Tx]
	runner *operation.Runner
	log    *slog.Logger
}

// NewWorker makes a worker; Run starts it.
func NewWorker(pool *pgxpool.Pool, c Config) (*Worker, error) {
	workers := river.NewWorkers()
	river.AddWorker(workers, &wakeWorker{runner: c.Runner})
	for _, register := range c.Kinds {
		register(workers)
	}
	if c.Operations <= 0 {
		c.Operations = 4
	}
	if c.Long <= 0 {
		c.Long = 2
	}
	if c.Others <= 0 {
		c.Others = 8
	}
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Schema: Schema,
		Logger: quiet(c.Log),
		Queues: map[string]river.QueueConfig{
			queueOperations:    {MaxWorkers: c.Operations},
			queueLong:          {MaxWorkers: c.Long},
			river.QueueDefault: {MaxWorkers: c.Others},
		},
		Workers:              workers,
		Middleware:           []rivertype.Middleware{withRow},
		JobTimeout:           jobTimeout,
		FetchCooldown:        fetchCooldown,
		RescueStuckJobsAfter: rescueAfter,
		// Reindexing wants the owner of the tables, which the control plane is not.
		ReindexerIndexNames: []string{},
	})
	if err != nil {
		return nil, fmt.Errorf("make the worker: %w", err)
	}
	return &Worker{client: client, runner: c.Runner, log: c.Log}, nil
}

// Client is for the jobs page of a process that also works.
func (w *Worker) Client() *river.Client[pgx.Tx] { return w.client }

// Run works until ctx ends. Then running jobs have a few seconds to finish;
// after that their contexts end and operations give their leases back.
func (w *Worker) Run(ctx context.Context) error {
	if err := w.client.Start(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("start the worker: %w", err)
	}
	w.runner.Reap(ctx)
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopPatience)
	defer cancel()
	if err := w.client.Stop(stopping); err == nil {
		return nil
	}
	ending, cancelEnding := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancelEnding()
	if err := w.client.StopAndCancel(ending); err != nil {
		return fmt.Errorf("stop the worker: %w", err)
	}
	return nil
}

// wakeWorker hands a wake-up to the engine.
type wakeWorker struct {
	river.WorkerDefaults[WakeOperation]

	runner *operation.Runner
}

// Timeout implements river.Worker: there is none. An operation bounds each of its
// steps, and a run that hangs loses its lease.
func (w *wakeWorker) Timeout(*river.Job[WakeOperation]) time.Duration { return -1 }

// Work implements river.Worker.
func (w *wakeWorker) Work(ctx context.Context, job *river.Job[WakeOperation]) error {
	return w.runner.Run(ctx, job.Args.OperationID)
}

// quiet keeps River's own reports of every start and stop out of the log.
func quiet(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(atLeast{Handler: log.Handler(), level: slog.LevelWarn})
}

type atLeast struct {
	slog.Handler

	level slog.Level
}

// Enabled implements slog.Handler.
func (h atLeast) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= h.level && h.Handler.Enabled(ctx, level)
}

// WithAttrs implements slog.Handler.
func (h atLeast) WithAttrs(attrs []slog.Attr) slog.Handler {
	return atLeast{Handler: h.Handler.WithAttrs(attrs), level: h.level}
}

// WithGroup implements slog.Handler.
func (h atLeast) WithGroup(name string) slog.Handler {
	return atLeast{Handler: h.Handler.WithGroup(name), level: h.level}
}
