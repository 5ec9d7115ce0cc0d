package server_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/testdb"
)

// A server is forgotten when nothing is left on it; of one that is offline, what nobody
// needs is forgotten with it, and never a tenant.
func TestAServerIsRemovedWhenNothingIsLeft(t *testing.T) {
	t.Parallel()
	s, control := newService(t, server.Options{})
	a, err := s.Add(t.Context(), spec("a", testdb.Server(t, testdb.Versions[0]).URL()), nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Add(t.Context(), spec("b", testdb.Server(t, testdb.Versions[1]).URL()), nil)
	if err != nil {
		t.Fatal(err)
	}
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := control.Pool.Exec(t.Context(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(code, why string) {
		t.Helper()
		err := s.Remove(t.Context(), a.ID, nil)
		if refusal := fault.From(err); !fault.Is(err, fault.KindConflict) || refusal.EffectiveCode() != code || !strings.Contains(refusal.Error(), why) {
			t.Errorf("it is refused with %v, want %s: %s", err, code, why)
		}
	}
	status := func(to string) {
		t.Helper()
		if _, err := s.SetStatus(t.Context(), a.ID, to, nil); err != nil {
			t.Fatal(err)
		}
	}
	refused("server_active", "server drain a")

	status("draining")
	tenant, operation := uuid.New(), uuid.New()
	exec(`INSERT INTO control.tenants (id, slug, name, status, plan_id, server_id, database_name, incarnation)
	      SELECT $1, 'acme', 'Acme', 'active', id, $2, 'ov_acme', 2 FROM control.plans WHERE code = 'standard'`, tenant, a.ID)
	refused("server_in_use", "tenants: 1 ")
	exec("INSERT INTO control.operations (id, kind, tenant_id, created_by, status) VALUES ($1, 'tenant.move', $2, 'x', 'running')", operation, tenant)
	exec(`INSERT INTO control.moves (operation_id, tenant_id, source_id, target_id, source_incarnation, target_incarnation)
	      VALUES ($1, $2, $3, $4, 1, 2)`, operation, tenant, a.ID, b.ID)
	exec("UPDATE control.tenants SET server_id = $1", b.ID)
	refused("server_in_use", "moves under way: 1")
	exec("UPDATE control.moves SET switched_at = now(), drop_at = now() + interval '1 day'")
	exec(`INSERT INTO control.warm_databases (id, server_id, plan_id, database_name, fingerprint, schema_version, max_connections, status)
	      SELECT gen_random_uuid(), $1, id, 'ov_ready', 'f', 1, 5, 'ready' FROM control.plans WHERE code = 'standard'`, a.ID)
	refused("server_in_use", "databases that tenants have left: 1 (kept for 24 hours); databases ready in the warm pool: 1")

	status("offline")
	forgotten := 0
	err = s.Remove(t.Context(), a.ID, func(_ pgx.Tx, removed server.Server, left int) error {
		if removed.Name != "a" {
			t.Errorf("%+v", removed)
		}
		forgotten = left
		return nil
	})
	if err != nil || forgotten != 2 {
		t.Errorf("removed with %d databases: %v", forgotten, err)
	}
	if err := s.Remove(t.Context(), a.ID, nil); !fault.Is(err, fault.KindNotFound) {
		t.Errorf("again: %v", err)
	}
	left, err := s.List(t.Context())
	if err != nil || len(left) != 1 || left[0].ID != b.ID || left[0].Tenants != 1 {
		t.Errorf("left: %+v, %v", left, err)
	}
}
