// Package server keeps the Postgres servers that hold tenants: how they are
// added and prepared, how much room they have, and how the control plane's
// provisioner connects to them.
//
// Invariants:
//   - a Postgres server is known once (its system identifier is unique), and
//     the control database's own server never holds tenants;
//   - of credentials only the provisioner's is stored, sealed with the control
//     key for this server's id; nothing returns it;
//   - a change is published to the nodes in the transaction that makes it;
//   - this process holds no more connections to a server than it has leased of
//     the server's budget;
//   - what an instance holds that nobody hears of any more is given to others only
//     when it has been fenced at the server: see Reclaimer.
package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/shared/budget"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/seal"
)

// Server is a Postgres server as operators see it. It holds no credentials.
type Server struct {
	ID        uuid.UUID `json:"id"`
	Name      string    `json:"name"`
	Host      string    `json:"host"`
	Port      int       `json:"port"`
	TLSMode   string    `json:"tls_mode"`
	Region    string    `json:"region"`
	Status    string    `json:"status"` // active, draining, offline
	Version   int       `json:"postgres_version"`
	Capacity  Capacity  `json:"capacity"`
	Stored    int64     `json:"stored_bytes"` // by all of them, as it was seen last
	Databases int       `json:"databases"`    // in use: those of tenants, of the warm pool, and what moves bring or have left
	Tenants   int       `json:"tenants"`      // what a drain has to move
	Free      int       `json:"free"`         // databases that still fit
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// Capacity is what a server may be asked to hold.
type Capacity struct {
	Databases   int `json:"databases"`
	Connections int `json:"connections"` // backends of ours, all processes together
	StorageMB   int `json:"storage_mb"`  // 0: it was not said
}

// Bytes is StorageMB in bytes.
func (c Capacity) Bytes() int64 { return int64(c.StorageMB) << 20 }

// TLS says how to connect. Mode is disable, require, verify-ca or verify-full;
// "" takes sslmode of the URL. CA is PEM; "" trusts the system's roots.
type TLS struct {
	Mode string `json:"mode"`
	CA   string `json:"ca"`
}

// New describes a server to add. URL is that of a superuser (the server is
// prepared, and the credentials are forgotten), or of ouvira_provisioner on a
// server that was prepared before.
type New struct {
	Name     string
	URL      string
	Region   string
	Capacity Capacity
	TLS      TLS
}

// Options of NewService; the zero value is usable.
type Options struct {
	// Production refuses a TLS mode below verify-full.
	Production bool
	// Budget is this process's part of the servers' connection budgets; nil: all
	// of them.
	Budget Budget
}

// Service knows the servers. It may be used by several goroutines.
type Service struct {
	db      pg.DB
	key     *seal.ControlKey
	log     *slog.Logger
	options Options
	seats   *seats
}

// NewService makes the room.
func NewService(db pg.DB, key *seal.ControlKey, log *slog.Logger, o Options) *Service {
	if o.Budget == nil {
		o.Budget = all{}
	}
	return &Service{db: db, key: key, log: log, options: o, seats: newSeats(o.Budget)}
}

// Connections are those that this process holds: what the lease of its share is
// for.
func (s *Service) Connections() budget.Holder { return s.seats }

// databases are those that take a place on a server: of tenants, of the warm pool,
// those that moves are bringing, and those that they have left and that are kept
// for a while.
const databases = `
	SELECT server_id FROM control.tenants WHERE server_id IS NOT NULL
	UNION ALL SELECT server_id FROM control.warm_databases
	UNION ALL SELECT target_id FROM control.moves WHERE switched_at IS NULL AND aborted_at IS NULL
	UNION ALL SELECT source_id FROM control.moves WHERE switched_at IS NOT NULL AND dropped_at IS NULL`

// stored is whose data takes room on a server: tenants', what moves bring and have
// left, and what was replaced by a restore.
const stored = `
	SELECT server_id, id AS tenant_id FROM control.tenants WHERE server_id IS NOT NULL
	UNION ALL SELECT target_id, tenant_id FROM control.moves WHERE switched_at IS NULL AND aborted_at IS NULL
	UNION ALL SELECT source_id, tenant_id FROM control.moves WHERE switched_at IS NOT NULL AND dropped_at IS NULL
	UNION ALL SELECT server_id, tenant_id FROM control.retired_databases WHERE dropped_at IS NULL`

const selectServers = `
	SELECT s.id, s.name, s.host, s.port, s.tls_mode, s.region, s.status, s.postgres_version,
	       s.max_databases, s.max_connections, s.max_storage_mb, u.used,
	       (SELECT COALESCE(sum(z.bytes), 0)::bigint FROM (` + stored + `) d JOIN control.tenant_sizes z USING (tenant_id) WHERE d.server_id = s.id),
	       (SELECT count(*) FROM control.tenants t WHERE t.server_id = s.id), s.created_at, s.updated_at
	FROM control.servers s
	CROSS JOIN LATERAL (SELECT count(*) AS used FROM (` + databases + `) d WHERE d.server_id = s.id) u`

func scanServer(row pgx.CollectableRow) (Server, error) {
	var s Server
	err := row.Scan(&s.ID, &s.Name, &s.Host, &s.Port, &s.TLSMode, &s.Region, &s.Status, &s.Version,
		&s.Capacity.Databases, &s.Capacity.Connections, &s.Capacity.StorageMB, &s.Databases, &s.Stored, &s.Tenants, &s.CreatedAt, &s.UpdatedAt)
	s.Free = max(0, s.Capacity.Databases-s.Databases)
	return s, err
}

// List returns all servers with their use, by name.
func (s *Service) List(ctx context.Context) ([]Server, error) {
	rows, err := s.db.Query(ctx, selectServers+" ORDER BY s.name")
	if err != nil {
		return nil, fmt.Errorf("list servers: %w", err)
	}
	return pgx.CollectRows(rows, scanServer)
}

// Get reads one server. Errors: fault.NotFound.
func (s *Service) Get(ctx context.Context, id uuid.UUID) (Server, error) {
	return getServer(ctx, s.db, id)
}

func getServer(ctx context.Context, q pg.Querier, id uuid.UUID) (Server, error) {
	rows, err := q.Query(ctx, selectServers+" WHERE s.id = $1", id)
	if err != nil {
		return Server{}, fmt.Errorf("read the server: %w", err)
	}
	return one(pgx.CollectExactlyOneRow(rows, scanServer))
}

// known reads what there is to know of a server without its use, which is added up over
// all its tenants: too much for each connection that is made. Errors: fault.NotFound.
func (s *Service) known(ctx context.Context, q pg.Querier, id uuid.UUID) (Server, error) {
	var k Server
	err := q.QueryRow(ctx, `
		SELECT id, name, host, port, tls_mode, region, status, postgres_version, max_databases, max_connections, max_storage_mb, created_at, updated_at
		FROM control.servers WHERE id = $1`, id).
		Scan(&k.ID, &k.Name, &k.Host, &k.Port, &k.TLSMode, &k.Region, &k.Status, &k.Version,
			&k.Capacity.Databases, &k.Capacity.Connections, &k.Capacity.StorageMB, &k.CreatedAt, &k.UpdatedAt)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return Server{}, fmt.Errorf("read the server: %w", err)
	}
	return one(k, err)
}

