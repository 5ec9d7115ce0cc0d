package backup_test

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/backup"
	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
)

func TestABackupIsSealedAndProven(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.tenant(t, "acme")
	id := w.take(t, acme)
	content, err := os.ReadFile(w.archive(t, id))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(content, []byte("age-encryption.org/v1\n")) || bytes.Contains(content, []byte("Lovelace")) || bytes.Contains(content, []byte("PGDMP")) {
		t.Error("the archive is not sealed")
	}
	var m backup.Manifest
	text, err := os.ReadFile(w.archive(t, id) + ".json")
	if err != nil || json.Unmarshal(text, &m) != nil {
		t.Fatalf("the manifest: %v", err)
	}
	if m.BackupID != id || m.TenantID != acme || m.Incarnation != 1 || m.Size != int64(len(content)) || m.SchemaVersion == 0 || m.PostgresVersion < 150000 {
		t.Errorf("the manifest says %+v", m)
	}
	if n := fleettest.One[int](t, w.Pool, "SELECT count(*) FROM control.events WHERE type = 'backup.finished' AND tenant_id = $1", acme); n != 1 {
		t.Errorf("%d events", n)
	}
	listed, err := w.backups.List(t.Context(), acme, uuid.Nil, 10)
	if err != nil || len(listed) != 1 || listed[0].SHA256 != m.SHA256 || listed[0].Reason != backup.ReasonManual {
		t.Errorf("listed %+v, %v", listed, err)
	}
	if names := w.stored(t); len(names) != 2 {
		t.Errorf("stored: %v", names)
	}
}

// checkCopy expects a complete tenant that nobody of its origin is signed in to.
func (w *world) checkCopy(t *testing.T, copied, origin uuid.UUID) {
	t.Helper()
	m := w.made(t, copied)
	if m.Status != "active" || m.Incarnation != 1 {
		t.Fatalf("the copy is %+v", m)
	}
	conn := testdb.Connect(t, w.Login(t, copied))
	fleettest.Counts(t, conn, "public.users", 1)
	fleettest.Counts(t, conn, "public.companies", 1)
	fleettest.Counts(t, conn, "ledger.activity_logs", 1)
	for _, table := range []string{"public.sessions", "public.api_keys", "public.one_time_codes", "public.outbox", "public.two_factors", "public.password_tokens"} {
		fleettest.Counts(t, conn, table, 0)
	}
	fleettest.Counts(t, conn, "ouvira.signing_keys WHERE retired_at IS NULL", 1)
	if id := fleettest.One[uuid.UUID](t, conn, "SELECT tenant_id FROM ouvira.marker"); id != copied {
		t.Errorf("the marker says %s", id)
	}
	theirs := fleettest.One[string](t, w.Pool, "SELECT signing_keys::text FROM control.tenants WHERE id = $1", origin)
	if ours := fleettest.One[string](t, w.Pool, "SELECT signing_keys::text FROM control.tenants WHERE id = $1", copied); ours == theirs || len(ours) < 20 {
		t.Errorf("the copy's keys are %s", ours)
	}
	if n := fleettest.One[int](t, w.Pool, "SELECT count(*) FROM node.routes_v1 WHERE tenant_id = $1 AND NOT deleted", copied); n != 1 {
		t.Error("the copy has no route")
	}
	// Its role is like every tenant's: it writes rows, and gets nowhere else.
	if _, err := conn.Exec(t.Context(), "BEGIN; INSERT INTO public.companies (name) VALUES ('Another'); ROLLBACK"); err != nil {
		t.Errorf("the copy's role may not write: %v", err)
	}
	for _, statement := range []string{"CREATE TABLE public.mine ()", "SELECT pg_advisory_lock(1)", "UPDATE ledger.activity_logs SET action = ''", "UPDATE ouvira.marker SET incarnation = 9"} {
		if _, err := conn.Exec(t.Context(), statement); pg.Code(err) != pg.CodeInsufficientRights {
			t.Errorf("the copy's role: %s: %v", statement, err)
		}
	}
	if _, err := pgx.Connect(t.Context(), fleettest.AtDatabase(t, w.Login(t, copied), *w.made(t, origin).Database)); pg.Code(err) != pg.CodeInsufficientRights {
		t.Errorf("the copy's role at the origin's database: %v", err)
	}
}

