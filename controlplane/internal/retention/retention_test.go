package retention_test

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/controltest"
	"github.com/ouvira/ouvira/controlplane/internal/retention"
	"github.com/ouvira/ouvira/shared/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

// Every table has a bound, which the documentation tells: a new one is not forgotten.
func TestEveryTableHasABound(t *testing.T) {
	t.Parallel()
	db := controltest.New(t).Pool
	rows, err := db.Query(t.Context(), "SELECT tablename::text FROM pg_tables WHERE schemaname = 'control' ORDER BY 1")
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	known := retention.Tables()
	for _, table := range tables {
		if known[table] == "" {
			t.Errorf("nothing bounds control.%s: have it forgotten, or say in retention.Tables why it does not grow for ever", table)
		}
		delete(known, table)
	}
	for _, table := range slices.Sorted(maps.Keys(known)) {
		t.Errorf("there is no table control.%s", table)
	}
	for _, kept := range []string{"`events`", "`operations`", "`signups`", "`backups`", "`audit_log`", "`payments`", "`webhook_deliveries`", "`usage_hours`"} {
		if !strings.Contains(string(page), kept) {
			t.Errorf("docs/operations.md does not say how long %s are kept", kept)
		}
	}
}

// What is old goes, and nothing that is recent, unfinished or referred to.
func TestSweep(t *testing.T) {
	t.Parallel()
	db := controltest.New(t).Pool
	exec := func(sql string) {
		t.Helper()
		if _, err := db.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	const tenant = "01900000-0000-7000-8000-000000000001"
	exec(`INSERT INTO control.tenants (id, slug, name, status, plan_id) SELECT '` + tenant + `', 'acme', 'Acme', 'active', id FROM control.plans`)
	exec(`INSERT INTO control.signups (id, company_name, slug, full_name, email, status, tenant_id, expires_at, updated_at) VALUES
		(gen_random_uuid(), 'old', 'old', 'A', 'a@a.example', 'expired', NULL, now(), now() - interval '91 days'),
		(gen_random_uuid(), 'kept', 'recent', 'A', 'a@a.example', 'expired', NULL, now(), now() - interval '89 days'),
		(gen_random_uuid(), 'kept', 'customer', 'A', 'a@a.example', 'active', '` + tenant + `', now(), now() - interval '900 days')`)
	exec(`INSERT INTO control.events (id, type, payload, created_at) VALUES
		('01900000-0000-7000-8000-0000000000e1', 'old', '{}', now() - interval '91 days'),
		('01900000-0000-7000-8000-0000000000e2', 'kept', '{}', now() - interval '91 days'),
		('01900000-0000-7000-8000-0000000000e3', 'kept', '{}', now() - interval '89 days')`)
	exec(`INSERT INTO control.webhook_endpoints (id, url, events, secret) VALUES ('01900000-0000-7000-8000-0000000000aa', 'https://hooks.example.com', '{tenant.created}', '')`)
	exec(`INSERT INTO control.webhook_deliveries (id, endpoint_id, event_id) VALUES (gen_random_uuid(), '01900000-0000-7000-8000-0000000000aa', '01900000-0000-7000-8000-0000000000e2')`)
	exec(`INSERT INTO control.operations (id, kind, tenant_id, params, created_by, status, finished_at) VALUES
		('01900000-0000-7000-8000-000000000011', 'kept first', '` + tenant + `', '{}', 'x', 'succeeded', now() - interval '900 days'),
		('01900000-0000-7000-8000-000000000012', 'old', '` + tenant + `', '{}', 'x', 'failed', now() - interval '91 days'),
		('01900000-0000-7000-8000-000000000013', 'kept backup', '` + tenant + `', '{}', 'x', 'succeeded', now() - interval '91 days'),
		('01900000-0000-7000-8000-000000000014', 'old backup', '` + tenant + `', '{}', 'x', 'succeeded', now() - interval '91 days'),
		('01900000-0000-7000-8000-000000000015', 'kept recent', '` + tenant + `', '{}', 'x', 'succeeded', now() - interval '89 days'),
		('01900000-0000-7000-8000-000000000016', 'kept running', '` + tenant + `', '{}', 'x', 'running', NULL),
		('01900000-0000-7000-8000-000000000017', 'old of none', NULL, '{}', 'x', 'cancelled', now() - interval '91 days')`)
	exec(`INSERT INTO control.operation_steps (operation_id, position, name) VALUES ('01900000-0000-7000-8000-000000000012', 1, 'x')`)
	exec(`INSERT INTO control.backups (id, tenant_id, operation_id, reason, object, incarnation, status, finished_at) VALUES
		(gen_random_uuid(), '` + tenant + `', '01900000-0000-7000-8000-000000000013', 'manual', 'kept', 1, 'failed', now() - interval '89 days'),
		(gen_random_uuid(), '` + tenant + `', '01900000-0000-7000-8000-000000000014', 'manual', 'old', 1, 'failed', now() - interval '91 days')`)
	for range 2 { // again changes nothing
		if err := retention.Sweep(t.Context(), db); err != nil {
			t.Fatal(err)
		}
	}
	for _, left := range []struct {
		names string
		want  int
	}{
		{"company_name FROM control.signups", 2}, {"type FROM control.events", 2}, {"kind FROM control.operations", 4}, {"object FROM control.backups", 1},
	} {
		rows, err := db.Query(t.Context(), "SELECT "+left.names)
		if err != nil {
			t.Fatal(err)
		}
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		if len(names) != left.want || slices.ContainsFunc(names, func(name string) bool { return !strings.HasPrefix(name, "kept") }) {
			t.Errorf("%s: %q", left.names, names)
		}
	}
}
