package operation

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

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
			"advance": run.advance(ctx, run.db, []string{"two", "three"}),
			"finish":  run.Finish(ctx, func(pgx.Tx) error { t.Error("the transaction ran"); return nil }),
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
