package main

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/seal"
	"github.com/ouvira/ouvira/shared/testdb"
)

// A node that is started with another key that seals tells which keys it has, and seals
// the secrets anew of those tenants of whom the control plane has seen that an earlier key
// did; it says when somebody is to look again. It goes into no other database.
func TestSec38ANodeTellsItsKeysAndSealsAnew(t *testing.T) {
	t.Parallel()
	f := tenanttest.New(t)
	nodeURL, controlURL := controlDatabase(t, f)
	control := testdb.Connect(t, controlURL)
	a, b := testdb.Connect(t, f.A.AdminURL), testdb.Connect(t, f.B.AdminURL)
	for _, tenant := range []tenanttest.Tenant{f.A, f.B} {
		conn := testdb.Connect(t, tenant.AdminURL)
		var user int64
		must(t, conn.QueryRow(t.Context(), "SELECT min(id) FROM public.users").Scan(&user))
		sealed, err := f.Key.Seal([]byte("secret"), fmt.Appendf(nil, "second-factor/%s/%d", tenant.ID, user))
		must(t, err)
		_, err = conn.Exec(t.Context(), "INSERT INTO public.two_factors (user_id, method, secret_sealed) VALUES ($1, 'totp', $2)", user, sealed)
		must(t, err)
	}
	old := f.Key.Ring().Primary
	fresh := rotates(t, f, control)
	n := start(t, f, nodeURL)
	var sealed []byte
	var told, looks bool
	for deadline := time.Now().Add(time.Minute); ; {
		must(t, a.QueryRow(t.Context(), "SELECT secret_sealed FROM public.two_factors").Scan(&sealed))
		must(t, control.QueryRow(t.Context(), `
			SELECT EXISTS (SELECT FROM control.key_rings WHERE member_id = 'node-1' AND (rings #>> '{nodes,primary}')::bigint = $1 AND rings #> '{credentials,keys}' @> to_jsonb($1::bigint)),
			       EXISTS (SELECT FROM control.database_looks WHERE due_at <= now())`, fresh).Scan(&told, &looks))
		if told && looks && seal.KeyID(sealed) == fresh {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("told: %t, to be looked at again: %t, the secret is under key %d, want %d", told, looks, seal.KeyID(sealed), fresh)
		}
		<-time.After(50 * time.Millisecond)
	}
	must(t, b.QueryRow(t.Context(), "SELECT secret_sealed FROM public.two_factors").Scan(&sealed))
	if seal.KeyID(sealed) != old {
		t.Error("the node has sealed secrets anew of a tenant that it was not given")
	}
	n.stop()
	must(t, <-n.ended)
}

// rotates begins a rotation of the data key: another one of the file seals, the operation
// runs, and a worker has seen that A has secrets under the key before.
func rotates(t *testing.T, f *tenanttest.Fixture, control *pgx.Conn) (fresh uint32) {
	t.Helper()
	old := f.Key.Ring().Primary
	files := seal.KeyFiles{Secret: f.KeyFile, Public: filepath.Join(filepath.Dir(f.KeyFile), "data.pub")}
	_, err := files.Add()
	must(t, err)
	fresh, err = files.Promote()
	must(t, err)
	_, err = control.Exec(t.Context(), `
		WITH seen AS (INSERT INTO control.database_looks (tenant_id, incarnation, due_at, looked_at, secrets) VALUES ($1, 1, now() + interval '1 day', now(), ARRAY[$2::bigint]))
		INSERT INTO control.operations (id, kind, params, created_by) VALUES (gen_random_uuid(), 'key.rotate', '{"kind": "data"}', 'test')`, f.A.ID, old)
	must(t, err)
	return fresh
}
