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
