package backup_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/backup"
	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
)

// spied runs one kind of operations under a spy.
func (w *world) spied(kind string, s *fleettest.Spy) *operation.Runner {
	s.Handler = w.handlers[kind]
	return w.Runner(map[string]operation.Handler{kind: s})
}

// work is one operation of a kind, and what must be true at its end.
type work struct {
	op    uuid.UUID
	check func(t *testing.T)
}

// kinds begin an operation each, on a tenant of its own.
func (w *world) kinds() map[string]func(t *testing.T, slug string) work {
	return map[string]func(t *testing.T, slug string) work{
		backup.KindTake: func(t *testing.T, slug string) work {
			t.Helper()
			id := w.tenant(t, slug)
			op, err := w.backups.Start(t.Context(), operator(), id, backup.KindTake)
			if err != nil {
				t.Fatal(err)
			}
			return work{op, func(t *testing.T) {
				t.Helper()
				fleettest.Counts(t, w.Pool, "control.backups WHERE status = 'complete' AND operation_id = '"+op.String()+"'", 1)
				// What counts is there, and of other attempts nothing is.
				object := fleettest.One[string](t, w.Pool, "SELECT object FROM control.backups WHERE operation_id = $1", op)
				for _, name := range w.stored(t) {
					if strings.Contains(name, id.String()) && strings.TrimSuffix(name, ".json") != object {
						t.Errorf("left behind: %s", name)
					}
				}
			}}
		},
		backup.KindCopy: func(t *testing.T, slug string) work {
			t.Helper()
			id := w.tenant(t, slug)
			copied, op, err := w.backups.RestoreAs(t.Context(), operator(), id, w.take(t, id), slug+"-copy")
			if err != nil {
				t.Fatal(err)
			}
			return work{op, func(t *testing.T) { t.Helper(); w.checkCopy(t, copied.ID, id) }}
		},
		backup.KindClone: func(t *testing.T, slug string) work {
			t.Helper()
			id := w.tenant(t, slug)
			copied, op, err := w.backups.Clone(t.Context(), operator(), id, slug+"-clone", false)
			if err != nil {
				t.Fatal(err)
			}
			return work{op, func(t *testing.T) { t.Helper(); w.checkCopy(t, copied.ID, id) }}
		},
		backup.KindRestore: func(t *testing.T, slug string) work {
			t.Helper()
			id := w.tenant(t, slug)
			before := w.made(t, id)
			op, err := w.backups.Restore(t.Context(), operator(), id, w.take(t, id))
			if err != nil {
				t.Fatal(err)
			}
			return work{op, func(t *testing.T) { t.Helper(); w.checkReplaced(t, id, before) }}
		},
	}
}

func steps(t *testing.T, w *world, op uuid.UUID) []string {
	t.Helper()
	var names []string
	for _, s := range w.Get(t, op).Steps {
		names = append(names, s.Name)
	}
	return names
}

func TestEachStepTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for kind, begin := range w.kinds() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			is := begin(t, "twice-"+strings.ReplaceAll(kind[7:], "_", "-"))
			if err := w.spied(kind, &fleettest.Spy{Twice: true}).Run(t.Context(), is.op); err != nil {
				t.Fatal(err)
			}
			w.mustRun(t, is.op)
			is.check(t)
		})
	}
}

// A run dies after each step in turn, as by kill -9: nothing recorded, nothing given
// back. The next one goes on.
func TestDiesAfterEachStep(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for kind, begin := range w.kinds() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			is := begin(t, "dies-"+strings.ReplaceAll(kind[7:], "_", "-"))
			seen := map[string]bool{}
			dying := w.spied(kind, &fleettest.Spy{After: func(_ context.Context, name string) error {
				if seen[name] {
					return nil
				}
				seen[name] = true
				return operation.ErrFenced
			}})
			for range steps(t, w, is.op) {
				if err := dying.Run(t.Context(), is.op); err != nil {
					t.Fatal(err)
				}
				if o := w.Get(t, is.op); o.Status != operation.Running {
					t.Fatalf("the dead run left the operation %s: %+v", o.Status, o.Error)
				}
				w.Bury(t, is.op)
			}
			w.mustRun(t, is.op)
			is.check(t)
		})
	}
}

