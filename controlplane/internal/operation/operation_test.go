package operation

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

// script is a handler whose steps a test writes.
type script struct {
	step   func(ctx context.Context, run *Run, name string) error
	undo   func(ctx context.Context) error
	failed func(ctx context.Context, tx pgx.Tx, why Problem) error
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
	pool, err := pg.Open(t.Context(), address, pg.Options{MaxConnections: 6})
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

func TestEnqueueIsPartOfTheCallersTransaction(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	undone := errors.New("undone")
	var id uuid.UUID
	err := pg.InTx(t.Context(), e.db, func(tx pgx.Tx) error {
		var err error
		if id, err = e.Enqueue(t.Context(), tx, Spec{Kind: "test", CreatedBy: "x"}); err != nil {
			return err
		}
		if _, err := e.GetTx(t.Context(), tx, id); err != nil {
			t.Errorf("not visible in its own transaction: %v", err)
		}
		return undone
	})
	if !errors.Is(err, undone) {
		t.Fatal(err)
	}
	if _, err := e.Get(t.Context(), id); !fault.Is(err, fault.KindNotFound) {
		t.Errorf("rolled back, and there: %v", err)
	}
}

func TestStepsRunInOrderAndAreRecorded(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	id := e.enqueue(t)
	var seen []string
	e.script.step = func(ctx context.Context, run *Run, name string) error {
		seen = append(seen, name)
		if string(run.Params) != `{"n": 1}` || run.ApplicationName() != "ouvira/op/"+id.String()+"/1" || len(run.ApplicationName()) > 63 {
			t.Errorf("%s %s", run.Params, run.ApplicationName())
		}
		o := e.get(t, id)
		if want := float64(len(seen)-1) / 3; o.Progress != want || o.Status != Running || o.Steps[len(seen)-1].Status != "running" {
			t.Errorf("during %s: %+v", name, o)
		}
		return nil
	}
	o := e.run(t, id)
	if !slices.Equal(seen, []string{"one", "two", "three"}) || o.Status != Succeeded || o.Progress != 1 || o.FinishedAt == nil || o.Error != nil {
		t.Errorf("%v %+v", seen, o)
	}
	for _, s := range o.Steps {
		if s.Status != "succeeded" || s.StartedAt == nil || s.FinishedAt == nil || s.FinishedAt.Before(*s.StartedAt) {
			t.Errorf("%+v", s)
		}
	}
	e.run(t, id) // a wake-up that comes twice does nothing
	if len(seen) != 3 {
		t.Errorf("run again: %v", seen)
	}
}

func TestLaterWaitsVisiblyAndGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	id := e.enqueue(t)
	var seen []string
	closed := true
	e.script.step = func(_ context.Context, _ *Run, name string) error {
		seen = append(seen, name)
		if name == "two" && closed {
			return Later("shop_closed", "The shop is closed.", "Wait until it opens.")
		}
		return nil
	}
	o := e.run(t, id)
	if o.Status != Queued || o.Error == nil || o.Error.Code != "shop_closed" || o.Steps[1].Status != "pending" || o.Steps[0].Status != "succeeded" {
		t.Fatalf("%+v %+v", o, o.Error)
	}
	before := e.woken.count(id)
	e.exec(t, "UPDATE control.operations SET wake_at = now() WHERE id = $1", id)
	if n, err := e.runner.reap(t.Context()); err != nil || n != 1 || e.woken.count(id) != before+1 {
		t.Errorf("reaped %d, %v", n, err)
	}
	if n, err := e.runner.reap(t.Context()); err != nil || n != 0 {
		t.Errorf("woken twice in a row: %d, %v", n, err)
	}
	closed = false
	if o := e.run(t, id); o.Status != Succeeded || o.Error != nil {
		t.Errorf("%+v", o)
	}
	if !slices.Equal(seen, []string{"one", "two", "two", "three"}) {
		t.Errorf("%v", seen)
	}
}

func TestReaperLeavesTheLivingAlone(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	waiting, living, dead, finished := e.enqueue(t), e.enqueue(t), e.enqueue(t), e.enqueue(t)
	e.exec(t, "UPDATE control.operations SET status = 'running', lease_until = now() + interval '1 minute', wake_at = now() WHERE id = $1", living)
	e.exec(t, "UPDATE control.operations SET status = 'running', lease_until = now() - interval '1 second', wake_at = now() WHERE id = $1", dead)
	e.exec(t, "UPDATE control.operations SET status = 'failed', wake_at = now() WHERE id = $1", finished)
	if n, err := e.runner.reap(t.Context()); err != nil || n != 1 || e.woken.count(dead) != 2 {
		t.Errorf("reaped %d, %v", n, err)
	}
	for _, id := range []uuid.UUID{waiting, living, finished} {
		if e.woken.count(id) != 1 {
			t.Errorf("%s was woken %d times", id, e.woken.count(id))
		}
	}
	// One whose wake-up was lost comes up in the end.
	e.exec(t, "UPDATE control.operations SET wake_at = now() WHERE id = $1", waiting)
	running, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { e.runner.Reap(running); close(done) }()
	for deadline := time.Now().Add(10 * time.Second); e.woken.count(waiting) < 2; {
		if time.Now().After(deadline) {
			t.Fatal("a lost wake-up was not noticed")
		}
		<-time.After(20 * time.Millisecond)
	}
	stop()
	<-done
}

