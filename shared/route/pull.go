package route

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/shared/pg"
)

// Clock is the state of the route table: how many changes it has seen, and
// which Postgres history counted them. After a restore or a failover the
// history differs and the version may have run back.
type Clock struct {
	Version          int64
	SystemIdentifier int64
	Timeline         int32
}

// SameHistory tells whether versions of both clocks can be compared.
func (c Clock) SameHistory(other Clock) bool {
	return c.SystemIdentifier == other.SystemIdentifier && c.Timeline == other.Timeline
}

// Changes is what one pull brought.
type Changes struct {
	Clock   Clock
	Servers []*Server
	Routes  []*Route
	Full    bool // everything there is, not only what is newer
	// Broken says which routes could not be read whole. They are among Routes,
	// under maintenance: one tenant's broken row must not keep the changes of
	// all others (a suspension, say) from arriving.
	Broken []error
}

const selectServers = `
SELECT id, version, name, host, port, tls_mode, tls_ca, max_connections, status
FROM node.servers_v1 WHERE version > $1`

const selectRoutes = `
SELECT tenant_id, version, deleted, slug, hosts, custom_primary, status, mode, token_epoch, schema_version,
       incarnation, server_id, COALESCE(database_name, ''), COALESCE(credential, ''), max_connections,
       statement_timeout_ms, settings, signing_keys
FROM node.routes_v1 WHERE version > $1`

// Pull reads what has changed since last, or everything when last belongs to
// another history or is the zero Clock. known resolves servers that have not
// changed. One snapshot answers all of it: the clock's row lock is held to
// commit, so a snapshot that shows version N shows all changes up to N.
func Pull(ctx context.Context, db pg.Beginner, last Clock, known func(uuid.UUID) *Server) (Changes, error) {
	tx, err := db.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return Changes{}, fmt.Errorf("pull routes: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()

	var c Changes
	err = tx.QueryRow(ctx, "SELECT version, system_identifier, timeline FROM node.clock()").
		Scan(&c.Clock.Version, &c.Clock.SystemIdentifier, &c.Clock.Timeline)
	if err != nil {
		return Changes{}, fmt.Errorf("read the route clock: %w", err)
	}
	since := last.Version
	if !c.Clock.SameHistory(last) || c.Clock.Version < last.Version {
		since, c.Full = -1, true
	} else if c.Clock.Version == last.Version {
		return c, nil
	}
	if err := c.readServers(ctx, tx, since); err != nil {
		return Changes{}, err
	}
	if err := c.readRoutes(ctx, tx, since, known); err != nil {
		return Changes{}, err
	}
	return c, nil
}

func (c *Changes) readServers(ctx context.Context, tx pgx.Tx, since int64) error {
	rows, err := tx.Query(ctx, selectServers, since)
	if err != nil {
		return fmt.Errorf("read servers: %w", err)
	}
	c.Servers, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (*Server, error) {
		var s Server
		err := row.Scan(&s.ID, &s.Version, &s.Name, &s.Host, &s.Port, &s.TLSMode, &s.TLSCA, &s.MaxConnections, &s.Status)
		return &s, err
	})
	if err != nil {
		return fmt.Errorf("read servers: %w", err)
	}
	return nil
}

func (c *Changes) readRoutes(ctx context.Context, tx pgx.Tx, since int64, known func(uuid.UUID) *Server) error {
	fresh := make(map[uuid.UUID]*Server, len(c.Servers))
	for _, s := range c.Servers {
		fresh[s.ID] = s
	}
	rows, err := tx.Query(ctx, selectRoutes, since)
	if err != nil {
		return fmt.Errorf("read routes: %w", err)
	}
	c.Routes, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (*Route, error) {
		r, broken, err := scanRoute(row, func(id uuid.UUID) *Server {
			if s, ok := fresh[id]; ok {
				return s
			}
			return known(id)
		})
		if broken != nil {
			c.Broken = append(c.Broken, fmt.Errorf("the route of tenant %s: %w", r.TenantID, broken))
		}
		return r, err
	})
	if err != nil {
		return fmt.Errorf("read routes: %w", err)
	}
	return nil
}

// scanRoute reads a row; broken says what of it could not be read.
func scanRoute(row pgx.CollectableRow, server func(uuid.UUID) *Server) (r *Route, broken, err error) {
	r = &Route{}
	var (
		serverID       *uuid.UUID
		timeoutMillis  int64
		settings, keys []byte
	)
	err = row.Scan(&r.TenantID, &r.Version, &r.Deleted, &r.Slug, &r.Hosts, &r.CustomPrimary, &r.Status, &r.Mode,
		&r.TokenEpoch, &r.SchemaVersion, &r.Incarnation, &serverID, &r.Database, &r.Credential, &r.MaxConnections,
		&timeoutMillis, &settings, &keys)
	if err != nil {
		return nil, nil, err
	}
	r.StatementTimeout = time.Duration(timeoutMillis) * time.Millisecond
	if serverID != nil {
		r.Server = server(*serverID)
	}
	if r.Server == nil && !r.Deleted {
		broken = errors.New("it names no known server")
		r.Server = &Server{Name: "unknown"}
	}
	var err1, err2 error
	r.Settings, err1 = decodeJSON[Settings](settings)
	r.Keys, err2 = decodeJSON[[]JWK](keys)
	if broken = errors.Join(broken, err1, err2); broken != nil {
		r.Mode = ModeMaintenance
	}
	return r, broken, nil
}
