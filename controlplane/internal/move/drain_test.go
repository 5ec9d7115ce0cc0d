package move_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/move"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/reconcile"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/testdb"
)

// runAll runs the drain and what it has asked for, as workers would, until the
// drain has ended. A worker that dies in the middle loses nothing: each round claims
// everything anew.
func (w *world) runAll(t *testing.T, drain uuid.UUID) *operation.Operation {
	t.Helper()
	for deadline := time.Now().Add(4 * time.Minute); ; {
		o := w.run(t, drain)
		if o.Status.Finished() {
			return o
		}
		underway := fleettest.One[int](t, w.Pool, "SELECT count(*) FROM control.operations WHERE kind = $1 AND status IN ('queued', 'running')", move.Kind)
		if underway > 2 {
			t.Errorf("%d moves are under way at once", underway)
		}
		for _, m := range w.unfinished(t) {
			w.run(t, m)
		}
		if time.Now().After(deadline) {
			t.Fatalf("the drain does not end: %+v", o.Error)
		}
	}
}

func (w *world) unfinished(t *testing.T) []uuid.UUID {
	t.Helper()
	list, err := w.Store.List(t.Context(), operation.Filter{Kind: move.Kind})
	if err != nil {
		t.Fatal(err)
	}
	var ids []uuid.UUID
	for _, o := range list {
		if !o.Status.Finished() {
			ids = append(ids, o.ID)
		}
	}
	return ids
}

// A drain moves everybody off a server, a few at a time, and says who stays and why.
func TestDrain(t *testing.T) {
	t.Parallel()
	w := shared(t, testdb.System)
	first, second, stubborn := w.tenant(t, "acme"), w.tenant(t, "globex"), w.tenant(t, "initech")
	w.Exec(t, "UPDATE control.tenants SET status = 'suspended' WHERE id = $1", second)
	conn := inside(t, w.a, stubborn, 1)
	if _, err := conn.Exec(t.Context(), "CREATE TABLE public.loose (x int)"); err != nil {
		t.Fatal(err)
	}
	drain, err := w.move.Drain(t.Context(), operatorActor, "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.move.Drain(t.Context(), operatorActor, "a"); !fault.Is(err, fault.KindConflict) {
		t.Errorf("a second drain: %v", err)
	}
	o := w.runAll(t, drain)
	if o.Status != operation.Failed || o.Error.Code != "tenants_left" || !strings.Contains(o.Error.Message, "initech") || !strings.Contains(o.Error.Message, "primary key") {
		t.Fatalf("%s %+v", o.Status, o.Error)
	}
	for _, tenant := range []uuid.UUID{first, second} {
		if p := w.placed(t, tenant); p.Server != "b" {
			t.Errorf("%+v", p)
		}
	}
	// The moves' databases are no orphans.
	report, err := reconcile.NewService(w.Pool, w.Servers, w.Log).Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Findings {
		for _, tenant := range []uuid.UUID{first, second, stubborn} {
			if strings.HasPrefix(f.Code, "orphan") && strings.Contains(f.Message, tenant.String()) {
				t.Errorf("%+v", f)
			}
		}
	}

	// With the cause removed a second drain finishes.
	if _, err := conn.Exec(t.Context(), "DROP TABLE public.loose"); err != nil {
		t.Fatal(err)
	}
	again, err := w.move.Drain(t.Context(), operatorActor, "a")
	if err != nil {
		t.Fatal(err)
	}
	if o := w.runAll(t, again); o.Status != operation.Succeeded {
		t.Fatalf("%s %+v", o.Status, o.Error)
	}
	if p := w.placed(t, stubborn); p.Server != "b" {
		t.Errorf("%+v", p)
	}
	s, err := w.Servers.Find(t.Context(), "a")
	if err != nil || s.Status != "draining" || s.Tenants != 0 || s.Databases != 3 {
		t.Errorf("%+v %v", s, err)
	}
}

// Activating the server ends its drain; nobody is left half-way.
func TestADrainIsStopped(t *testing.T) {
	t.Parallel()
	w := shared(t, testdb.System)
	w.tenant(t, "acme")
	drain, err := w.move.Drain(t.Context(), operatorActor, "a")
	if err != nil {
		t.Fatal(err)
	}
	a, err := w.Servers.Find(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Servers.SetStatus(t.Context(), a.ID, "active", nil); err != nil {
		t.Fatal(err)
	}
	if o := w.run(t, drain); o.Status != operation.Failed || o.Error.Code != "drain_stopped" {
		t.Errorf("%s %+v", o.Status, o.Error)
	}
}