func TestRestoreAsANewTenant(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.tenant(t, "acme")
	id := w.take(t, acme)
	if _, err := w.inside(t, acme).Exec(t.Context(), "INSERT INTO public.companies (name) VALUES ('Later')"); err != nil {
		t.Fatal(err)
	}
	copied, op, err := w.backups.RestoreAs(t.Context(), operator(), acme, id, "acme-copy")
	if err != nil {
		t.Fatal(err)
	}
	w.mustRun(t, op)
	w.checkCopy(t, copied.ID, acme)
	if copied.Settings.Locale != "de" || copied.Settings.Sandbox {
		t.Errorf("the copy's settings: %+v", copied.Settings)
	}
	fleettest.Counts(t, w.inside(t, acme), "public.sessions WHERE revoked_at IS NULL", 1)
	if m := w.made(t, acme); m.Epoch != 1 || m.Incarnation != 1 {
		t.Errorf("the origin is %+v", m)
	}
}

func TestACloneIsAsTheOriginIsNow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.tenant(t, "acme")
	cloned, op, err := w.backups.Clone(t.Context(), operator(), acme, "acme-sandbox", true)
	if err != nil {
		t.Fatal(err)
	}
	w.mustRun(t, op)
	w.checkCopy(t, cloned.ID, acme)
	if !cloned.Settings.Sandbox || !fleettest.One[bool](t, w.Pool, "SELECT (settings ->> 'sandbox')::boolean FROM node.routes_v1 WHERE tenant_id = $1", cloned.ID) {
		t.Error("the route does not say that it is a sandbox")
	}
}

func TestRestoreInPlace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme, globex := w.tenant(t, "acme"), w.tenant(t, "globex")
	id := w.take(t, acme)
	breaking := w.inside(t, acme)
	if _, err := breaking.Exec(t.Context(), "UPDATE public.companies SET name = 'Broken'"); err != nil {
		t.Fatal(err)
	}
	_ = breaking.Close(t.Context()) // a superuser's session would be in the way of the DROP
	before := w.made(t, acme)
	oldLogin := w.Login(t, acme)
	theirs := testdb.Connect(t, oldLogin)
	neighbour := testdb.Connect(t, w.Login(t, globex))
	op, err := w.backups.Restore(t.Context(), operator(), acme, id)
	if err != nil {
		t.Fatal(err)
	}
	w.mustRun(t, op)
	w.checkReplaced(t, acme, before)
	if _, err := theirs.Exec(t.Context(), "SELECT 1"); err == nil {
		t.Error("a session of before goes on in the old database")
	}
	if _, err := pgx.Connect(t.Context(), oldLogin); err == nil {
		t.Error("the old credential still gets into the old database")
	}
	if _, err := neighbour.Exec(t.Context(), "SELECT 1"); err != nil {
		t.Errorf("the neighbour was disturbed: %v", err)
	}
	// The old one is kept, then dropped.
	if err := w.backups.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	exists := "pg_database WHERE datname = '" + *before.Database + "'"
	fleettest.Counts(t, w.admin, exists, 1)
	if _, err := w.Pool.Exec(t.Context(), "UPDATE control.retired_databases SET drop_at = now()"); err != nil {
		t.Fatal(err)
	}
	// One that is due for longer, on a server that cannot be used, keeps no other waiting.
	w.Exec(t, `INSERT INTO control.servers
		SELECT (jsonb_populate_record(s, jsonb_build_object('id', gen_random_uuid(), 'name', 'away', 'system_identifier', 1, 'port', 1))).* FROM control.servers s LIMIT 1`)
	w.Exec(t, `INSERT INTO control.retired_databases (tenant_id, incarnation, server_id, database_name, drop_at)
		SELECT $1, 99, id, 'ov_away', now() - interval '1 day' FROM control.servers WHERE name = 'away'`, acme)
	if err := w.backups.Sweep(t.Context()); err == nil {
		t.Error("nobody hears that a server could not be asked")
	}
	fleettest.Counts(t, w.admin, exists, 0)
	w.Exec(t, "DELETE FROM control.retired_databases WHERE incarnation = 99")
	if err := w.backups.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.checkReplaced(t, acme, before)
}

