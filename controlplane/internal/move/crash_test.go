package move_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/move"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/shared/testdb"
)

func (w *world) spied(s *fleettest.Spy) *operation.Runner {
	s.Handler = w.move
	return w.Runner(map[string]operation.Handler{move.Kind: s})
}

func TestEachStepTwice(t *testing.T) {
	t.Parallel()
	w := shared(t, testdb.System)
	tenant := w.tenant(t, "acme")
	w.fill(t, tenant, 30)
	op := w.mustAsk(t, tenant, "b")
	w.finish(t, w.spied(&fleettest.Spy{Twice: true}), op, operation.Succeeded)
	w.moved(t, tenant, 2)
}

// A run dies after the work of every step and before it is recorded; each time the
// next one goes on from there, while the tenant is written to.
func TestRel03AMoveThatDiesInEveryRun(t *testing.T) {
	t.Parallel()
	fleettest.OnBoth(t, func(t *testing.T, version string) {
		w := shared(t, version)
		tenant := w.tenant(t, "acme")
		w.fill(t, tenant, 50)
		journal := w.write(t, tenant)
		op := w.mustAsk(t, tenant, "b")
		seen := map[string]bool{}
		dying := w.spied(&fleettest.Spy{After: func(_ context.Context, name string) error {
			if seen[name] {
				return nil
			}
			seen[name] = true
			return operation.ErrFenced
		}})
		for range move.Steps() {
			if err := dying.Run(t.Context(), op); err != nil {
				t.Fatal(err)
			}
			journal.more(t, 5)
			w.Bury(t, op)
		}
		w.mustRun(t, op)
		journal.more(t, 5)
		journal.stop()
		w.moved(t, tenant, 2)
		w.allThere(t, tenant, journal)
	})
}

// Before the switch a move may be given up after any step, and leaves nothing.
func TestRel03AMoveIsGivenUpBeforeEveryStep(t *testing.T) {
	t.Parallel()
	fleettest.OnBoth(t, func(t *testing.T, version string) {
		w := shared(t, version)
		tenant := w.tenant(t, "acme")
		w.fill(t, tenant, 30)
		for _, step := range []string{move.StepTarget, move.StepSubscribe, move.StepCopy, move.StepVerify, move.StepSwitch} {
			op := w.mustAsk(t, tenant, "b")
			runner := w.spied(&fleettest.Spy{Before: func(_ context.Context, name string) error {
				if name == step {
					return operation.Fail("test", "It is given up.", "Nothing.")
				}
				return nil
			}})
			if o := w.finish(t, runner, op, operation.Failed); o.Error.Code != "test" {
				t.Fatalf("%s: %+v", step, o.Error)
			}
			w.unmoved(t, tenant)
		}
		// After the switch nothing is taken back.
		op := w.mustAsk(t, tenant, "b")
		runner := w.spied(&fleettest.Spy{Before: func(_ context.Context, name string) error {
			if name == move.StepSettle {
				return operation.Fail("test", "It is given up.", "Nothing.")
			}
			return nil
		}})
		w.finish(t, runner, op, operation.Failed)
		if p := w.placed(t, tenant); p.Server != "b" {
			t.Fatalf("%+v", p)
		}
		if _, err := testdb.Connect(t, w.Login(t, tenant)).Exec(t.Context(), "INSERT INTO companies (name) VALUES ('Moved')"); err != nil {
			t.Error(err)
		}
	})
}

// A run that sleeps before a step until another has finished changes nothing when
// it wakes up.
func TestAStalledRunChangesNothing(t *testing.T) {
	t.Parallel()
	w := shared(t, testdb.System)
	for i, step := range []string{move.StepSubscribe, move.StepSwitch, move.StepSettle} {
		tenant := w.tenant(t, fmt.Sprintf("globex-%d", i))
		op := w.mustAsk(t, tenant, "b")
		asleep, wake := make(chan struct{}), make(chan struct{})
		stalled := w.spied(&fleettest.Spy{Before: func(_ context.Context, name string) error {
			if name == step {
				close(asleep)
				<-wake
			}
			return nil
		}})
		ended := make(chan error, 1)
		go func() { ended <- stalled.Run(context.Background(), op) }()
		<-asleep
		w.Bury(t, op)
		w.mustRun(t, op)
		before := w.placed(t, tenant)
		close(wake)
		if err := <-ended; err != nil {
			t.Fatalf("%s: the stalled run: %v", step, err)
		}
		after := w.placed(t, tenant)
		if before.Published != after.Published || !slices.Equal(before.Credential, after.Credential) {
			t.Errorf("%s: the stalled run changed the route", step)
		}
		w.moved(t, tenant, 2)
	}
}

// The servers die and come back after each step; the operation waits with a reason,
// and the tenant is never lost.
func TestRel03ServersDieDuringAMove(t *testing.T) {
	t.Parallel()
	for _, victim := range []string{"a", "b"} {
		fleettest.OnBoth(t, func(t *testing.T, version string) {
			w := newWorld(t, fleettest.OwnServer(t, version, nil), fleettest.OwnServer(t, version, nil), move.Options{Budget: patient, Chunk: 20})
			tenant := w.tenant(t, "acme")
			w.fill(t, tenant, 50)
			op := w.mustAsk(t, tenant, "b")
			dies := map[string]*fleettest.Prepared{"a": w.a, "b": w.b}[victim]
			crashed := map[string]bool{}
			runner := w.spied(&fleettest.Spy{After: func(_ context.Context, step string) error {
				if crashed[step] || step == move.StepPreflight || step == move.StepSettle {
					return nil
				}
				crashed[step] = true
				return dies.StopImmediate()
			}})
			for tries := 0; ; tries++ {
				if err := runner.Run(t.Context(), op); err != nil {
					t.Fatal(err)
				}
				o := w.Get(t, op)
				if o.Status == operation.Succeeded {
					break
				}
				if o.Status != operation.Queued || o.Error == nil || tries > 40 {
					t.Fatalf("%s dies: after %d tries: %s %+v", victim, tries, o.Status, o.Error)
				}
				if err := dies.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if err := dies.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			// A source that was away at the end is cleared up later.
			if err := w.move.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n := left(t, w.a, tenant, 1); n != 2 {
				t.Errorf("%d things on the source, want the database that is kept and its role", n)
			}
			if p := w.placed(t, tenant); p.Server != "b" || p.Mode != "serve" {
				t.Fatalf("%+v", p)
			}
			if _, err := testdb.Connect(t, w.Login(t, tenant)).Exec(t.Context(), "INSERT INTO companies (name) VALUES ('Moved')"); err != nil {
				t.Error(err)
			}
		})
	}
}
