package tenantdb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/pg"
)

// Make makes the database, closed, of what leads to the version of the schema most
// shortly.
func (w *Work) Make(ctx context.Context, d Database, version uint) error {
	latest, err := migrations.Tenant.Latest()
	if err != nil {
		return err
	}
	template := migrations.BaseDatabase
	if version == latest {
		if template, err = w.Template(ctx); err != nil {
			return err
		}
	}
	return w.Create(ctx, d, template)
}

// Structure opens the database with the structure that the migrations give it at the
// version, and with nothing that an earlier run has left: one that is open already is
// dropped with its role and made again.
func (w *Work) Structure(ctx context.Context, d Database, version uint) error {
	admin, err := w.Admin(ctx)
	if err != nil {
		return err
	}
	f, err := admin.lookup(ctx, d.Name())
	if err == nil && f != nil && f.open {
		err = w.Drop(ctx, d)
	}
	if err == nil {
		err = w.Make(ctx, d, version)
	}
	if err == nil {
		err = w.Lockdown(ctx, d)
	}
	if err != nil {
		return err
	}
	return w.migrate(ctx, d.Name(), func(dsn string) error {
		return migrations.UpTo(ctx, dsn, migrations.Tenant, version)
	})
}

// Fill calls fill with the environment for a program that puts rows into the database,
// whatever they are and whoever has written them. The program logs in as a role that
// owns nothing, is nobody else, gets into no other database, and may in this one add
// rows and set sequences: so what it is made to run can do no more either. The tables
// are empty, and nothing of ours (triggers, foreign keys, indexes) runs on rows that
// are not complete. When fill has returned, the role is gone, and all is as it was.
//
// The role has the database's name, as its tenant's will: pg_hba.conf may say that
// nobody gets into a database of another name than theirs. The tenant's is made anew
// afterwards.
//
// Errors: *operation.Failure with rows_refused (final) when the rows break the rules of
// the structure.
func (w *Work) Fill(ctx context.Context, d Database, fill func(env []string) error) error {
	rebuild, err := w.strip(ctx, d)
	if err != nil {
		return err
	}
	if err := w.asLoader(ctx, d, fill); err != nil {
		return err
	}
	inside, err := w.Inside(ctx, d)
	if err != nil {
		return err
	}
	_, err = inside.conn.Exec(ctx, strings.Join(rebuild, "; "), pgx.QueryExecModeSimpleProtocol)
	if code := pg.Code(err); strings.HasPrefix(code, "23") || strings.HasPrefix(code, "22") {
		return operation.Fail("rows_refused", "The rows break the rules of their schema version ("+code+").", "See the worker's log for the rule and the table.").Because(err)
	}
	if err != nil {
		return inside.Explain(err)
	}
	admin, err := w.Admin(ctx)
	if err != nil {
		return err
	}
	if err := admin.Exec(ctx, "REVOKE ALL ON DATABASE "+d.Quoted()+" FROM "+d.Quoted()); err != nil {
		return err
	}
	_, err = admin.conn.Exec(ctx, "DROP ROLE "+d.Quoted())
	if pg.Code(err) == codeDependentObjects {
		return operation.Fail("loader_left_something", "What was loaded has left something behind that is no row.", "Do not load it: find out who wrote it.").Because(err)
	}
	if err != nil {
		return admin.Explain(err)
	}
	return nil
}

// codeDependentObjects: a role cannot be dropped because something depends on it.
const codeDependentObjects = "2BP01"

// own are the tables that a database has of its own: which tenant and incarnation it
// is, and which migrations it has seen.
const own = "('ouvira.marker', 'ouvira.schema_migrations', 'ouvira.migration_ledger')"

// Own tells whether a table ("schema.name") is one that a database has of its own.
func Own(table string) bool { return strings.Contains(own, "'"+table+"'") }