// Find reads one server by its id or its name. Errors: fault.NotFound.
func (s *Service) Find(ctx context.Context, idOrName string) (Server, error) {
	return s.FindTx(ctx, s.db, idOrName)
}

// FindTx is Find inside the caller's transaction.
func (s *Service) FindTx(ctx context.Context, q pg.Querier, idOrName string) (Server, error) {
	if id, err := uuid.Parse(idOrName); err == nil {
		return getServer(ctx, q, id)
	}
	rows, err := q.Query(ctx, selectServers+" WHERE s.name = $1", idOrName)
	if err != nil {
		return Server{}, fmt.Errorf("read the server: %w", err)
	}
	return one(pgx.CollectExactlyOneRow(rows, scanServer))
}

func one(s Server, err error) (Server, error) {
	if errors.Is(err, pgx.ErrNoRows) {
		return Server{}, fault.NotFound("There is no such server.")
	}
	return s, err
}

// SetStatus makes a server active, draining or offline: tenants are placed on
// active ones only. also runs in the same transaction (audit) and may be nil.
func (s *Service) SetStatus(ctx context.Context, id uuid.UUID, status string, also func(tx pgx.Tx, s Server) error) (Server, error) {
	if err := checkStatus(status); err != nil {
		return Server{}, err
	}
	return pg.InTxValue(ctx, s.db, func(tx pgx.Tx) (Server, error) {
		if _, err := tx.Exec(ctx, "UPDATE control.servers SET status = $2, updated_at = now() WHERE id = $1", id, status); err != nil {
			return Server{}, fmt.Errorf("set the server's status: %w", err)
		}
		server, err := getServer(ctx, tx, id)
		if err != nil {
			return Server{}, err
		}
		if also != nil {
			if err := also(tx, server); err != nil {
				return Server{}, err
			}
		}
		return server, publish(ctx, tx, id)
	})
}

func checkStatus(status string) error {
	switch status {
	case "active", "draining", "offline":
		return nil
	}
	return fault.Invalid("This is no status of a server.").OnField("status", "invalid", "Use active, draining or offline.")
}

