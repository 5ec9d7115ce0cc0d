package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// connections to a server: one in postgres, one that visits the databases.
const connections = 2

const (
	// atOnce is how many servers are looked at at the same time.
	atOnce = 4
	// seatPatience bounds the wait for the connections to a server, and patience the
	// whole look at it: each database is visited, and a server holds hundreds.
	seatPatience = 15 * time.Second
	patience     = 5 * time.Minute
)

// errBusy: no connection to the server was free for the look.
var errBusy = errors.New("no connection to the server is free")

// Look compares every server that is not offline. A server that cannot be
// reached is a finding, not an error. Errors: those of the control database.
func (s *Service) Look(ctx context.Context) (Report, error) {
	servers, err := s.servers.List(ctx)
	if err != nil {
		return Report{}, err
	}
	return s.lookAt(ctx, slices.DeleteFunc(servers, func(srv server.Server) bool { return srv.Status == "offline" }))
}

// LookAt compares one server, by its id or name. Errors: as Look, fault.NotFound, and
// fault.Conflict for one that is offline.
func (s *Service) LookAt(ctx context.Context, idOrName string) (Report, error) {
	srv, err := s.servers.Find(ctx, idOrName)
	if err != nil {
		return Report{}, err
	}
	if srv.Status == "offline" {
		return Report{}, fault.Conflict("Server " + srv.Name + " is offline: nobody looks at it. Allowed now: activate it.").Code("server_offline")
	}
	return s.lookAt(ctx, []server.Server{srv})
}