func TestFailIsDecidedThenUndoneThenRecorded(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	id := e.enqueue(t)
	steps, undone := 0, 0
	e.script.step = func(_ context.Context, _ *Run, name string) error {
		steps++
		if name == "two" {
			return Fail("no_luck", "It cannot be done.", "Ask somebody else.")
		}
		return nil
	}
	e.script.undo = func(context.Context) error {
		undone++
		if undone == 1 {
			return ErrFenced // dies in the middle
		}
		if undone == 2 {
			return errors.New("cannot be reached")
		}
		return nil
	}
	if o := e.run(t, id); o.Status != Running || o.Error == nil || o.Error.Code != "no_luck" || o.Steps[1].Status != "failed" {
		t.Fatalf("%+v", o)
	}
	e.exec(t, "UPDATE control.operations SET lease_until = NULL WHERE id = $1", id)
	if o := e.run(t, id); o.Status != Queued || o.Error.Code != "no_luck" {
		t.Fatalf("%+v %+v", o, o.Error)
	}
	o := e.run(t, id)
	if o.Status != Failed || o.Error.Code != "no_luck" || o.Error.NextAction != "Ask somebody else." || o.FinishedAt == nil {
		t.Fatalf("%+v %+v", o, o.Error)
	}
	if steps != 2 || undone != 3 {
		t.Errorf("%d steps, undone %d times: a decided failure must not build on", steps, undone)
	}
	var events int
	if err := e.db.QueryRow(t.Context(), "SELECT count(*) FROM control.events WHERE type = 'operation.failed' AND payload ->> 'code' = 'no_luck'").Scan(&events); err != nil || events != 1 {
		t.Errorf("%d events, %v", events, err)
	}
}

func TestFailedIsInTheSameTransaction(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	id := e.enqueue(t)
	e.script.step = func(context.Context, *Run, string) error { return Fail("no", "No.", "No.") }
	refuse := true
	e.script.failed = func(ctx context.Context, tx pgx.Tx, why Problem) error {
		if why.Code != "no" {
			t.Errorf("%+v", why)
		}
		if refuse {
			return errors.New("not now")
		}
		return nil
	}
	if o := e.run(t, id); o.Status != Queued {
		t.Errorf("%s", o.Status)
	}
	refuse = false
	if o := e.run(t, id); o.Status != Failed {
		t.Errorf("%s", o.Status)
	}
}

func TestUnexpectedErrorsEndSomeDay(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	id := e.enqueue(t)
	e.script.step = func(context.Context, *Run, string) error { return errors.New("what was that?") }
	tries := 0
	for ; tries < 20; tries++ {
		o := e.run(t, id)
		if o.Status == Failed {
			if o.Error.Code != codeUnexpected || o.Error.NextAction == "" {
				t.Errorf("%+v", o.Error)
			}
			break
		}
	}
	if tries != unexpectedLimit-1 {
		t.Errorf("failed after %d tries", tries+1)
	}
}

func TestWaitingDoesNotCountAsUnexpected(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	id := e.enqueue(t)
	n := 0
	e.script.step = func(context.Context, *Run, string) error {
		if n++; n%2 == 0 {
			return errors.New("hiccup")
		}
		return Later("wait", "Wait.", "Wait.")
	}
	for range 3 * unexpectedLimit {
		if o := e.run(t, id); o.Status != Queued {
			t.Fatalf("%s after %d tries", o.Status, n)
		}
	}
}

