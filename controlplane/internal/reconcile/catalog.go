package reconcile

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/pg"
)

// inside is what a tenant's database says about itself.
type inside struct {
	tenant      uuid.UUID
	incarnation int
	version     int64
	dirty       bool
	kids        []string // of the keys that nodes can sign with
	foreign     []string // what can run code or reach elsewhere, and is not ours
	err         error
}

func look(ctx context.Context, access *server.Access, database string) (found inside) {
	conn, err := access.Connect(ctx, server.Target{Database: database, Role: migrations.OwnerRole, ApplicationName: "ouvira/reconcile"})
	if err != nil {
		return inside{err: err}
	}
	defer conn.Close(context.WithoutCancel(ctx))
	found.err = conn.QueryRow(ctx, `
		SELECT m.tenant_id, m.incarnation, v.version, v.dirty,
		       ARRAY (SELECT kid FROM ouvira.signing_keys WHERE retired_at IS NULL AND private_sealed <> '')
		FROM ouvira.marker m CROSS JOIN ouvira.schema_migrations v`).
		Scan(&found.tenant, &found.incarnation, &found.version, &found.dirty, &found.kids)
	if found.err == nil {
		found.foreign, found.err = collect[string](ctx, conn, pgx.RowTo[string], foreign)
	}
	return found
}

// foreign lists what no tenant's database has: whatever reaches other servers or the
// machine, fires by itself, or is somebody else's to change. Functions in ouvira_move
// are the server's.
const foreign = `
	SELECT 'extension ' || extname FROM pg_extension WHERE extname <> 'plpgsql'
	UNION ALL SELECT 'language ' || lanname FROM pg_language WHERE lanispl AND lanname <> 'plpgsql'
	UNION ALL SELECT 'foreign data wrapper ' || fdwname FROM pg_foreign_data_wrapper
	UNION ALL SELECT 'foreign server ' || srvname FROM pg_foreign_server
	UNION ALL SELECT 'event trigger ' || evtname FROM pg_event_trigger
	UNION ALL SELECT 'function ' || oid::regprocedure FROM pg_proc
	    WHERE pronamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema', 'ouvira_move')
	      AND (proowner <> 'ouvira_owner'::regrole OR prolang NOT IN (SELECT oid FROM pg_language WHERE lanname IN ('sql', 'plpgsql')))
	UNION ALL SELECT 'relation ' || oid::regclass FROM pg_class
	    WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND relowner <> 'ouvira_owner'::regrole
	      AND relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema') AND relnamespace::regnamespace::text !~ '^pg_(toast|temp)'
	ORDER BY 1`

// invalidDatabase is datconnlimit of a database whose DROP was interrupted.
const invalidDatabase = -2

// database as the server lists it.
type database struct {
	Name     string
	Open     bool
	Limit    int
	Owner    string
	Comment  string
	Public   bool     // PUBLIC has any right in it
	CanEnter []string // roles with CONNECT granted by name
}

// role is a login role of a tenant.
type role struct {
	Name        string
	CanLogin    bool
	Limit       int
	Superuser   bool
	Memberships []string
	AsMade      bool // its settings are those that it was given, and no others
}

// read asks for directories first: one that belongs to a database made in
// between is then not taken for an orphan.
func (c *comparison) read(ctx context.Context, q pg.Querier) error {
	var err error
	if c.unprepared, err = server.Unprepared(ctx, q); err != nil {
		return err
	}
	if c.directories, err = collect[int64](ctx, q, pgx.RowTo[int64], `
		SELECT d::bigint FROM pg_ls_dir('base', true, false) d
		WHERE d ~ '^[0-9]+$' AND NOT EXISTS (
		    SELECT FROM pg_stat_activity WHERE state = 'active' AND query ILIKE 'CREATE DATABASE%')`); err != nil {
		return err
	}
	if c.oids, err = collect[int64](ctx, q, pgx.RowTo[int64], "SELECT oid::bigint FROM pg_database"); err != nil {
		return err
	}
	databases, err := collect[database](ctx, q, pgx.RowToStructByPos[database], `
		SELECT d.datname, d.datallowconn, d.datconnlimit, pg_get_userbyid(d.datdba), COALESCE(shobj_description(d.oid, 'pg_database'), ''),
		       EXISTS (SELECT FROM aclexplode(COALESCE(d.datacl, acldefault('d', d.datdba))) a WHERE a.grantee = 0),
		       ARRAY(SELECT r.rolname::text FROM aclexplode(d.datacl) a JOIN pg_roles r ON r.oid = a.grantee
		             WHERE a.privilege_type = 'CONNECT' AND a.grantee <> d.datdba ORDER BY 1)
		FROM pg_database d ORDER BY d.datname`)
	if err != nil {
		return err
	}
	c.databases = make(map[string]database, len(databases))
	for _, d := range databases {
		c.databases[d.Name] = d
	}
	roles, err := collect[role](ctx, q, pgx.RowToStructByPos[role], `
		SELECT r.rolname, r.rolcanlogin, r.rolconnlimit, r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication OR r.rolbypassrls,
		       ARRAY(SELECT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid ORDER BY 1),
		       COALESCE(r.rolconfig::text, '') = '`+tenantdb.Settings+`'
		       AND NOT EXISTS (SELECT FROM pg_db_role_setting s WHERE s.setrole = r.oid AND s.setdatabase <> 0)
		FROM pg_roles r WHERE r.rolname ~ '^ov_[0-9a-f]{20}$' ORDER BY r.rolname`)
	if err != nil {
		return err
	}
	c.roles = make(map[string]role, len(roles))
	for _, r := range roles {
		c.roles[r.Name] = r
	}
	return c.watch(ctx, q)
}

// watch asks what only a superuser may look up. A server that an earlier release has
// prepared does not tell.
func (c *comparison) watch(ctx context.Context, q pg.Querier) error {
	err := q.QueryRow(ctx, "SELECT to_regproc('ouvira_watch.changed_passwords') IS NOT NULL").Scan(&c.watched)
	if pg.Code(err) == pg.CodeInsufficientRights { // of the schema
		err = nil
	}
	if err != nil || !c.watched {
		return err
	}
	if c.trusted, err = collect[trusted](ctx, q, pgx.RowToStructByPos[trusted], "SELECT line, rule, loopback FROM ouvira_watch.trusted()"); err != nil {
		return err
	}
	c.passwords, err = collect[string](ctx, q, pgx.RowTo[string], "SELECT name FROM ouvira_watch.changed_passwords() AS name")
	return err
}

// trusted is a rule of pg_hba.conf by which somebody is let in without a password.
type trusted struct {
	Line     int
	Rule     string
	Loopback bool
}

func collect[T any](ctx context.Context, q pg.Querier, into pgx.RowToFunc[T], sql string) ([]T, error) {
	rows, err := q.Query(ctx, sql)
	if err != nil {
		return nil, fmt.Errorf("look at the server: %w", err)
	}
	return pgx.CollectRows(rows, into)
}