func (s *Service) lookAt(ctx context.Context, servers []server.Server) (Report, error) {
	at := time.Now().UTC()
	parts := make([]Report, len(servers))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i, srv := range servers {
		group.Go(func() (err error) {
			parts[i], err = s.part(ctx, srv)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return Report{}, err
	}
	whole := Report{Findings: []Finding{}, At: at, Servers: len(servers)}
	for _, part := range parts {
		whole.Tenants += part.Tenants
		whole.Findings = append(whole.Findings, part.Findings...)
	}
	return whole, nil
}

// part is what a look at one server finds.
func (s *Service) part(ctx context.Context, srv server.Server) (Report, error) {
	tenants, err := s.tenants(ctx, srv.ID)
	if err != nil {
		return Report{}, err
	}
	var report Report
	for _, t := range tenants {
		if !t.warm() {
			report.Tenants++
		}
	}
	c := comparison{server: srv, tenants: tenants}
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	switch err := s.visit(bounded, srv, &c, uuid.Nil); {
	case err == nil:
		c.compare()
	case ctx.Err() != nil:
		return Report{}, ctx.Err()
	default:
		s.log.WarnContext(ctx, "reconciler could not look at a server", "server", srv.Name, "error", err)
		if errors.Is(err, errBusy) {
			c.find("server_busy", SeverityError, nil, srv.Name, "The server could not be looked at: "+errBusy.Error()+".",
				"Let Ouvira have more of them (ouvira server set "+srv.Name+" --connections N), or look again when less is going on.")
			break
		}
		c.find("server_unreachable", SeverityError, nil, srv.Name, "The server could not be looked at: "+pg.Explain(err)+".",
			"Start the server, or correct its address or credential; then look again.")
	}
	report.Findings = c.findings
	return report, nil
}

// tenant is what the control database says.
type tenant struct {
	ID             uuid.UUID
	Status         string
	Incarnation    int
	Database       *string
	SchemaVersion  int64
	MaxConnections int
	Busy           bool   // an operation other than a repair is at work on it
	SigningKid     string // of the key that nodes are to sign with
}

// kept tells whether the tenant's database has to be complete.
func (t tenant) kept() bool { return t.Status == "active" || t.Status == "warm" || t.fenced() }

// fenced tells whether the tenant's role has to be.
func (t tenant) fenced() bool { return t.Status == "suspended" || t.Status == "deleted" }

// warm tells whether it is nobody's yet: an entry of the warm pool.
func (t tenant) warm() bool { return strings.HasPrefix(t.Status, "warm") }

func (t tenant) comment() string { return fmt.Sprintf("%s/%d", t.ID, t.Incarnation) }

func (s *Service) tenants(ctx context.Context, id uuid.UUID) ([]tenant, error) {
	// A rotated key that waits for the end of its tokens keeps nobody away.
	rows, err := s.db.Query(ctx, `
		SELECT t.id, t.status, t.incarnation, t.database_name, t.schema_version, p.max_connections,
		       EXISTS (SELECT FROM control.operations o WHERE o.tenant_id = t.id AND o.kind <> $2 AND o.status IN ('queued', 'running')
		               AND (o.exclusive OR o.kind <> 'tenant.rotate_key')),
		       COALESCE(t.signing_keys -> -1 ->> 'kid', '')
		FROM control.tenants t JOIN control.plans p ON p.id = t.plan_id
		WHERE t.server_id = $1
		UNION ALL
		SELECT w.id, CASE WHEN w.status = 'ready' THEN 'warm' ELSE 'warming' END, 1, w.database_name, w.schema_version, w.max_connections, false, ''
		FROM control.warm_databases w WHERE w.server_id = $1
		UNION ALL
		SELECT r.tenant_id, 'retired', r.incarnation, r.database_name, 0, 0, true, ''
		FROM control.retired_databases r WHERE r.server_id = $1 AND r.dropped_at IS NULL
		ORDER BY 1`, id, KindRepair)
	if err != nil {
		return nil, fmt.Errorf("read the tenants of a server: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[tenant])
}

// visit reads what the server holds; with a tenant, inside of its database only.
func (s *Service) visit(ctx context.Context, srv server.Server, c *comparison, only uuid.UUID) error {
	var err error
	if c.ended, err = s.ended(ctx); err != nil {
		return err
	}
	if c.moved, err = s.moved(ctx, srv.ID); err != nil {
		return err
	}
	if c.incarnations, err = s.incarnations(ctx); err != nil {
		return err
	}
	access, err := s.open(ctx, srv.ID)
	if err != nil {
		return err
	}
	defer access.Close()
	admin, err := access.Connect(ctx, server.Target{ApplicationName: "ouvira/reconcile"})
	if err != nil {
		return err
	}
	defer admin.Close(context.WithoutCancel(ctx))
	if err := c.read(ctx, admin); err != nil {
		return err
	}
	c.inside = map[string]inside{}
	for _, t := range c.tenants {
		if t.Database == nil || !t.kept() || only != uuid.Nil && t.ID != only {
			continue
		}
		if d, there := c.databases[*t.Database]; !there || !d.Open || d.Limit == invalidDatabase {
			continue
		}
		c.inside[*t.Database] = look(ctx, access, *t.Database)
	}
	return nil
}

// open waits for the connections to a server, for a bounded time.
func (s *Service) open(ctx context.Context, id uuid.UUID) (*server.Access, error) {
	bounded, cancel := context.WithTimeout(ctx, s.seatPatience)
	defer cancel()
	access, err := s.servers.Open(bounded, id, connections)
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		return nil, errors.Join(errBusy, err)
	}
	return access, err
}

// ended are the names that tenants have had which have nothing any more. One that
// an operation is at work for is not among them.
func (s *Service) ended(ctx context.Context) (map[string]tenantdb.Database, error) {
	rows, err := s.db.Query(ctx, `
		SELECT t.id, n
		FROM control.tenants t CROSS JOIN generate_series(1, t.incarnation) n
		WHERE t.status IN ('purged', 'failed') AND NOT EXISTS (
		    SELECT FROM control.operations o WHERE o.tenant_id = t.id AND o.kind <> $1 AND o.status IN ('queued', 'running'))`, KindRepair)
	if err != nil {
		return nil, fmt.Errorf("read the tenants that have ended: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[tenantdb.Database])
	if err != nil {
		return nil, fmt.Errorf("read the tenants that have ended: %w", err)
	}
	ended := make(map[string]tenantdb.Database, len(all))
	for _, d := range all {
		ended[d.Name()] = d
	}
	return ended, nil
}

// incarnations are those of all tenants, and of what is being kept ready for some.
func (s *Service) incarnations(ctx context.Context) (map[uuid.UUID]int, error) {
	rows, err := s.db.Query(ctx, "SELECT id, incarnation FROM control.tenants UNION ALL SELECT id, 1 FROM control.warm_databases")
	if err != nil {
		return nil, fmt.Errorf("read the tenants: %w", err)
	}
	all := map[uuid.UUID]int{}
	var id uuid.UUID
	var n int
	if _, err := pgx.ForEachRow(rows, []any{&id, &n}, func() error { all[id] = n; return nil }); err != nil {
		return nil, fmt.Errorf("read the tenants: %w", err)
	}
	return all, nil
}

// moved are the names of what moves and restores are bringing to the server, and of
// what moves have left there and is kept for a while: they are those operations'
// business.
func (s *Service) moved(ctx context.Context, id uuid.UUID) ([]string, error) {
	rows, err := s.db.Query(ctx, `
		SELECT tenant_id, target_incarnation FROM control.moves WHERE target_id = $1 AND switched_at IS NULL AND aborted_at IS NULL
		UNION SELECT tenant_id, source_incarnation FROM control.moves WHERE source_id = $1 AND switched_at IS NOT NULL AND dropped_at IS NULL
		UNION SELECT r.tenant_id, r.incarnation FROM control.restores r JOIN control.tenants t ON t.id = r.tenant_id
		      JOIN control.operations o ON o.id = r.operation_id AND o.status IN ('queued', 'running') WHERE t.server_id = $1`, id)
	if err != nil {
		return nil, fmt.Errorf("read the moves of a server: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[tenantdb.Database])
	if err != nil {
		return nil, fmt.Errorf("read the moves of a server: %w", err)
	}
	names := make([]string, 0, len(all))
	for _, d := range all {
		names = append(names, d.Name())
	}
	return names, nil
}

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
