package backup_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/backup"
	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/testdb"
	"github.com/ouvira/ouvira/shared/testdb/sidebyside"
)

// A tenant with 100,000 records is backed up, and restored in place, beside the bare
// programs with the same database. Ours also seals, checks by reading back, and makes
// roles, markers and keys.
func BenchmarkBackupVersusBareTools(b *testing.B) {
	records, rounds := 100_000, 5
	if testing.Short() {
		records, rounds = 1000, 1
	}
	w := newWorld(b)
	id := w.tenant(b, "acme")
	_, err := w.inside(b, id).Exec(b.Context(), `
		INSERT INTO ledger.activity_logs (user_display, entity_type, action, new_values)
		SELECT 'Ada', 'company', 'create', jsonb_build_object('n', n, 'text', repeat('x', n % 200)) FROM generate_series(1, $1) n`, records)
	if err != nil {
		b.Fatal(err)
	}
	bin, dir := testdb.Bin(b, testdb.System), b.TempDir()
	run := func(program string, arguments ...string) {
		b.Helper()
		if out, err := exec.CommandContext(b.Context(), filepath.Join(bin, program), arguments...).CombinedOutput(); err != nil {
			b.Fatalf("%s: %v: %s", program, err, out)
		}
	}
	database := func() string { return w.pg.DatabaseURL(*w.made(b, id).Database) }
	dumped := 0
	dump := func() {
		dumped++
		run("pg_dump", "--format=custom", "--dbname="+database(), "--file="+filepath.Join(dir, fmt.Sprintf("%d.dump", dumped)))
	}
	b.Run("backup", func(b *testing.B) {
		sidebyside.Duration(b, rounds, func() { w.take(b, id) }, dump)
	})
	b.Run("restore", func(b *testing.B) {
		taken := w.take(b, id)
		dump()
		archive := filepath.Join(dir, fmt.Sprintf("%d.dump", dumped))
		var names []string
		sidebyside.Duration(b, rounds, func() {
			op, err := w.backups.Restore(b.Context(), operator(), id, taken)
			if err != nil {
				b.Fatal(err)
			}
			w.mustRun(b, op)
		}, func() {
			name := "bench_" + strings.ReplaceAll(uuid.NewString(), "-", "")
			names = append(names, name)
			if _, err := w.admin.Exec(b.Context(), "CREATE DATABASE "+name+" OWNER "+migrations.OwnerRole+" TEMPLATE template0"); err != nil {
				b.Fatal(err)
			}
			run("pg_restore", "--exit-on-error", "--single-transaction", "--dbname="+w.pg.DatabaseURL(name), archive)
		})
		for _, name := range names {
			if _, err := w.admin.Exec(b.Context(), "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
				b.Fatal(err)
			}
		}
	})
	fleettest.Counts(b, w.Pool, "control.operations WHERE status = 'failed' AND kind IN ('"+backup.KindTake+"', '"+backup.KindRestore+"')", 0)
}
