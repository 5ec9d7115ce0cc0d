package backup_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/backup"
	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/shared/fault"
)

func TestBackupsAreTakenByThemselves(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme, globex := w.tenant(t, "acme"), w.tenant(t, "globex")
	schedule := func() {
		t.Helper()
		if err := w.backups.Schedule(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	asked := func(id uuid.UUID) int {
		t.Helper()
		return fleettest.One[int](t, w.Pool, "SELECT count(*) FROM control.operations WHERE kind = $1 AND tenant_id = $2", backup.KindTake, id)
	}
	schedule()
	if asked(acme)+asked(globex) != 0 {
		t.Error("new tenants are backed up at once, all together")
	}
	if at := fleettest.One[time.Time](t, w.Pool, "SELECT next_backup_at FROM control.tenants WHERE id = $1", acme); time.Until(at) < 0 || time.Until(at) > 24*time.Hour {
		t.Errorf("the first one is planned for %s", at)
	}
	w.Exec(t, "UPDATE control.tenants SET next_backup_at = now() WHERE id = $1", acme)
	schedule()
	schedule()
	if asked(acme) != 1 || asked(globex) != 0 {
		t.Errorf("%d and %d were asked for", asked(acme), asked(globex))
	}
	op := fleettest.One[uuid.UUID](t, w.Pool, "SELECT id FROM control.operations WHERE kind = $1", backup.KindTake)
	// Due again while that one is unfinished: it is put off, and nobody is disturbed.
	w.Exec(t, "UPDATE control.tenants SET next_backup_at = now() WHERE id = $1", acme)
	schedule()
	if at := fleettest.One[time.Time](t, w.Pool, "SELECT next_backup_at FROM control.tenants WHERE id = $1", acme); asked(acme) != 1 || time.Until(at) > time.Hour {
		t.Errorf("%d were asked for, the next is planned for %s", asked(acme), at)
	}
	w.mustRun(t, op)
	if reason := fleettest.One[string](t, w.Pool, "SELECT reason FROM control.backups WHERE operation_id = $1", op); reason != backup.ReasonSchedule {
		t.Errorf("its reason is %s", reason)
	}
	// A plan without backups has none.
	if err := w.backups.SetRule(t.Context(), operator(), backup.Rule{Plan: "standard", IntervalHours: 0, Keep: 3, KeepDays: 3}); err != nil {
		t.Fatal(err)
	}
	w.Exec(t, "UPDATE control.tenants SET next_backup_at = now()")
	schedule()
	if asked(acme) != 1 || asked(globex) != 0 {
		t.Errorf("%d and %d were asked for of a plan without", asked(acme), asked(globex))
	}
	err := w.backups.SetRule(t.Context(), operator(), backup.Rule{Plan: "standard", IntervalHours: -1, Keep: 0, KeepDays: 3})
	if !fault.Is(err, fault.KindInvalid) {
		t.Errorf("a rule that cannot be: %v", err)
	}
}

func TestBackupsAreKeptByTheRule(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.backups.SetRule(t.Context(), operator(), backup.Rule{Plan: "standard", IntervalHours: 24, Keep: 3, KeepDays: 10}); err != nil {
		t.Fatal(err)
	}
	acme, globex := w.tenant(t, "acme"), w.tenant(t, "globex")
	var of []uuid.UUID
	for range 5 {
		of = append(of, w.take(t, acme))
	}
	alone := w.take(t, globex)
	w.Exec(t, "UPDATE control.backups SET created_at = now() - interval '11 days' WHERE id IN ($1, $2)", of[3], alone)
	sweep := func() {
		t.Helper()
		if err := w.backups.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	status := func(id uuid.UUID) string {
		t.Helper()
		return fleettest.One[string](t, w.Pool, "SELECT status FROM control.backups WHERE id = $1", id)
	}
	expect := func(when string, want map[uuid.UUID]string) {
		t.Helper()
		for id, is := range want {
			if status(id) != is {
				t.Errorf("%s: %s is %s, want %s", when, id, status(id), is)
			}
			if _, err := os.Stat(filepath.Join(w.archive(t, id))); (err == nil) != (is == "complete") {
				t.Errorf("%s: the file of %s: %v", when, id, err)
			}
		}
	}
	// What an operation works with stays, and all of a deleted tenant.
	op, err := w.backups.Restore(t.Context(), operator(), acme, of[0])
	if err != nil {
		t.Fatal(err)
	}
	sweep()
	expect("by the rule", map[uuid.UUID]string{
		of[0]: "complete", of[1]: "removed", of[2]: "complete", of[3]: "removed", of[4]: "complete", alone: "complete",
	})
	w.mustRun(t, op)
	sweep()
	expect("after the restore", map[uuid.UUID]string{of[0]: "complete", of[2]: "complete", of[4]: "complete"})
	w.Exec(t, "UPDATE control.tenants SET status = 'deleted' WHERE id IN ($1, $2)", acme, globex)
	w.Exec(t, "UPDATE control.backups SET created_at = now() - interval '1 year' WHERE status = 'complete'")
	sweep()
	expect("deleted", map[uuid.UUID]string{of[0]: "complete", of[4]: "complete", alone: "complete"})
	w.Exec(t, "UPDATE control.tenants SET status = 'purged' WHERE id IN ($1, $2)", acme, globex)
	sweep()
	expect("purged", map[uuid.UUID]string{of[0]: "removed", of[2]: "removed", of[4]: "removed", alone: "removed"})
	if names := w.stored(t); len(names) != 0 {
		t.Errorf("left in the storage: %v", names)
	}
}

// What a killed run has left in the storage goes, once it cannot be under way any more.
func TestStraysAreRemoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	kept := w.archive(t, w.take(t, w.tenant(t, "acme")))
	folder := filepath.Dir(kept)
	old, young := filepath.Join(folder, "20200101T000000.000Z-0.dump.age"), filepath.Join(folder, "20990101T000000.000Z-0.dump.age")
	yesterday := time.Now().Add(-25 * time.Hour)
	for _, file := range []string{old, old + ".json", young} {
		if err := os.WriteFile(file, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{old, old + ".json", kept, kept + ".json"} {
		if err := os.Chtimes(file, yesterday, yesterday); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.backups.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]bool{old: false, old + ".json": false, young: true, kept: true, kept + ".json": true} {
		if _, err := os.Stat(file); (err == nil) != want {
			t.Errorf("%s: %v", filepath.Base(file), err)
		}
	}
}
