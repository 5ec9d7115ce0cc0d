package reconcile_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/ouvira/ouvira/controlplane/internal/reconcile"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/testdb"
)

// Workers look into all databases, a few in a turn: soon after one was started or a
// database is a new one, and then once a day. What is foreign there is told of once, and
// counted as long as it is there.
func TestSec50WorkersLookIntoAllDatabases(t *testing.T) {
	t.Parallel()
	f := newFleet(t, testdb.System)
	c := f.tenant(t, "initech")
	turn := func() {
		t.Helper()
		if err := f.reconcile.Scan(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	looked := func() (n int) {
		t.Helper()
		return one[int](t, f, "SELECT count(*) FROM control.database_looks WHERE looked_at IS NOT NULL AND due_at > now() + interval '23 hours'")
	}
	evil := tenantdb.Name(c, 1)
	f.exec(t, evil, "CREATE FOREIGN DATA WRAPPER evil")
	turn()
	if n := looked(); n != reconcile.ScanAtOnce {
		t.Errorf("%d databases were looked into in a turn, want %d", n, reconcile.ScanAtOnce)
	}
	turn()
	turn()
	if n := looked(); n != 3 {
		t.Fatalf("%d databases were looked into, want all three", n)
	}
	told := func() []string {
		t.Helper()
		return one[[]string](t, f, "SELECT COALESCE(array_agg(payload ->> 'found' ORDER BY id), '{}') FROM control.events WHERE type = 'tenant.foreign_code' AND tenant_id = '"+c.String()+"'")
	}
	first := `["foreign data wrapper evil"]`
	if got := told(); !slices.Equal(got, []string{first}) {
		t.Errorf("told: %q", got)
	}
	counted := func() int {
		t.Helper()
		s, err := f.reconcile.Scanned(t.Context())
		if err != nil || s.Overdue != 0 {
			t.Errorf("%+v %v", s, err)
		}
		return s.Foreign
	}
	if n := counted(); n != 1 {
		t.Errorf("%d databases with foreign code are counted", n)
	}
	// What is sealed there, and to which key, is seen too.
	if keys := one[[]int64](t, f, "SELECT signing_keys FROM control.database_looks WHERE tenant_id = '"+c.String()+"'"); !slices.Equal(keys, []int64{int64(f.keys.Public.Ring().Primary)}) {
		t.Errorf("the signing key is sealed to %v", keys)
	}

	// Not before it is due; again for a worker that is started later; and only what is new
	// is told.
	f.exec(t, evil, "CREATE LANGUAGE evil HANDLER plpgsql_call_handler")
	again := func() {
		t.Helper()
		if err := f.reconcile.Rescan(t.Context()); err != nil {
			t.Fatal(err)
		}
		turn()
		turn()
	}
	again()
	if got := told(); len(got) != 1 {
		t.Errorf("it was looked at within the hour: %q", got)
	}
	f.sql(t, "UPDATE control.database_looks SET looked_at = now() - interval '2 hours'")
	again()
	if got := told(); !slices.Equal(got, []string{first, `["language evil"]`}) {
		t.Errorf("told: %q", got)
	}
	f.exec(t, evil, "DROP LANGUAGE evil; DROP FOREIGN DATA WRAPPER evil")
	f.sql(t, "UPDATE control.database_looks SET looked_at = now() - interval '2 hours'")
	again()
	if n := counted(); n != 0 {
		t.Errorf("%d databases with foreign code are counted, and there is none", n)
	}

	// The database of another incarnation is due at once; one that cannot be looked into
	// keeps nobody waiting, and is tried again.
	f.sql(t, "UPDATE control.tenants SET incarnation = 2 WHERE id = '"+c.String()+"'")
	if err := f.reconcile.Scan(t.Context()); err == nil || !strings.Contains(err.Error(), tenantdb.Name(c, 2)) {
		t.Errorf("a database that is not there: %v", err)
	}
	if due := one[bool](t, f, "SELECT looked_at IS NULL AND due_at BETWEEN now() AND now() + interval '5 minutes' FROM control.database_looks WHERE tenant_id = '"+c.String()+"'"); !due {
		t.Error("it is not tried again")
	}
	turn()
}

func (f *fleet) sql(t *testing.T, sql string) {
	t.Helper()
	if _, err := f.control.Pool.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func one[T any](t *testing.T, f *fleet, sql string) T {
	t.Helper()
	var v T
	if err := f.control.Pool.QueryRow(t.Context(), sql).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}
