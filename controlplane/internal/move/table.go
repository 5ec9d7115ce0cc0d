package move

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
)

// table is one that is copied.
type table struct {
	Name     string   // quoted, with its schema
	Identity string   // pg_class.relreplident
	Columns  []string // quoted, by name
	Key      []string // quoted columns of the primary key
	Types    []string // of the key's columns
}

// marks is the table of a row that tells that all before it has arrived. It is
// there only while a tenant moves.
const marks = "ouvira.move_marks"

// notCopied are the tables that each database has of its own: which tenant and
// incarnation it is, and which migrations it has seen.
const notCopied = `('ouvira.marker', 'ouvira.schema_migrations', 'ouvira.migration_ledger', '` + marks + `')`

// tablesOf lists what is copied: every table that is logged.
func tablesOf(ctx context.Context, inside *tenantdb.Session) ([]table, error) {
	rows, err := inside.Conn().Query(ctx, `
		SELECT format('%I.%I', n.nspname, c.relname), c.relreplident::text,
		       ARRAY(SELECT quote_ident(a.attname) FROM pg_attribute a
		             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attname),
		       ARRAY(SELECT quote_ident(a.attname) FROM unnest(i.indkey::int2[]) WITH ORDINALITY k (attnum, n)
		             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum ORDER BY k.n),
		       ARRAY(SELECT format_type(a.atttypid, a.atttypmod) FROM unnest(i.indkey::int2[]) WITH ORDINALITY k (attnum, n)
		             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum ORDER BY k.n)
		FROM pg_class c
		JOIN pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
		WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
		  AND n.nspname || '.' || c.relname NOT IN `+notCopied+`
		ORDER BY 1`)
	if err != nil {
		return nil, inside.Explain(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowToStructByPos[table])
	if err != nil {
		return nil, inside.Explain(err)
	}
	return tables, nil
}

func names(tables []table) string {
	all := make([]string, 0, len(tables))
	for _, t := range tables {
		all = append(all, t.Name)
	}
	return strings.Join(all, ", ")
}

// digest is the expression of a row's 64-bit digest, and the same on both sides:
// see sameText.
func (t *table) digest() string {
	return "hashtextextended(ROW(" + strings.Join(t.Columns, ", ") + ")::text, 0)"
}

// keyText is the key as an array of texts.
func (t *table) keyText() string {
	texts := make([]string, len(t.Key))
	for i, column := range t.Key {
		texts[i] = column + "::text"
	}
	return "ARRAY[" + strings.Join(texts, ", ") + "]"
}

func (t *table) keyRow() string { return "(" + strings.Join(t.Key, ", ") + ")" }

// keyParameters are the key's values as parameters from the n-th on.
func (t *table) keyParameters(n int) string {
	all := make([]string, len(t.Key))
	for i, kind := range t.Types {
		all[i] = fmt.Sprintf("$%d::%s", n+i, kind)
	}
	return "(" + strings.Join(all, ", ") + ")"
}

// sameText makes a session write values as text in the way that both sides do.
func sameText(ctx context.Context, s *tenantdb.Session) error {
	return s.ExecAll(ctx,
		"SET TimeZone = 'UTC'", "SET DateStyle = 'ISO, YMD'", "SET IntervalStyle = 'postgres'",
		"SET bytea_output = 'hex'", "SET extra_float_digits = 1", "SET xmlbinary = 'base64'")
}

// schemaOf lists what the schema is made of, a line for each thing, so that two
// databases of one version can be compared. Grants are not in it: both databases
// have those of their template.
func schemaOf(ctx context.Context, inside *tenantdb.Session) ([]string, error) {
	rows, err := inside.Conn().Query(ctx, `
		WITH ours AS (
			SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name, c.relkind, c.relpersistence
			FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'ouvira_move')
			  AND n.nspname || '.' || c.relname <> '`+marks+`')
		SELECT line FROM (
			SELECT format('column %s.%I %s %s %s %s %s', o.name, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
			              a.attidentity, a.attgenerated, pg_get_expr(d.adbin, d.adrelid)) AS line
			FROM ours o JOIN pg_attribute a ON a.attrelid = o.oid AND a.attnum > 0 AND NOT a.attisdropped
			LEFT JOIN pg_attrdef d ON d.adrelid = o.oid AND d.adnum = a.attnum
			WHERE o.relkind = 'r'
			UNION ALL
			SELECT format('%s %s %s', CASE o.relkind WHEN 'S' THEN 'sequence' WHEN 'v' THEN 'view' ELSE 'relation' END, o.name, o.relpersistence)
			FROM ours o WHERE o.relkind NOT IN ('i', 't')
			UNION ALL
			SELECT format('constraint %s.%I %s', o.name, k.conname, pg_get_constraintdef(k.oid))
			FROM ours o JOIN pg_constraint k ON k.conrelid = o.oid WHERE k.contype <> 'n'
			UNION ALL
			SELECT format('index %s', pg_get_indexdef(i.indexrelid))
			FROM ours o JOIN pg_index i ON i.indrelid = o.oid
			UNION ALL
			SELECT format('trigger %s %s', pg_get_triggerdef(t.oid), t.tgenabled)
			FROM ours o JOIN pg_trigger t ON t.tgrelid = o.oid WHERE NOT t.tgisinternal
			UNION ALL
			SELECT format('function %s %s', p.oid::regprocedure, md5(p.prosrc))
			FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
			WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'ouvira_move')
		) l ORDER BY line COLLATE "C"`)
	if err != nil {
		return nil, inside.Explain(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, inside.Explain(err)
	}
	return lines, nil
}
