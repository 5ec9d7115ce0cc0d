package move_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/move"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/testdb"
)

// mortal is a handler whose first attempt to undo dies, with its work done and
// nothing recorded.
type mortal struct {
	operation.Handler

	died bool
}

func (m *mortal) Begin(run *operation.Run) operation.Attempt {
	return &mortalAttempt{Attempt: m.Handler.Begin(run), m: m}
}

type mortalAttempt struct {
	operation.Attempt

	m *mortal
}

func (a *mortalAttempt) Undo(ctx context.Context) error {
	if err := a.Attempt.Undo(ctx); err != nil || a.m.died {
		return err
	}
	a.m.died = true
	return operation.ErrFenced
}

// A move is cancelled while each of its steps is at work. The run does not get past
// its next write, and the next one leaves nothing, also when it dies on the way. After
// the switch it is too late.
func TestRel03AMoveIsCancelledInEveryStep(t *testing.T) {
	t.Parallel()
	w := shared(t, testdb.System)
	tenant := w.tenant(t, "acme")
	w.fill(t, tenant, 30)
	for _, step := range []string{move.StepPreflight, move.StepTarget, move.StepSubscribe, move.StepCopy, move.StepVerify, move.StepSwitch} {
		op := w.mustAsk(t, tenant, "b")
		overtaken := w.spied(&fleettest.Spy{Before: func(ctx context.Context, name string) error {
			if name != step {
				return nil
			}
			return w.runner.Cancel(ctx, operatorActor, op)
		}})
		if err := overtaken.Run(t.Context(), op); err != nil {
			t.Fatal(err)
		}
		undoing := w.Runner(map[string]operation.Handler{move.Kind: &mortal{Handler: w.move}})
		if err := undoing.Run(t.Context(), op); err != nil {
			t.Fatal(err)
		}
		if o := w.Get(t, op); o.Status != operation.Running {
			t.Fatalf("%s: the run that died left the operation %s", step, o.Status)
		}
		w.Bury(t, op)
		o := w.finish(t, w.runner, op, operation.Cancelled)
		if o.Error.Code != "cancelled" || !strings.Contains(o.Error.Message, operatorActor.Name) {
			t.Errorf("%s: %+v", step, o.Error)
		}
		w.unmoved(t, tenant)
	}
	if n := fleettest.One[int](t, w.Pool, "SELECT count(*) FROM control.audit_log WHERE action = 'operation.cancel' AND tenant_id = $1", tenant); n != 6 {
		t.Errorf("%d cancellations are in the audit", n)
	}
	if n := fleettest.One[int](t, w.Pool, "SELECT count(*) FROM control.events WHERE type = 'operation.failed'"); n != 0 {
		t.Errorf("%d events tell of failures", n)
	}
	op := w.mustAsk(t, tenant, "b")
	late := w.spied(&fleettest.Spy{Before: func(ctx context.Context, name string) error {
		if name != move.StepSettle {
			return nil
		}
		err := w.runner.Cancel(ctx, operatorActor, op)
		if refused := fault.From(err); !fault.Is(err, fault.KindConflict) || refused.EffectiveCode() != "point_of_no_return" || !strings.Contains(refused.Message, "server b") {
			t.Errorf("after the switch: %v", err)
		}
		return nil
	}})
	w.finish(t, late, op, operation.Succeeded)
	w.moved(t, tenant, 2)
	if err := w.runner.Cancel(t.Context(), operatorActor, op); !fault.Is(err, fault.KindConflict) || !strings.Contains(err.Error(), "has succeeded") {
		t.Errorf("one that has ended: %v", err)
	}
}

// Of operators who cancel at the same time one does, and the others are told who.
func TestCancellingIsDoneByOne(t *testing.T) {
	t.Parallel()
	w := shared(t, testdb.System)
	tenant := w.tenant(t, "acme")
	op := w.mustAsk(t, tenant, "b")
	actors := []*audit.Actor{
		{Kind: audit.KindOperator, ID: uuid.NewString(), Name: "ada@ouvira.example"},
		{Kind: audit.KindOperator, ID: uuid.NewString(), Name: "grace@ouvira.example"},
	}
	errs := make([]error, len(actors))
	var racing sync.WaitGroup
	for i, actor := range actors {
		racing.Go(func() { errs[i] = w.runner.Cancel(t.Context(), actor, op) })
	}
	racing.Wait()
	winner, loser := 0, 1
	if errs[0] != nil {
		winner, loser = 1, 0
	}
	if errs[winner] != nil || !fault.Is(errs[loser], fault.KindConflict) || !strings.Contains(errs[loser].Error(), actors[winner].Name) {
		t.Fatalf("%v", errs)
	}
	w.finish(t, w.runner, op, operation.Cancelled)
	w.unmoved(t, tenant)
	err := w.runner.Cancel(t.Context(), actors[0], uuid.New())
	if !fault.Is(err, fault.KindNotFound) {
		t.Errorf("one that there is not: %v", err)
	}
}

// A drain that is cancelled asks for no more moves; those under way come to their end.
func TestADrainIsCancelled(t *testing.T) {
	t.Parallel()
	w := shared(t, testdb.System)
	for _, slug := range []string{"acme", "globex", "initech"} {
		w.tenant(t, slug)
	}
	drain, err := w.move.Drain(t.Context(), operatorActor, "a")
	if err != nil {
		t.Fatal(err)
	}
	w.run(t, drain)
	if err := w.runner.Cancel(t.Context(), operatorActor, drain); err != nil {
		t.Fatal(err)
	}
	if o := w.run(t, drain); o.Status != operation.Cancelled {
		t.Fatalf("%s %+v", o.Status, o.Error)
	}
	moving := w.unfinished(t)
	if len(moving) != 2 {
		t.Fatalf("%d moves are under way", len(moving))
	}
	for _, op := range moving {
		w.mustRun(t, op)
	}
	if s, err := w.Servers.Find(t.Context(), "a"); err != nil || s.Status != "draining" || s.Tenants != 1 {
		t.Errorf("%+v %v", s, err)
	}
}
