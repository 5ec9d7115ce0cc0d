package backup_test

import (
	"strings"
	"testing"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
)

// A copy and a restore in place want room for the database that they make: a copy waits
// for a server that has it, a restore ends before anything is made.
func TestCopiesWantStorage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.tenant(t, "acme")
	exec := func(sql string) {
		t.Helper()
		if _, err := w.Pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec("INSERT INTO control.usage_hours (tenant_id, hour, database_bytes, last_bytes) SELECT id, now(), 6 * 1048576, 6 * 1048576 FROM control.tenants")
	exec("UPDATE control.servers SET max_storage_mb = 10")
	before := w.made(t, id)
	_, op, err := w.backups.Clone(t.Context(), operator(), id, "acme-clone", false)
	if err != nil {
		t.Fatal(err)
	}
	if o := w.run(t, op); o.Status != operation.Queued || o.Error.Code != "no_capacity" || !strings.Contains(o.Error.Message, "6 MB") {
		t.Errorf("a clone: %s %+v", o.Status, o.Error)
	}
	restore, err := w.backups.Restore(t.Context(), operator(), id, w.take(t, id))
	if err != nil {
		t.Fatal(err)
	}
	if o := w.run(t, restore); o.Status != operation.Failed || o.Error.Code != "storage_full" || !strings.Contains(o.Error.Message, "no room for 6 MB more: it stores 6 MB of 10 MB") {
		t.Errorf("a restore in place: %s %+v", o.Status, o.Error)
	}
	if after := w.made(t, id); after.Incarnation != before.Incarnation {
		t.Errorf("%+v", after)
	}
	exec("UPDATE control.servers SET max_storage_mb = 100")
	w.mustRun(t, op)
}
