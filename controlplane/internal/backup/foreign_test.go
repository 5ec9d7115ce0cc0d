package backup_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/backup"
	"github.com/ouvira/ouvira/controlplane/internal/backup/pgtool"
	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
)

// forged is an archive that agrees with itself, of another manifest and dump.
func forged(t *testing.T, m backup.Manifest, dump []byte) []byte {
	t.Helper()
	sum := func(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }
	m.DumpSize, m.DumpSHA256 = int64(len(dump)), sum(dump)
	manifest, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	checkpoint, err := json.Marshal(m.Audit)
	if err != nil {
		t.Fatal(err)
	}
	sums := sum(manifest) + "  manifest.json\n" + sum(checkpoint) + "  audit.json\n" + sum(dump) + "  database.dump\n"
	var out bytes.Buffer
	archive := tar.NewWriter(&out)
	for _, f := range []struct {
		name    string
		content []byte
	}{{"manifest.json", manifest}, {"audit.json", checkpoint}, {"SHA256SUMS", []byte(sums)}, {"database.dump", dump}} {
		if err := archive.WriteHeader(&tar.Header{Name: f.name, Size: int64(len(f.content)), Mode: 0o600}); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write(f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// manifestAndDump takes a tenant's own archive apart.
func (w *world) manifestAndDump(t *testing.T, id uuid.UUID) (m backup.Manifest, dump []byte) {
	t.Helper()
	files := tar.NewReader(bytes.NewReader(w.export(t, w.take(t, id), "")))
	for {
		entry, err := files.Next()
		if err != nil {
			return m, dump
		}
		var content bytes.Buffer
		if _, err := content.ReadFrom(files); err != nil {
			t.Fatal(err)
		}
		switch entry.Name {
		case "manifest.json":
			if err := json.Unmarshal(content.Bytes(), &m); err != nil {
				t.Fatal(err)
			}
		case "database.dump":
			dump = content.Bytes()
		}
	}
}

// withStatement puts SQL before the COPY of a table: a dump says for each table by which
// statement it is loaded, after the statement's length.
func withStatement(t *testing.T, dump []byte, table, sql string) []byte {
	t.Helper()
	begin := bytes.Index(dump, []byte("COPY "+table+" ("))
	if begin < 0 {
		t.Fatalf("the dump has no rows of %s", table)
	}
	length := int(binary.LittleEndian.Uint32(dump[begin-4:]))
	if !bytes.HasSuffix(dump[begin:begin+length], []byte("FROM stdin;\n")) {
		t.Fatalf("%q is no statement", dump[begin:begin+length])
	}
	size := binary.LittleEndian.AppendUint32(nil, uint32(length+len(sql)))
	return bytes.Join([][]byte{dump[:begin-4], size, []byte(sql), dump[begin:]}, nil)
}

func (w *world) importing(t *testing.T, slug string, archive []byte) (uuid.UUID, *operation.Operation) {
	t.Helper()
	imported, op, err := w.backups.Import(t.Context(), operator(), backup.Imported{Slug: slug}, bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	return imported.ID, w.run(t, op)
}

// Whoever has written an archive gets rows into a database of their own, and nothing
// else anywhere: what the dump says to run is run by a role that can do nothing.
func TestSec50AnArchiveRunsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	victim, acme := w.tenant(t, "victim"), w.tenant(t, "acme")
	theirs := *w.made(t, victim).Database
	m, dump := w.manifestAndDump(t, acme)
	for slug, c := range map[string]struct{ statement, code string }{
		"becomes":  {"SET ROLE ouvira_owner; GRANT CONNECT ON DATABASE " + theirs + " TO PUBLIC; ", "archive_refused"},
		"grants":   {"GRANT CONNECT ON DATABASE " + theirs + " TO PUBLIC; ", "archive_refused"},
		"function": {"CREATE FUNCTION public.evil() RETURNS int LANGUAGE sql SECURITY DEFINER RETURN 1; ", "archive_refused"},
		"leaves":   {"ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC; ", "loader_left_something"},
		// What the role can do to itself ends with it.
		"itself": {"ALTER ROLE CURRENT_USER SET statement_timeout = 1; ALTER ROLE CURRENT_USER PASSWORD 'known'; ", ""},
	} {
		id, o := w.importing(t, slug, forged(t, m, withStatement(t, dump, "public.companies", c.statement)))
		switch {
		case c.code == "" && o.Status == operation.Succeeded:
			w.checkCopy(t, id, acme)
			fleettest.Counts(t, w.admin, "pg_roles WHERE rolname = '"+*w.made(t, id).Database+"' AND rolconfig = '{temp_file_limit=256MB}'", 1)
		case o.Status != operation.Failed || o.Error.Code != c.code:
			t.Errorf("%s: %s %+v", slug, o.Status, o.Error)
		default:
			w.nothingOf(t, tenantdb.Database{Tenant: id, Incarnation: 1})
			fleettest.Counts(t, w.Pool, "control.tenants WHERE id = '"+id.String()+"' AND status = 'failed' AND database_name IS NULL", 1)
		}
	}
	fleettest.Counts(t, w.admin, "pg_database WHERE datname = '"+theirs+"' AND NOT EXISTS (SELECT FROM aclexplode(datacl) WHERE grantee = 0)", 1)
}

// The role that loads adds rows and sets sequences.
func TestSec50WhoLoadsCanOnlyAddRows(t *testing.T) {
	t.Parallel()
	for _, version := range testdb.Versions {
		t.Run("postgres="+version, func(t *testing.T) {
			t.Parallel()
			w := newWorldOn(t, version)
			victim := *w.made(t, w.tenant(t, "victim")).Database
			latest, err := migrations.Tenant.Latest()
			if err != nil {
				t.Fatal(err)
			}
			server := fleettest.One[uuid.UUID](t, w.Pool, "SELECT id FROM control.servers")
			work := tenantdb.On(w.Servers, server, nil)
			defer work.Close()
			d := tenantdb.Database{Tenant: uuid.New(), Incarnation: 1}
			if err := work.Structure(t.Context(), d, latest); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				work := tenantdb.On(w.Servers, server, nil)
				defer work.Close()
				if err := work.Drop(context.Background(), d); err != nil {
					t.Error(err)
				}
			})
			err = work.Fill(t.Context(), d, func(env []string) error {
				settings := map[string]string{}
				for _, line := range env {
					name, value, _ := strings.Cut(line, "=")
					settings[name] = value
				}
				address := url.URL{
					Scheme: "postgres", User: url.UserPassword(settings["PGUSER"], settings["PGPASSWORD"]),
					Host: net.JoinHostPort(settings["PGHOST"], settings["PGPORT"]), Path: "/" + d.Name(), RawQuery: "sslmode=disable",
				}
				for _, other := range []string{victim, "postgres", "template1"} {
					if _, err := alone(t, fleettest.AtDatabase(t, address.String(), other)); pg.Code(err) != pg.CodeInsufficientRights {
						t.Errorf("into %s: %v", other, err)
					}
				}
				conn, err := alone(t, address.String())
				if err != nil {
					return err
				}
				defer conn.Close(t.Context())
				for _, statement := range []string{
					"SET ROLE ouvira_owner", "SET ROLE ouvira_provisioner", "SET SESSION AUTHORIZATION postgres", "GRANT ouvira_app TO CURRENT_USER",
					"CREATE ROLE evil_role", "CREATE DATABASE evil", "GRANT CONNECT ON DATABASE " + victim + " TO PUBLIC", "ALTER DATABASE " + victim + " ALLOW_CONNECTIONS false",
					"CREATE SCHEMA evil", "CREATE TABLE public.evil ()", "CREATE TEMPORARY TABLE evil ()",
					"CREATE FUNCTION public.evil() RETURNS int LANGUAGE sql RETURN 1", "CREATE FUNCTION ouvira.evil() RETURNS int LANGUAGE sql RETURN 1",
					"CREATE FOREIGN DATA WRAPPER evil", "CREATE EVENT TRIGGER evil ON ddl_command_start EXECUTE FUNCTION evil()",
					"CREATE PUBLICATION evil", "DO 'BEGIN END'", "COPY (SELECT 1) TO PROGRAM 'true'", "COPY ouvira.seeds FROM '/etc/passwd'",
					"SELECT lo_create(0)", "SELECT pg_advisory_lock(1)", "SELECT pg_read_file('PG_VERSION')",
					"SELECT * FROM public.users", "UPDATE public.users SET full_name = ''", "DELETE FROM public.users", "TRUNCATE public.users",
					"INSERT INTO ouvira.marker (tenant_id, incarnation) VALUES (gen_random_uuid(), 1)", "INSERT INTO ouvira.schema_migrations VALUES (99, false)",
					"ALTER TABLE public.users DISABLE TRIGGER ALL", "SET session_replication_role = replica",
				} {
					if _, err := conn.Exec(t.Context(), statement); pg.Code(err) != pg.CodeInsufficientRights && pg.Code(err) != "42883" {
						t.Errorf("%s: %v", statement, err)
					}
				}
				_, err = conn.Exec(t.Context(), "INSERT INTO public.companies (name) VALUES ('Acme')")
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			fleettest.Counts(t, w.admin, "pg_roles WHERE rolname IN ('"+d.Name()+"', 'evil_role')", 0)
		})
	}
}

// alone connects as a role that may have one connection, when its last one is gone.
func alone(t *testing.T, address string) (*pgx.Conn, error) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		conn, err := pgx.Connect(t.Context(), address)
		if pg.Code(err) != pg.CodeTooManyConnections || time.Now().After(deadline) {
			return conn, err
		}
	}
}

// An archive that holds more than rows is refused by name; of an own backup only the
// rows come back, for the same reason.
func TestSec50WhatTheMigrationsDoNotMakeIsNotLoaded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.tenant(t, "acme")
	w.hasTheStructureOfItsVersion(t, acme)
	changing := w.inside(t, acme)
	for _, statement := range []string{
		"SET ROLE ouvira_owner",
		"CREATE FUNCTION public.evil() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN RETURN NEW; END'",
		"CREATE TRIGGER evil_trigger BEFORE INSERT ON public.users FOR EACH ROW EXECUTE FUNCTION public.evil()",
		"ALTER TABLE public.users ADD CONSTRAINT evil_check CHECK (length(pg_catalog.current_database()) > 0)",
		"CREATE TABLE public.evil_table (n int)",
		"CREATE VIEW public.evil_view AS SELECT 1",
		"CREATE RULE evil_rule AS ON DELETE TO public.companies DO INSTEAD NOTHING",
		"CREATE OPERATOR public.=== (FUNCTION = pg_catalog.int4eq, LEFTARG = int, RIGHTARG = int)",
	} {
		if _, err := changing.Exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	_ = changing.Close(t.Context())
	m, dump := w.manifestAndDump(t, acme)
	id, o := w.importing(t, "imported", forged(t, m, dump))
	if o.Status != operation.Failed || o.Error.Code != "archive_foreign" || !strings.Contains(o.Error.Message, "FUNCTION public evil()") {
		t.Errorf("%s %+v", o.Status, o.Error)
	}
	fleettest.Counts(t, w.Pool, "control.tenants WHERE id = '"+id.String()+"' AND status = 'failed'", 1)
	copied, op, err := w.backups.RestoreAs(t.Context(), operator(), acme, w.take(t, acme), "acme-copy")
	if err != nil {
		t.Fatal(err)
	}
	w.mustRun(t, op)
	w.hasTheStructureOfItsVersion(t, copied.ID)
	fleettest.Counts(t, w.inside(t, copied.ID), "public.users", 1)
}

// An archive of an earlier release gets the structure of that one first.
func TestAnArchiveOfAnEarlierSchemaVersion(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.tenant(t, "acme")
	m, _ := w.manifestAndDump(t, acme)
	m.SchemaVersion = 5
	name := "earlier_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	if _, err := w.admin.Exec(t.Context(), "CREATE DATABASE "+name+" OWNER ouvira_owner TEMPLATE ouvira_base"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = w.admin.Exec(context.Background(), "DROP DATABASE "+name+" WITH (FORCE)") })
	address := w.pg.DatabaseURL(name)
	as, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	q := as.Query()
	q.Set("role", migrations.OwnerRole)
	as.RawQuery = q.Encode()
	if err := migrations.UpTo(t.Context(), as.String(), migrations.Tenant, 5); err != nil {
		t.Fatal(err)
	}
	earlier := testdb.Connect(t, address)
	if _, err := earlier.Exec(t.Context(), "INSERT INTO public.users (username, full_name, email) VALUES ('grace', 'Grace Hopper', 'grace@acme.example')"); err != nil {
		t.Fatal(err)
	}
	programs, err := pgtool.Find(t.Context(), os.Getenv, m.PostgresVersion/10000)
	if err != nil {
		t.Fatal(err)
	}
	dump, err := exec.CommandContext(t.Context(), filepath.Join(programs.Dir, "pg_dump"), "--format=custom", "--no-unlogged-table-data", "--dbname="+address).Output()
	if err != nil {
		t.Fatal(err)
	}
	id, o := w.importing(t, "earlier", forged(t, m, dump))
	if o.Status != operation.Succeeded {
		t.Fatalf("%s %+v", o.Status, o.Error)
	}
	w.hasTheStructureOfItsVersion(t, id)
	fleettest.Counts(t, w.inside(t, id), "public.users WHERE full_name = 'Grace Hopper'", 1)
}

// hasTheStructureOfItsVersion compares the whole structure, rights included, with what
// the migrations make in an empty database.
func (w *world) hasTheStructureOfItsVersion(t *testing.T, id uuid.UUID) {
	t.Helper()
	is, should := w.structure(t, *w.made(t, id).Database), w.structure(t, *w.made(t, w.plain(t)).Database)
	if is != should {
		t.Errorf("the structure differs:\n%s", difference(is, should))
	}
}

// plain is a tenant that nobody has touched.
func (w *world) plain(t *testing.T) uuid.UUID {
	t.Helper()
	return w.tenant(t, "plain-"+strings.ToLower(rand.Text()[:8]))
}

func (w *world) structure(t *testing.T, database string) string {
	t.Helper()
	programs, err := pgtool.Find(t.Context(), os.Getenv, 15)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), filepath.Join(programs.Dir, "pg_dump"), "--schema-only", "--dbname="+w.pg.DatabaseURL(database)).Output()
	if err != nil {
		t.Fatal(err)
	}
	return restrict.ReplaceAllString(string(out), "")
}

// restrict are lines of pg_dump that differ each time.
var restrict = regexp.MustCompile(`(?m)^\\(un)?restrict .*$`)

// difference are the lines that only one side has.
func difference(is, should string) string {
	var out strings.Builder
	for _, pair := range []struct{ sign, of, in string }{{"+", is, should}, {"-", should, is}} {
		for line := range strings.Lines(pair.of) {
			if !strings.Contains(pair.in, line) {
				out.WriteString(pair.sign + line)
			}
		}
	}
	return out.String()
}