func TestAnInterruptedRunGivesItsLeaseBack(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	id := e.enqueue(t)
	running, stop := context.WithCancel(t.Context())
	e.script.step = func(ctx context.Context, _ *Run, name string) error {
		if name == "two" && running.Err() == nil {
			stop()
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	if err := e.runner.Run(running, id); err != nil {
		t.Fatal(err)
	}
	if o := e.get(t, id); o.Status != Queued || o.Error != nil || o.Steps[1].Status != "pending" {
		t.Fatalf("%+v", o)
	}
	if e.woken.count(id) != 2 {
		t.Errorf("woken %d times", e.woken.count(id))
	}
	if o := e.run(t, id); o.Status != Succeeded { // at once: no lease to wait for
		t.Errorf("%s", o.Status)
	}
}

// TestOvertakenRunIsFenced: whatever the old run tries after a new claim, it
// changes nothing.
func TestOvertakenRunIsFenced(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	id := e.enqueue(t)
	e.script.step = func(ctx context.Context, run *Run, name string) error {
		if run.Epoch != 1 || name != "two" {
			return nil
		}
		e.exec(t, "UPDATE control.operations SET lease_until = now() - interval '1 second' WHERE id = $1", id)
		if err := e.runner.Run(ctx, id); err != nil {
			t.Error(err)
		}
		for what, err := range map[string]error{
			"check":   run.Check(ctx),
			"renew":   run.renew(ctx),
			"advance": run.advance(ctx, "two", "three"),
			"inTx":    run.InTx(ctx, func(pgx.Tx) error { t.Error("the transaction ran"); return nil }),
			"decide":  run.decide(ctx, record{}),
			"fail":    run.fail(ctx, record{}, func(pgx.Tx) error { return nil }),
			"give":    run.giveBack(ctx, e.woken, nil, 0),
		} {
			if !errors.Is(err, ErrFenced) {
				t.Errorf("%s: %v", what, err)
			}
		}
		return Fail("late", "Too late.", "Nothing.")
	}
	if o := e.run(t, id); o.Status != Succeeded || o.Error != nil {
		t.Errorf("%+v", o)
	}
}

// TestALostLeaseEndsTheRun: the renewal notices that the operation is another's
// and ends the step's context.
func TestALostLeaseEndsTheRun(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.runner.renew = 20 * time.Millisecond
	id := e.enqueue(t)
	e.script.step = func(ctx context.Context, _ *Run, _ string) error {
		e.exec(t, "UPDATE control.operations SET epoch = epoch + 1 WHERE id = $1", id)
		select {
		case <-ctx.Done():
			if !errors.Is(context.Cause(ctx), ErrFenced) {
				t.Errorf("cause: %v", context.Cause(ctx))
			}
			return ctx.Err()
		case <-time.After(10 * time.Second):
			t.Error("the run was not stopped")
			return nil
		}
	}
	if o := e.run(t, id); o.Status != Running {
		t.Errorf("the fenced run wrote: %s", o.Status)
	}
}

func TestRenewalKeepsTheLease(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.runner.renew = 20 * time.Millisecond
	id := e.enqueue(t)
	lease := func() (until time.Time) {
		if err := e.db.QueryRow(t.Context(), "SELECT lease_until FROM control.operations WHERE id = $1", id).Scan(&until); err != nil {
			t.Error(err)
		}
		return until
	}
	e.script.step = func(ctx context.Context, _ *Run, _ string) error {
		first := lease()
		for deadline := time.Now().Add(10 * time.Second); !lease().After(first); {
			if time.Now().After(deadline) {
				return errors.New("never renewed")
			}
		}
		return nil
	}
	if o := e.run(t, id); o.Status != Succeeded {
		t.Errorf("%+v", o.Error)
	}
}

func TestUnknownKindsAreLeftToOthers(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	id, err := pg.InTxValue(t.Context(), e.db, func(tx pgx.Tx) (uuid.UUID, error) {
		return e.Enqueue(t.Context(), tx, Spec{Kind: "of.tomorrow", CreatedBy: "x"})
	})
	if err != nil {
		t.Fatal(err)
	}
	if o := e.run(t, id); o.Status != Queued || len(o.Steps) != 0 {
		t.Errorf("%+v", o)
	}
}

func TestWatchShowsEachChange(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	id := e.enqueue(t)
	seen := make(chan *Operation, 50)
	ended := make(chan error, 1)
	go func() {
		ended <- e.Watch(context.Background(), id, func(o *Operation) error { seen <- o; return nil })
	}()
	if first := <-seen; first.Status != Queued {
		t.Errorf("%+v", first)
	}
	e.run(t, id)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	close(seen)
	var last *Operation
	for o := range seen {
		last = o
	}
	if last == nil || last.Status != Succeeded {
		t.Errorf("%+v", last)
	}
	if err := e.Watch(t.Context(), uuid.New(), nil); !fault.Is(err, fault.KindNotFound) {
		t.Errorf("%v", err)
	}
}

func TestListPagesAndFilters(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	var ids []uuid.UUID
	for range 3 {
		ids = append(ids, e.enqueue(t))
	}
	e.run(t, ids[0])
	page, err := e.List(t.Context(), Filter{Kind: "test", Limit: 2})
	if err != nil || len(page) != 2 || page[0].ID != ids[2] {
		t.Fatalf("%v %v", page, err)
	}
	page, err = e.List(t.Context(), Filter{Before: page[1].ID})
	if err != nil || len(page) != 1 || page[0].ID != ids[0] {
		t.Errorf("%v %v", page, err)
	}
	if page, err = e.List(t.Context(), Filter{Status: Succeeded}); err != nil || len(page) != 1 {
		t.Errorf("%v %v", page, err)
	}
	if page, err = e.List(t.Context(), Filter{TenantID: uuid.New()}); err != nil || len(page) != 0 {
		t.Errorf("%v %v", page, err)
	}
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		least   time.Duration
		repeats int
		age     time.Duration
		from    time.Duration
		to      time.Duration
	}{
		{0, 0, time.Second, 500 * time.Millisecond, 700 * time.Millisecond},
		{0, 20, time.Minute, 2 * time.Second, 3 * time.Second},
		{time.Second, 0, time.Minute, time.Second, 5*time.Second - reapEvery},
		{0, 0, time.Hour, time.Minute, 76 * time.Second},
	} {
		for range 100 {
			if got := backoff(c.least, c.repeats, c.age); got < c.from || got > c.to {
				t.Errorf("%+v: %v", c, got)
			}
		}
	}
}