// checkReplaced expects the next incarnation, as the backup had it.
func (w *world) checkReplaced(t *testing.T, id uuid.UUID, before made) {
	t.Helper()
	m := w.made(t, id)
	if m.Status != "active" || m.Mode != "serve" || m.Incarnation != before.Incarnation+1 || m.Epoch != before.Epoch+1 {
		t.Fatalf("the tenant is %+v", m)
	}
	conn := testdb.Connect(t, w.Login(t, id))
	if name := fleettest.One[string](t, conn, "SELECT name FROM public.companies"); name != "Acme" {
		t.Errorf("the company is %s", name)
	}
	if n := fleettest.One[int](t, conn, "SELECT incarnation FROM ouvira.marker"); n != m.Incarnation {
		t.Errorf("the marker says %d", n)
	}
	fleettest.Counts(t, conn, "public.sessions WHERE revoked_at IS NULL", 0)
	fleettest.Counts(t, conn, "public.outbox WHERE status = 'pending'", 0)
	fleettest.Counts(t, conn, "public.one_time_codes", 0)
	fleettest.Counts(t, conn, "public.two_factors", 1) // sealed to this tenant: they open
	if epoch := fleettest.One[int64](t, conn, "SELECT epoch FROM public.authz_epoch"); epoch < 1_000_000_000_000 {
		t.Errorf("the authorization epoch %d may come a second time", epoch)
	}
}

func TestWhatCannotBeRestored(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.tenant(t, "acme")
	cases := map[string]struct {
		harm func(file string) error
		code string
	}{
		"a byte differs": {code: "backup_corrupted", harm: func(file string) error {
			content, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			content[len(content)/2] ^= 1
			return os.WriteFile(file, content, 0o600)
		}},
		"cut short": {code: "backup_corrupted", harm: func(file string) error { return os.Truncate(file, 5000) }},
		"empty":     {code: "backup_corrupted", harm: func(file string) error { return os.Truncate(file, 0) }},
		"its manifest was changed": {code: "backup_corrupted", harm: func(file string) error {
			content, err := os.ReadFile(file + ".json")
			if err != nil {
				return err
			}
			return os.WriteFile(file+".json", bytes.Replace(content, []byte(`"acme"`), []byte(`"evil"`), 1), 0o600)
		}},
		"gone":                 {code: "backup_missing", harm: os.Remove},
		"its manifest is gone": {code: "backup_missing", harm: func(file string) error { return os.Remove(file + ".json") }},
	}
	for name, c := range cases {
		id := w.take(t, acme)
		if err := c.harm(w.archive(t, id)); err != nil {
			t.Fatal(err)
		}
		op, err := w.backups.Restore(t.Context(), operator(), acme, id)
		if err != nil {
			t.Fatal(err)
		}
		w.refused(t, op, name, c.code)
		slug := "copy-" + c.code[7:] + "-" + id.String()[30:]
		copied, op, err := w.backups.RestoreAs(t.Context(), operator(), acme, id, slug)
		if err != nil {
			t.Fatal(err)
		}
		w.refused(t, op, name, c.code)
		if m := w.made(t, copied.ID); m.Status != "failed" || m.Reason == "" || m.Server != nil {
			t.Errorf("%s: the copy is %+v", name, m)
		}
		for _, d := range []tenantdb.Database{{Tenant: acme, Incarnation: 2}, {Tenant: copied.ID, Incarnation: 1}} {
			w.nothingOf(t, d)
		}
		if m := w.made(t, acme); m.Incarnation != 1 || m.Mode != "serve" || m.Status != "active" {
			t.Errorf("%s: the tenant is %+v", name, m)
		}
	}
	testdb.Connect(t, w.Login(t, acme))
}

func (w *world) refused(t *testing.T, op uuid.UUID, name, code string) {
	t.Helper()
	if o := w.run(t, op); o.Status != operation.Failed || o.Error == nil || o.Error.Code != code || o.Error.NextAction == "" {
		t.Errorf("%s: %s is %s: %+v", name, o.Kind, o.Status, o.Error)
	}
}