// strip empties the tables, takes away what would run on rows, and gives the loader
// its rights, in one commit. It returns the statements that undo all but the first.
func (w *Work) strip(ctx context.Context, d Database) (rebuild []string, err error) {
	inside, err := w.Inside(ctx, d)
	if err != nil {
		return nil, err
	}
	var tables string
	err = inside.Scan(ctx, []any{&tables}, `
		SELECT string_agg(format('%I.%I', n.nspname, c.relname), ', ')
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'r' AND n.nspname IN ('public', 'ouvira', 'ledger') AND n.nspname || '.' || c.relname NOT IN `+own)
	if err != nil {
		return nil, err
	}
	rows, err := inside.conn.Query(ctx, `
		WITH ours AS (
			SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name
			FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE c.relkind = 'r' AND n.nspname IN ('public', 'ouvira', 'ledger'))
		SELECT down, up FROM (
			SELECT 1 AS n, k.oid, format('ALTER TABLE %s DROP CONSTRAINT %I', o.name, k.conname) AS down,
			       format('ALTER TABLE %s ADD CONSTRAINT %I %s', o.name, k.conname, pg_get_constraintdef(k.oid)) AS up
			FROM ours o JOIN pg_constraint k ON k.conrelid = o.oid AND k.contype = 'f'
			UNION ALL
			SELECT 2, i.indexrelid, format('DROP INDEX %I.%I', n.nspname, c.relname), pg_get_indexdef(i.indexrelid)
			FROM ours o JOIN pg_index i ON i.indrelid = o.oid JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype <> 'f')
			UNION ALL
			SELECT 3, t.oid, format('ALTER TABLE %s DISABLE TRIGGER %I', o.name, t.tgname),
			       format('ALTER TABLE %s ENABLE %s TRIGGER %I', o.name, CASE t.tgenabled WHEN 'A' THEN 'ALWAYS' WHEN 'R' THEN 'REPLICA' ELSE '' END, t.tgname)
			FROM ours o JOIN pg_trigger t ON t.tgrelid = o.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D') s
		ORDER BY n, oid`)
	if err != nil {
		return nil, inside.Explain(err)
	}
	var statements []string
	var down, up string
	_, err = pgx.ForEachRow(rows, []any{&down, &up}, func() error {
		statements, rebuild = append(statements, down), append(rebuild, up)
		return nil
	})
	if err != nil {
		return nil, inside.Explain(err)
	}
	slices.Reverse(rebuild)
	statements = append(statements, "TRUNCATE "+tables)
	for _, right := range []string{
		"USAGE ON SCHEMA public, ouvira, ledger", "INSERT ON " + tables, "UPDATE ON ALL SEQUENCES IN SCHEMA public, ouvira, ledger",
	} {
		statements = append(statements, "GRANT "+right+" TO "+d.Quoted())
		rebuild = append(rebuild, "REVOKE "+right+" FROM "+d.Quoted())
	}
	if err := w.newLoader(ctx, d); err != nil {
		return nil, err
	}
	defer w.CloseInside() // loading may take hours
	return rebuild, inside.ExecAll(ctx, statements...)
}

// newLoader makes the role of the database's name one that can do nothing yet.
func (w *Work) newLoader(ctx context.Context, d Database) error {
	admin, err := w.Admin(ctx)
	if err != nil {
		return err
	}
	return admin.ExecAll(ctx,
		"DROP ROLE IF EXISTS "+d.Quoted(),
		"CREATE ROLE "+d.Quoted()+" NOLOGIN CONNECTION LIMIT 1",
		bound(d),
		"GRANT CONNECT ON DATABASE "+d.Quoted()+" TO "+d.Quoted())
}

// asLoader lets the loader in for as long as fill takes. Whatever it was made to do
// (it can give itself another password), nobody is left in when this returns.
func (w *Work) asLoader(ctx context.Context, d Database, fill func(env []string) error) error {
	password := pg.NewPassword()
	verifier, err := pg.SCRAMVerifier(password)
	if err != nil {
		return err
	}
	admin, err := w.Admin(ctx)
	if err != nil {
		return err
	}
	if err := admin.Exec(ctx, fmt.Sprintf("ALTER ROLE %s LOGIN PASSWORD '%s'", d.Quoted(), verifier)); err != nil {
		return err
	}
	err = w.access.WithURL(server.Target{
		Database: d.Name(), Login: d.Name(), Password: password, ApplicationName: w.applicationName(),
	}, inEnvironment(fill))
	if ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	return errors.Join(err, w.Fence(ctx, d))
}