// What was decided to fail, at each step, leaves the tenant as it was, and of a new one
// nothing.
func TestFailsAtEachStep(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, kind := range []string{backup.KindClone, backup.KindRestore} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			id := w.tenant(t, "fails-"+strings.ReplaceAll(kind[7:], "_", "-"))
			before := w.made(t, id)
			id2 := w.take(t, id)
			begin := func(n int) uuid.UUID {
				if kind == backup.KindRestore {
					op, err := w.backups.Restore(t.Context(), operator(), id, id2)
					if err != nil {
						t.Fatal(err)
					}
					return op
				}
				_, op, err := w.backups.Clone(t.Context(), operator(), id, fmt.Sprintf("fails-clone-%d", n), false)
				if err != nil {
					t.Fatal(err)
				}
				return op
			}
			op := begin(0)
			names := steps(t, w, op)
			for n, at := range names {
				if n > 0 {
					op = begin(n)
				}
				d := tenantdb.Database{Tenant: id, Incarnation: 2}
				if kind == backup.KindClone {
					d = tenantdb.Database{Tenant: *w.Get(t, op).TenantID, Incarnation: 1}
				}
				failing := w.spied(kind, &fleettest.Spy{After: func(_ context.Context, name string) error {
					if name == at && name != names[len(names)-1] {
						return operation.Fail("unlucky", "It had no luck.", "Try again.")
					}
					return nil
				}, Before: func(_ context.Context, name string) error {
					if name == at && name == names[len(names)-1] {
						return operation.Fail("unlucky", "It had no luck.", "Try again.")
					}
					return nil
				}})
				if err := failing.Run(t.Context(), op); err != nil {
					t.Fatal(err)
				}
				if o := w.Get(t, op); o.Status != operation.Failed || o.Error.Code != "unlucky" {
					t.Fatalf("%s: the operation is %s: %+v", at, o.Status, o.Error)
				}
				w.nothingOf(t, d)
				after := w.made(t, id)
				after.Credential, before.Credential = nil, nil
				if fmt.Sprint(after) != fmt.Sprint(before) && (after.Mode != before.Mode || after.Incarnation != 1 || after.Status != "active") {
					t.Errorf("%s: the tenant is %+v", at, after)
				}
				conn := w.loggedIn(t, id)
				if _, err := conn.Exec(t.Context(), "INSERT INTO public.companies (name) VALUES ('X')"); err != nil {
					t.Errorf("%s: the tenant cannot work: %v", at, err)
				}
			}
		})
	}
}

// A run that was overtaken while it slept before a step changes nothing.
func TestAStalledRunChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for kind, at := range map[string][]string{
		backup.KindTake: {backup.StepDump}, backup.KindRestore: {backup.StepLoad, backup.StepFence, backup.StepFlip}, backup.KindCopy: {backup.StepLoad, backup.StepActivate},
	} {
		begin := w.kinds()[kind]
		for _, step := range at {
			t.Run(kind+"/"+step, func(t *testing.T) {
				t.Parallel()
				is := begin(t, "stall-"+strings.ReplaceAll(kind[7:], "_", "-")+"-"+step)
				asleep, wake := make(chan struct{}), make(chan struct{})
				stalled := w.spied(kind, &fleettest.Spy{Before: func(_ context.Context, name string) error {
					if name == step {
						close(asleep)
						<-wake
					}
					return nil
				}})
				ended := make(chan error, 1)
				go func() { ended <- stalled.Run(context.Background(), is.op) }()
				<-asleep
				w.Bury(t, is.op)
				w.mustRun(t, is.op)
				is.check(t)
				close(wake)
				if err := <-ended; err != nil {
					t.Fatal(err)
				}
				is.check(t)
			})
		}
	}
}

// Another control key does not open what this one has sealed.
func TestAnotherKey(t *testing.T) {
	t.Parallel()
	w, other := newWorld(t), newWorld(t)
	acme, globex := w.tenant(t, "acme"), other.tenant(t, "globex")
	mine, theirs := w.take(t, acme), other.take(t, globex)
	content, err := os.ReadFile(w.archive(t, mine))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other.archive(t, theirs), content, 0o600); err != nil {
		t.Fatal(err)
	}
	// The other plane believes that it is its own.
	sum := fleettest.One[string](t, w.Pool, "SELECT encode(sha256, 'hex') FROM control.backups WHERE id = $1", mine)
	_, err = other.Pool.Exec(t.Context(), `UPDATE control.backups SET sha256 = decode($2, 'hex'), manifest = jsonb_set(manifest, '{sha256}', to_jsonb($2::text)) WHERE id = $1`, theirs, sum)
	if err != nil {
		t.Fatal(err)
	}
	manifest := fleettest.One[string](t, other.Pool, "SELECT manifest::text FROM control.backups WHERE id = $1", theirs)
	if err := os.WriteFile(other.archive(t, theirs)+".json", []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	op, err := other.backups.Restore(t.Context(), operator(), globex, theirs)
	if err != nil {
		t.Fatal(err)
	}
	other.refused(t, op, "another key", "backup_wrong_key")
}
