package operation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

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

// What its asker runs itself is nobody else's, until the asker hands it over or has been
// silent for a while.
func TestAnOperationKeptForItsAsker(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	worker := NewRunner(e.Store, "worker", e.runner.log, map[string]Handler{"test": e.script})
	keep := func() uuid.UUID {
		t.Helper()
		id, err := pg.InTxValue(t.Context(), e.db, func(tx pgx.Tx) (uuid.UUID, error) {
			return e.Enqueue(t.Context(), tx, Spec{Kind: "test", Steps: []string{"one"}, CreatedBy: "x", Here: e.runner})
		})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	try := func(r *Runner, id uuid.UUID, want Status) {
		t.Helper()
		if err := r.Run(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if o := e.get(t, id); o.Status != want {
			t.Errorf("after %s came by it is %s, want %s", r.holder, o.Status, want)
		}
	}
	mine := keep()
	try(worker, mine, Queued)
	try(e.runner, mine, Succeeded)

	handed := keep()
	if err := e.runner.HandOver(t.Context(), handed); err != nil {
		t.Fatal(err)
	}
	if err := e.runner.HandOver(t.Context(), handed); err != nil || e.woken.count(handed) != 1 {
		t.Errorf("handed over twice: %v, woken %d times", err, e.woken.count(handed))
	}
	try(worker, handed, Succeeded)

	forgotten := keep()
	e.exec(t, "UPDATE control.operations SET wake_at = wake_at - $2::interval, lease_until = lease_until - $2::interval WHERE id = $1", forgotten, hereGrace)
	if n, err := worker.reap(t.Context()); err != nil || n != 1 || e.woken.count(forgotten) != 1 {
		t.Errorf("the reaper woke %d (%v), this one %d times", n, err, e.woken.count(forgotten))
	}
	try(worker, forgotten, Succeeded)
	if e.woken.count(mine) != 0 {
		t.Error("a worker was woken for what was run at once")
	}
}

// The last act of a step and its record are one commit.
func TestFinishRecordsTheStep(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	id := e.enqueue(t)
	refused := errors.New("refused")
	var seen []string
	e.script.step = func(ctx context.Context, run *Run, name string) error {
		seen = append(seen, name)
		if run.Epoch == 1 && name == "two" {
			err := run.Finish(ctx, func(pgx.Tx) error { return refused })
			if !errors.Is(err, refused) || e.get(t, id).Steps[1].Status != "running" {
				t.Errorf("an act that fails was recorded (%v)", err)
			}
		}
		acts := 0
		for range 2 {
			if err := run.Finish(ctx, func(pgx.Tx) error { acts++; return nil }); err != nil || acts != 1 {
				return fmt.Errorf("%d acts: %w", acts, err)
			}
		}
		o := e.get(t, id)
		if at := len(o.Steps); name != "three" && o.Status != Running || name == "three" && (o.Status != Succeeded || o.Steps[at-1].Status != "succeeded") {
			t.Errorf("%s is done: %+v", name, o)
		}
		if name == "two" {
			return ErrFenced // the process dies here
		}
		return nil
	}
	if o := e.run(t, id); o.Status != Running || o.Steps[1].Status != "succeeded" || o.Steps[2].Status != "running" {
		t.Fatalf("%+v", o)
	}
	e.exec(t, "UPDATE control.operations SET lease_until = now() - interval '1 second' WHERE id = $1", id)
	if o := e.run(t, id); o.Status != Succeeded || !slices.Equal(seen, []string{"one", "two", "three"}) {
		t.Errorf("%v: %+v", seen, o)
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

// What failed is nobody's business any more when the same has succeeded since, for that
// tenant, or when the tenant is purged.
func TestFailuresAreMadeGood(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	tenants := map[string]uuid.UUID{}
	for slug, status := range map[string]string{"acme": "active", "globex": "active", "gone": "purged"} {
		tenants[slug] = uuid.New()
		e.exec(t, "INSERT INTO control.tenants (id, slug, name, status, plan_id) SELECT $1, $2, 'A', $3, id FROM control.plans LIMIT 1", tenants[slug], slug, status)
	}
	ended := func(kind, status, slug, params string) uuid.UUID {
		t.Helper()
		id := uuid.Must(uuid.NewV7())
		e.exec(t, `INSERT INTO control.operations (id, kind, status, tenant_id, params, created_by, finished_at)
			VALUES ($1, $2, $3, $4, $5, 'operator:1', now())`, id, kind, status, uuid.NullUUID{UUID: tenants[slug], Valid: slug != ""}, params)
		return id
	}
	ended("move", "succeeded", "acme", "{}")
	want := []uuid.UUID{
		ended("move", "failed", "acme", "{}"),
		ended("backup", "failed", "globex", "{}"),
		ended("drain", "failed", "", `{"server": "a"}`),
	}
	ended("backup", "failed", "acme", "{}")
	ended("backup", "succeeded", "acme", "{}")
	ended("drain", "failed", "", `{"server": "b"}`)
	ended("drain", "succeeded", "", `{"server": "b"}`)
	ended("move", "cancelled", "globex", "{}")
	ended("delete", "failed", "gone", "{}")
	list, err := e.List(t.Context(), Filter{Unresolved: true})
	var got []uuid.UUID
	for _, o := range slices.Backward(list) {
		got = append(got, o.ID)
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, want %v; %v", got, want, err)
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
