package migrationtest

import (
	"context"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

// prepared is an empty database on a server that has the roles of both kinds:
// roles belong to the whole server, so they are made while a template is.
var prepared = testdb.Template{Name: "prepared", Fingerprint: "1", Build: func(ctx context.Context, address string) error {
	verifier, err := pg.SCRAMVerifier(testdb.RolePassword)
	if err != nil {
		return err
	}
	u, err := url.Parse(address)
	if err != nil {
		return err
	}
	u.Path = "/postgres"
	if err := migrations.PrepareServer(ctx, u.String(), verifier); err != nil {
		return err
	}
	return migrations.BootstrapControl(ctx, u.String(), migrations.ControlBootstrap{
		Database: "ouvira_control_roles", ControlVerifier: verifier, NodeVerifier: verifier,
	})
}}

var sets = map[string]migrations.Set{"control": migrations.Control, "tenant": migrations.Tenant}

func bookkeeping(set string) string {
	if set == "control" {
		return "control"
	}
	return "ouvira"
}

func connect(t *testing.T, address string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func latest(t *testing.T, set migrations.Set) uint {
	t.Helper()
	n, err := set.Latest()
	if err != nil || n == 0 {
		t.Fatalf("Latest = %d, %v", n, err)
	}
	return n
}

func mustExec(t *testing.T, conn *pgx.Conn, statement string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func TestManyRunnersAtOnce(t *testing.T) {
	t.Parallel()
	for name, set := range sets {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address := testdb.New(t, prepared)
			var wg sync.WaitGroup
			for range 6 {
				wg.Go(func() {
					if got, err := migrations.Up(t.Context(), address, set); err != nil || got != latest(t, set) {
						t.Errorf("Up = %d, %v", got, err)
					}
				})
			}
			wg.Wait()
			var rows uint
			conn := connect(t, address)
			if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM "+bookkeeping(name)+".migration_ledger").Scan(&rows); err != nil || rows != latest(t, set) {
				t.Fatalf("ledger rows = %d, %v; want one for each of %d files", rows, err, latest(t, set))
			}
		})
	}
}

// golang-migrate commits three times: dirty, the file, clean. A process that
// was killed in between leaves the flag, and the ledger tells on which side.
func TestAnInterruptedRunIsRepaired(t *testing.T) {
	t.Parallel()
	for name, set := range sets {
		schema := bookkeeping(name)
		t.Run(name+" after the file committed", func(t *testing.T) {
			t.Parallel()
			address := testdb.New(t, prepared)
			conn := connect(t, address)
			if _, err := migrations.Up(t.Context(), address, set); err != nil {
				t.Fatal(err)
			}
			mustExec(t, conn, "UPDATE "+schema+".schema_migrations SET dirty = true")
			if got, err := migrations.Up(t.Context(), address, set); err != nil || got != latest(t, set) {
				t.Fatalf("Up = %d, %v", got, err)
			}
		})
		t.Run(name+" before the file committed", func(t *testing.T) {
			t.Parallel()
			address := testdb.New(t, prepared)
			conn := connect(t, address)
			// What a runner leaves that died inside the first file.
			mustExec(t, conn, "CREATE SCHEMA "+schema)
			mustExec(t, conn, "CREATE TABLE "+schema+".schema_migrations (version bigint NOT NULL PRIMARY KEY, dirty boolean NOT NULL)")
			mustExec(t, conn, "CREATE TABLE "+schema+".migration_ledger (version bigint PRIMARY KEY, name text NOT NULL, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())")
			mustExec(t, conn, "INSERT INTO "+schema+".schema_migrations VALUES (1, true)")
			if got, err := migrations.Up(t.Context(), address, set); err != nil || got != latest(t, set) {
				t.Fatalf("Up = %d, %v", got, err)
			}
			var dirty bool
			if err := conn.QueryRow(t.Context(), "SELECT dirty FROM "+schema+".schema_migrations").Scan(&dirty); err != nil || dirty {
				t.Fatalf("dirty = %v, %v", dirty, err)
			}
		})
	}
}

func TestADatabaseOfALaterReleaseIsLeftAlone(t *testing.T) {
	t.Parallel()
	address := testdb.New(t, prepared)
	if _, err := migrations.Up(t.Context(), address, migrations.Tenant); err != nil {
		t.Fatal(err)
	}
	mustExec(t, connect(t, address), "UPDATE ouvira.schema_migrations SET version = 99999")
	_, err := migrations.Up(t.Context(), address, migrations.Tenant)
	if err == nil || !strings.Contains(err.Error(), "99999") {
		t.Fatalf("Up = %v", err)
	}
}

func TestPreparingAServerAgainChangesNothing(t *testing.T) {
	t.Parallel()
	for _, version := range testdb.Versions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			server := testdb.Server(t, version)
			verifier, err := pg.SCRAMVerifier("first-password")
			if err != nil {
				t.Fatal(err)
			}
			var oids []uint32
			for range 2 {
				if err := migrations.PrepareServer(t.Context(), server.URL(), verifier); err != nil {
					t.Fatal(err)
				}
				var oid uint32
				err := connect(t, server.URL()).QueryRow(t.Context(), "SELECT oid FROM pg_database WHERE datname = $1 AND datistemplate AND NOT datallowconn", migrations.BaseDatabase).Scan(&oid)
				if err != nil {
					t.Fatalf("the base database: %v", err)
				}
				oids = append(oids, oid)
			}
			if oids[0] != oids[1] {
				t.Error("the base database was made anew: templates cloned from it would differ")
			}
			if err := migrations.PrepareServer(t.Context(), server.URL(), "a plain password"); err == nil {
				t.Error("a plain password was sent to the server")
			}
		})
	}
}
