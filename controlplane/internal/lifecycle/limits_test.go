package lifecycle_test

import (
	"testing"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/shared/testdb"
)

// A plan's connections reach the roles of its tenants on the server, raised and
// lowered, and those of tenants who change their plan; nobody else's, and no fence.
func TestRolesFollowTheirPlans(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testdb.System)
	acme, globex, initech := w.Tenant(t, "acme"), w.Tenant(t, "globex"), w.Tenant(t, "initech")
	server := testdb.Connect(t, fleettest.TenantServer(t, testdb.System).URL())
	limit := func(id uuid.UUID) int {
		t.Helper()
		return fleettest.One[int](t, server, "SELECT rolconnlimit FROM pg_roles WHERE rolname = $1",
			fleettest.One[string](t, w.Pool, "SELECT database_name FROM control.tenants WHERE id = $1", id))
	}
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := w.Pool.Exec(t.Context(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	follow := func(want ...int) {
		t.Helper()
		if err := w.life.Limits(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i, id := range []uuid.UUID{acme, globex, initech} {
			if got := limit(id); got != want[i] {
				t.Errorf("tenant %d has %d connections, want %d", i, got, want[i])
			}
		}
	}
	exec("INSERT INTO control.plans (id, code, name, max_connections, statement_timeout_ms) VALUES (gen_random_uuid(), 'large', 'Large', 10, 1000)")
	exec("UPDATE control.tenants SET plan_id = (SELECT id FROM control.plans WHERE code = 'large') WHERE id = $1", globex)
	w.suspend(t, initech)
	w.settle(t)
	exec("UPDATE control.plans SET max_connections = 17 WHERE code = 'standard'")
	follow(17, 10, 0)
	exec("UPDATE control.plans SET max_connections = 3 WHERE code = 'standard'")
	follow(3, 10, 0)
	exec("UPDATE control.tenants SET plan_id = (SELECT plan_id FROM control.tenants WHERE id = $2) WHERE id = $1", globex, acme)
	follow(3, 3, 0)
	w.fenced(t, initech, "suspended")
	if _, err := w.tenants.Resume(t.Context(), ada, initech); err != nil {
		t.Fatal(err)
	}
	follow(3, 3, 3)
	if _, err := testdb.Connect(t, w.Login(t, initech)).Exec(t.Context(), "SELECT count(*) FROM public.users"); err != nil {
		t.Errorf("the resumed tenant: %v", err)
	}

	// What an operation works on is left to its end, and seen to then.
	exec("INSERT INTO control.operations (id, kind, tenant_id, params, created_by, exclusive) VALUES (gen_random_uuid(), 'tenant.move', $1, '{}', 'worker:test', true)", acme)
	exec("UPDATE control.plans SET max_connections = 5 WHERE code = 'standard'")
	follow(3, 5, 5)
	exec("UPDATE control.operations SET status = 'succeeded' WHERE kind = 'tenant.move'")
	follow(5, 5, 5)
}
