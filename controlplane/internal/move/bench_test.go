package move_test

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/move"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/testdb"
	"github.com/ouvira/ouvira/shared/testdb/sidebyside"
)

// A tenant with 100,000 records moves there and back, beside a dump of the same
// database that is piped into a restore on the other server: what the whole takes,
// and how long writes have to wait. With the dump they wait for all of it.
func BenchmarkMoveVersusDumpRestore(b *testing.B) {
	const records, rounds = 100_000, 3
	w := newWorld(b, tenantServer(b, testdb.System, "a"), tenantServer(b, testdb.System, "b"), move.Options{Budget: patient})
	tenant := w.tenant(b, "acme")
	w.fill(b, tenant, 500)
	_, err := testdb.Connect(b, w.Login(b, tenant)).Exec(b.Context(), `
		INSERT INTO ledger.activity_logs (user_display, entity_type, action, new_values)
		SELECT 'Ada', 'company', 'create', jsonb_build_object('n', n, 'text', repeat('x', n % 200)) FROM generate_series(1, $1) n`, records)
	if err != nil {
		b.Fatal(err)
	}
	other := map[string]string{"a": "b", "b": "a"}
	var op uuid.UUID
	moved := func() {
		op = w.mustAsk(b, tenant, other[w.placed(b, tenant).Server])
		w.mustRun(b, op)
	}
	copied := func() { w.dumpAndRestore(b, w.placed(b, tenant)) }

	b.Run("total", func(b *testing.B) { sidebyside.Duration(b, rounds, moved, copied) })
	b.Run("pause", func(b *testing.B) {
		var ours, reference []float64
		for range rounds {
			moved()
			ours = append(ours, fleettest.One[float64](b, w.Pool, "SELECT (detail ->> 'write_pause_ms')::float8 / 1000 FROM control.audit_log WHERE action = 'tenant.moved' AND detail ->> 'operation_id' = $1", op.String()))
			reference = append(reference, seconds(copied))
		}
		sidebyside.Report(b, ours, reference)
	})
}

// dumpAndRestore pipes a dump into a new database on the other server, and drops it.
func (w *world) dumpAndRestore(b *testing.B, at placed) {
	b.Helper()
	source, target := w.a, w.b
	if at.Server == "b" {
		source, target = w.b, w.a
	}
	admin := testdb.Connect(b, target.URL())
	name := "bench_" + uuid.NewString()[:8]
	if _, err := admin.Exec(b.Context(), fmt.Sprintf("CREATE DATABASE %s OWNER %s TEMPLATE template0", name, migrations.OwnerRole)); err != nil {
		b.Fatal(err)
	}
	bin := testdb.Bin(b, testdb.System)
	dump := exec.CommandContext(b.Context(), filepath.Join(bin, "pg_dump"), "--format=custom", "--dbname="+source.DatabaseURL(at.Database))
	restore := exec.CommandContext(b.Context(), filepath.Join(bin, "pg_restore"), "--exit-on-error", "--dbname="+target.DatabaseURL(name))
	pipe, err := dump.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	restore.Stdin = pipe
	if err := restore.Start(); err != nil {
		b.Fatal(err)
	}
	if err := dump.Run(); err != nil {
		b.Fatalf("dump: %v", err)
	}
	if err := restore.Wait(); err != nil {
		b.Fatalf("restore: %v", err)
	}
	if _, err := admin.Exec(context.WithoutCancel(b.Context()), "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
		b.Fatal(err)
	}
}

func seconds(f func()) float64 {
	begun := time.Now()
	f()
	return time.Since(begun).Seconds()
}