// publish comes last: it holds the route clock until the commit.
func publish(ctx context.Context, tx pgx.Tx, id uuid.UUID) error {
	if _, err := tx.Exec(ctx, "SELECT control.publish_server($1)", id); err != nil {
		return fmt.Errorf("publish the server: %w", err)
	}
	return nil
}

// Why Place finds no server.
var (
	ErrNoCapacity = errors.New("no server has room for another database")
	ErrUnknown    = errors.New("there is no such server")
)

// Place chooses the server for a new tenant and locks it until the caller's
// transaction ends: the active one with the largest free fraction, or the one
// that wanted names (id or name; "" for any). bytes is what the tenant brings, as far as
// is known. The caller then sets tenants.server_id. Errors: ErrNoCapacity, ErrUnknown.
func (s *Service) Place(ctx context.Context, tx pgx.Tx, wanted string, bytes int64) (uuid.UUID, error) {
	// All rows are locked in one order before any is counted, so that two
	// placements never take the same last seat.
	rows, err := tx.Query(ctx, `
		SELECT id, name, max_databases, status FROM control.servers ORDER BY id FOR UPDATE`)
	if err != nil {
		return uuid.Nil, fmt.Errorf("lock the servers: %w", err)
	}
	type candidate struct {
		ID     uuid.UUID
		Name   string
		Max    int
		Status string
	}
	servers, err := pgx.CollectRows(rows, pgx.RowToStructByPos[candidate])
	if err != nil {
		return uuid.Nil, fmt.Errorf("lock the servers: %w", err)
	}
	used := map[uuid.UUID]int{}
	rows, err = tx.Query(ctx, "SELECT server_id, count(*) FROM ("+databases+") d GROUP BY server_id")
	if err != nil {
		return uuid.Nil, fmt.Errorf("count the databases: %w", err)
	}
	var id uuid.UUID
	var n int
	if _, err := pgx.ForEachRow(rows, []any{&id, &n}, func() error { used[id] = n; return nil }); err != nil {
		return uuid.Nil, fmt.Errorf("count the databases: %w", err)
	}
	if wanted != "" {
		servers = slices.DeleteFunc(servers, func(c candidate) bool { return wanted != c.Name && wanted != c.ID.String() })
		if len(servers) == 0 {
			return uuid.Nil, ErrUnknown
		}
	}
	servers = slices.DeleteFunc(servers, func(c candidate) bool { return c.Status != "active" || c.Max <= used[c.ID] })
	free := func(c candidate) float64 { return float64(c.Max-used[c.ID]) / float64(c.Max) }
	slices.SortStableFunc(servers, func(a, b candidate) int { return cmp.Compare(free(b), free(a)) })
	// What a server stores is added up over its tenants, and all placements wait
	// meanwhile: of the best one alone, and of the next if that is full.
	for _, c := range servers {
		full, err := crowded(ctx, tx, c.ID, bytes)
		if err != nil {
			return uuid.Nil, err
		}
		if !full {
			return c.ID, nil
		}
	}
	return uuid.Nil, ErrNoCapacity
}

// crowded tells whether a server's storage would be more than full with so many bytes.
func crowded(ctx context.Context, tx pgx.Tx, server uuid.UUID, bytes int64) (full bool, err error) {
	err = tx.QueryRow(ctx, `
		SELECT s.max_storage_mb > 0 AND $2 + CASE WHEN s.max_storage_mb > 0 THEN
		           (SELECT COALESCE(sum(z.bytes), 0) FROM (`+stored+`) d JOIN control.tenant_sizes z USING (tenant_id) WHERE d.server_id = s.id) ELSE 0 END
		       > s.max_storage_mb * 1048576::bigint
		FROM control.servers s WHERE s.id = $1`, server, bytes).Scan(&full)
	if err != nil {
		return false, fmt.Errorf("add up what a server stores: %w", err)
	}
	return full, nil
}

// Seen is the size of a tenant's database as it was seen last; 0: it was not.
func Seen(ctx context.Context, q pg.Querier, tenant uuid.UUID) (bytes int64, err error) {
	if err := q.QueryRow(ctx, "SELECT control.seen_bytes($1)", tenant).Scan(&bytes); err != nil {
		return 0, fmt.Errorf("read the size of a tenant: %w", err)
	}
	return bytes, nil
}

// Lacks says with figures why so many bytes do not fit on the server; "" if they do.
func (s Server) Lacks(bytes int64) string {
	if s.Capacity.StorageMB == 0 || s.Stored+bytes <= s.Capacity.Bytes() {
		return ""
	}
	return fmt.Sprintf("Server %s has no room for %d MB more: it stores %d MB of %d MB.", s.Name, megabytes(bytes), megabytes(s.Stored), s.Capacity.StorageMB)
}

func megabytes(bytes int64) int64 { return (bytes + 1<<20 - 1) >> 20 }
