package reconcile_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/testdb"
)

var keeper = &audit.Actor{Kind: audit.KindOperator, ID: "1", Name: "keeper@ouvira.example"}

// repair has done what can be done, and tells how many operations that took.
func (f *fleet) repair(t *testing.T) int {
	t.Helper()
	ids, err := f.repairer.Repair(t.Context(), keeper, f.look(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if err := f.runner.Run(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if o, err := f.store.Get(t.Context(), id); err != nil || o.Status != operation.Succeeded {
			t.Fatalf("%+v, %v", o, err)
		}
	}
	return len(ids)
}

func (f *fleet) record(t *testing.T, sql string, id uuid.UUID) {
	t.Helper()
	if _, err := f.control.Pool.Exec(t.Context(), sql, id); err != nil {
		t.Fatal(err)
	}
}

// signs are the keys that nodes are told of.
func (f *fleet) signs(t *testing.T, id uuid.UUID) []string {
	t.Helper()
	return one[[]string](t, f, "SELECT array_agg(k ->> 'kid') FROM control.routes r JOIN control.tenants t ON t.id = r.tenant_id, jsonb_array_elements(t.signing_keys) k WHERE t.id = '"+id.String()+"'")
}

func TestWhatIsProvablyOursIsMended(t *testing.T) {
	t.Parallel()
	for _, version := range testdb.Versions {
		t.Run("postgres="+version, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, version)
			a, b := tenantdb.Name(f.a, 1), tenantdb.Name(f.b, 1)
			for _, spoil := range []string{
				"ALTER ROLE " + a + " NOLOGIN",
				"ALTER ROLE " + a + " CONNECTION LIMIT 77",
				"ALTER ROLE " + a + " RESET temp_file_limit",
				"SET ROLE ouvira_owner; REVOKE CONNECT ON DATABASE " + a + " FROM " + a,
				"GRANT TEMPORARY ON DATABASE " + a + " TO PUBLIC",
				"ALTER DATABASE " + a + " ALLOW_CONNECTIONS false",
			} {
				f.exec(t, "postgres", spoil)
				if n := f.repair(t); n != 1 {
					t.Errorf("%s: %d tenants are mended", spoil, n)
				}
				if report := f.look(t); len(report.Findings) != 0 {
					t.Errorf("%s: %+v", spoil, report.Findings)
				}
			}
			// A signing key that is gone is replaced by another one, with which nodes sign.
			for _, spoil := range []string{"DELETE FROM ouvira.signing_keys", "UPDATE ouvira.signing_keys SET private_sealed = ''"} {
				before := f.signs(t, f.a)
				f.exec(t, a, spoil)
				if n := f.repair(t); n != 1 {
					t.Errorf("%s: %d tenants are mended", spoil, n)
				}
				if report := f.look(t); len(report.Findings) != 0 {
					t.Errorf("%s: %+v", spoil, report.Findings)
				}
				if after := f.signs(t, f.a); len(after) != 1 || after[0] == before[0] {
					t.Errorf("%s: the keys %v are now %v", spoil, before, after)
				}
			}
			// All at once, of both tenants; and what the control database says of a version.
			for _, name := range []string{a, b} {
				f.exec(t, "postgres", "ALTER ROLE "+name+" NOLOGIN CONNECTION LIMIT 3")
				f.exec(t, "postgres", "ALTER DATABASE "+name+" ALLOW_CONNECTIONS false")
			}
			f.record(t, "UPDATE control.tenants SET schema_version = schema_version - 1 WHERE id = $1", f.a)
			if n := f.repair(t); n != 2 {
				t.Errorf("%d tenants are mended", n)
			}
			if report := f.look(t); len(report.Findings) != 0 {
				t.Errorf("%+v", report.Findings)
			}
			if n := f.repair(t); n != 0 {
				t.Errorf("%d operations for a sound fleet", n)
			}
		})
	}
}

// What a purged tenant has left goes; what bears a foreign mark, or belongs to a
// tenant at which somebody works, stays.
func TestWhatIsNotOursIsLeftAlone(t *testing.T) {
	t.Parallel()
	f := newFleet(t, testdb.System)
	a, b := tenantdb.Name(f.a, 1), tenantdb.Name(f.b, 1)
	f.exec(t, "postgres", "CREATE DATABASE ov_00000000000000000000")
	f.exec(t, "postgres", "CREATE ROLE ov_00000000000000000000")
	f.exec(t, "postgres", "COMMENT ON DATABASE "+b+" IS 'somebody else''s'")
	for _, id := range []uuid.UUID{f.a, f.b} {
		f.record(t, "UPDATE control.tenants SET status = 'purged', server_id = NULL, database_name = NULL WHERE id = $1", id)
	}
	f.repair(t)
	left := func(sql, name string) (n int) {
		t.Helper()
		if err := f.admin.QueryRow(t.Context(), sql, name).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	const databases, roles = "SELECT count(*) FROM pg_database WHERE datname = $1", "SELECT count(*) FROM pg_roles WHERE rolname = $1"
	if left(databases, a) != 0 || left(roles, a) != 0 {
		t.Error("what a purged tenant has left is still there")
	}
	for _, name := range []string{b, "ov_00000000000000000000"} {
		if left(databases, name) != 1 || left(roles, name) != 1 {
			t.Errorf("%s is gone, and was not ours", name)
		}
	}
}

func TestNobodyIsRepairedWhileWorkedAt(t *testing.T) {
	t.Parallel()
	f := newFleet(t, testdb.System)
	f.exec(t, "postgres", "ALTER ROLE "+tenantdb.Name(f.a, 1)+" NOLOGIN")
	f.record(t, `
		INSERT INTO control.operations (id, kind, tenant_id, created_by, exclusive) VALUES (gen_random_uuid(), 'tenant.move', $1, 'test', true)`, f.a)
	if n := f.repair(t); n != 0 {
		t.Errorf("%d tenants are mended while somebody moves them", n)
	}
}

// What a fence takes away follows the tenant's status, also when that changes while the
// repair is under way: a tenant that is being suspended is never let in again.
func TestFencesFollowTheStatus(t *testing.T) {
	t.Parallel()
	f := newFleet(t, testdb.System)
	a := tenantdb.Name(f.a, 1)
	const fence, open = "REVOKE ouvira_app FROM %[1]s; ALTER ROLE %[1]s NOLOGIN CONNECTION LIMIT 0", "GRANT ouvira_app TO %[1]s; ALTER ROLE %[1]s LOGIN CONNECTION LIMIT 10"
	role := func() (fenced bool) {
		t.Helper()
		err := f.admin.QueryRow(t.Context(), `
			SELECT NOT rolcanlogin AND rolconnlimit = 0 AND NOT pg_has_role(rolname, 'ouvira_app', 'usage') FROM pg_roles WHERE rolname = $1`, a).Scan(&fenced)
		if err != nil {
			t.Fatal(err)
		}
		return fenced
	}
	for _, c := range []struct {
		status, spoil string
		fenced        bool
	}{{"active", fence, false}, {"suspended", open, true}, {"deleted", open, true}} {
		f.record(t, "UPDATE control.tenants SET status = '"+c.status+"' WHERE id = $1", f.a)
		f.exec(t, "postgres", fmt.Sprintf(c.spoil, a))
		if n := f.repair(t); n != 1 || role() != c.fenced {
			t.Errorf("%s: %d tenants are mended, fenced is %v", c.status, n, role())
		}
		if report := f.look(t); len(report.Findings) != 0 {
			t.Errorf("%s: %+v", c.status, report.Findings)
		}
	}
	// Found while it was active; suspended before the repair comes to it.
	f.record(t, "UPDATE control.tenants SET status = 'active' WHERE id = $1", f.a)
	f.exec(t, "postgres", fmt.Sprintf(fence, a))
	ids, err := f.repairer.Repair(t.Context(), keeper, f.look(t))
	if err != nil || len(ids) != 1 {
		t.Fatal(ids, err)
	}
	suspending, err := f.control.Pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = suspending.Rollback(context.Background()) }()
	if _, err := suspending.Exec(t.Context(), "UPDATE control.tenants SET status = 'suspended' WHERE id = $1", f.a); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- f.runner.Run(context.Background(), ids[0]) }()
	waiting := "SELECT count(*) FROM pg_locks WHERE NOT granted AND $1::int = ANY (pg_blocking_pids(pid))"
	for n, deadline := 0, time.Now().Add(20*time.Second); n == 0; {
		if time.Now().After(deadline) {
			t.Fatal("the repair does not wait for the suspension")
		}
		if err := f.control.Pool.QueryRow(t.Context(), waiting, suspending.Conn().PgConn().PID()).Scan(&n); err != nil {
			t.Fatal(err)
		}
	}
	if err := suspending.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if !role() {
		t.Error("a repair has let the role of a suspended tenant in")
	}
}
