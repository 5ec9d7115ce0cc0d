// Package tenantdb is what operations do to the database and the role of a tenant
// on a Postgres server: make, lock down, mark, fence, migrate, drop. What is made
// of these, in which order and when, is the business of the rooms that the engine
// runs (provision, backup, move, …).
//
// Invariants:
//   - names derive from the tenant and its incarnation, so that they are known
//     before anything exists under them;
//   - before a run acts on a server, the connections of earlier runs of the same
//     operation there are ended and the epoch is checked again;
//   - all methods are idempotent: each looks at what is there first;
//   - nothing is dropped, opened or closed that is not marked as the tenant's.
//
// Source of the SQL: the least-privilege recipe in docs/security.md.
package tenantdb

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/pg"
)

// Database is one incarnation of a tenant: a database, and a login role of the
// same name.
type Database struct {
	Tenant      uuid.UUID
	Incarnation int
}

// Name of the database and of its role.
func (d Database) Name() string { return Name(d.Tenant, d.Incarnation) }

// Name is that of a tenant's database and of its login role. It says nothing to
// other tenants, who can see it.
func Name(tenant uuid.UUID, incarnation int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "tenant-database/%s/%d", tenant, incarnation))
	return "ov_" + hex.EncodeToString(sum[:10])
}

// Quoted is the name as an SQL identifier.
func (d Database) Quoted() string { return pgx.Identifier{d.Name()}.Sanitize() }

// Mark is the comment on the database. Every tenant of the server can read it.
func (d Database) Mark() string { return fmt.Sprintf("%s/%d", d.Tenant, d.Incarnation) }

// ConnectionsPerRun is how many a Work may have open at once: one in postgres,
// and one in a tenant's database or the two that a migration takes.
const ConnectionsPerRun = 3

// Work is what a run has open on one server. It is used by one goroutine.
type Work struct {
	run     *operation.Run
	servers *server.Service
	id      uuid.UUID

	access *server.Access
	admin  *Session // in database postgres, as the provisioner
	inside *Session // in a tenant's database, as the owner
	where  Database // … which
	fenced bool     // sessions of earlier runs are ended
}

// On prepares work on a server; nothing is contacted yet. run is nil for what is
// not part of an operation. Close it.
func On(servers *server.Service, id uuid.UUID, run *operation.Run) *Work {
	return &Work{run: run, servers: servers, id: id}
}

// applicationName marks the connections, so that a later run can end them.
func (w *Work) applicationName() string {
	if w.run == nil {
		return "ouvira/control"
	}
	return w.run.ApplicationName()
}

// Check returns operation.ErrFenced when another run has taken over.
func (w *Work) Check(ctx context.Context) error {
	if w.run == nil {
		return nil
	}
	return w.run.Check(ctx)
}

// Admin opens the connection in database postgres, once.
func (w *Work) Admin(ctx context.Context) (*Session, error) {
	if w.admin != nil && !w.admin.conn.IsClosed() {
		return w.admin, nil
	}
	w.admin = nil
	admin, err := w.enter(ctx, server.Target{})
	if err != nil {
		return nil, err
	}
	if err := admin.Exec(ctx, "SET lock_timeout = '2s'"); err != nil {
		admin.close()
		return nil, err
	}
	w.admin = admin
	return admin, nil
}

// enter opens a connection as the provisioner. The first act of the first one is
// the fence of the operation: sessions of earlier runs are ended (the first run has
// none); only then is the epoch checked again, so a run that was overtaken while it
// slept finds out before it acts, and one that acts was not overtaken. What connects later need only be
// of a run that still has the epoch: an earlier one asks the same before it acts.
func (w *Work) enter(ctx context.Context, t server.Target) (*Session, error) {
	if err := w.Open(ctx); err != nil {
		return nil, err
	}
	s, err := w.connect(ctx, t)
	if err != nil {
		return nil, err
	}
	if w.run != nil && w.run.Epoch > 1 && !w.fenced {
		err = s.evict(ctx, w.run, w.run.Epoch)
	}
	if err := errors.Join(err, w.Check(ctx)); err != nil {
		s.close()
		return nil, err
	}
	w.fenced = true
	return s, nil
}

// Open takes the places for the connections out of this process's share, once.
func (w *Work) Open(ctx context.Context) error {
	if w.access != nil {
		return nil
	}
	access, err := w.servers.Open(ctx, w.id, ConnectionsPerRun)
	w.access = access
	return err
}

// Inside opens the connection in a tenant's database, as its owner, once.
func (w *Work) Inside(ctx context.Context, d Database) (*Session, error) {
	if w.inside != nil && w.where == d && !w.inside.conn.IsClosed() {
		return w.inside, nil
	}
	w.CloseInside()
	inside, err := w.enter(ctx, server.Target{Database: d.Name()})
	if err != nil {
		return nil, err
	}
	// The owner may end nobody's session, so it is the last that one becomes.
	if err := inside.Exec(ctx, "SET ROLE "+pgx.Identifier{migrations.OwnerRole}.Sanitize()); err != nil {
		inside.close()
		return nil, err
	}
	w.inside, w.where = inside, d
	return inside, nil
}

func (w *Work) connect(ctx context.Context, t server.Target) (*Session, error) {
	t.ApplicationName = w.applicationName()
	s := &Session{server: w.access.Server.Name}
	conn, err := w.access.Connect(ctx, t)
	if err != nil {
		return nil, s.Explain(err)
	}
	s.conn = conn
	return s, nil
}

// WithURL calls fn with a postgres:// URL into the database, for programs that
// connect themselves. role is the session's; "" stays the provisioner. The URL
// holds the password: use it, do not keep or log it.
func (w *Work) WithURL(ctx context.Context, database, role string, fn func(address string) error) error {
	if _, err := w.Admin(ctx); err != nil { // earlier runs are ended
		return err
	}
	return w.access.WithURL(server.Target{Database: database, Role: role, ApplicationName: w.applicationName()}, fn)
}

// Reconnect closes all connections and ends what they may still be doing at the
// server: after a statement was given up, before its opposite is asked for.
func (w *Work) Reconnect(ctx context.Context) error {
	w.disconnect() // and keep the places
	admin, err := w.Admin(ctx)
	if err != nil || w.run == nil {
		return err
	}
	return admin.evict(ctx, w.run, w.run.Epoch+1)
}

// Visit opens one more connection for fn: as the provisioner, who is not the
// owner, or as the mover. It is the third that a Work has beside Admin's and
// Inside's.
func (w *Work) Visit(ctx context.Context, t server.Target, fn func(*Session) error) error {
	if _, err := w.Admin(ctx); err != nil {
		return err
	}
	s, err := w.connect(ctx, t)
	if errors.Is(err, server.ErrNoMover) {
		return operation.Fail("not_prepared_for_moves", "Server "+w.access.Server.Name+" is not prepared for moves.",
			"Prepare it again (ouvira server prepare "+w.access.Server.Name+"), then move the tenant.")
	}
	if err != nil {
		return err
	}
	defer s.close()
	if err := w.Check(ctx); err != nil {
		return err
	}
	return fn(s)
}

// Replication is how another server reaches the database as the mover: a libpq
// connection string that holds a password. modern: that server is Postgres 16 or
// later.
func (w *Work) Replication(ctx context.Context, d Database, modern bool) (string, error) {
	if err := w.Open(ctx); err != nil {
		return "", err
	}
	return w.access.Replication(d.Name(), modern)
}

// Migrate brings a database to this release's schema version, as its owner. It
// takes two connections.
func (w *Work) Migrate(ctx context.Context, database string) error {
	return w.migrate(ctx, database, func(dsn string) error {
		_, err := migrations.Up(ctx, dsn, migrations.Tenant)
		return err
	})
}

func (w *Work) migrate(ctx context.Context, database string, up func(dsn string) error) error {
	w.CloseInside()
	err := w.WithURL(ctx, database, migrations.OwnerRole, up)
	if err == nil || ctx.Err() != nil {
		return err
	}
	// golang-migrate hides what Postgres said of a failing file in a text of its
	// own; what it shows is a connection or a lock.
	if pg.IsConnect(err) || pg.Code(err) != "" {
		return (&Session{server: w.access.Server.Name}).Explain(err)
	}
	return fmt.Errorf("migrate %s on server %s: %w", database, w.access.Server.Name, err)
}

// CatchUp brings the database to this release's schema version where it is behind,
// and tells the version that it has then.
func (w *Work) CatchUp(ctx context.Context, d Database) (version int64, err error) {
	latest, err := migrations.Tenant.Latest()
	if err != nil {
		return 0, err
	}
	version, dirty, err := w.version(ctx, d)
	if err != nil || (version >= int64(latest) && !dirty) {
		return version, err
	}
	if err := w.Migrate(ctx, d.Name()); err != nil {
		return 0, err
	}
	version, _, err = w.version(ctx, d)
	return version, err
}

// Upgrade is CatchUp for those who need not know the version.
func (w *Work) Upgrade(ctx context.Context, d Database) error {
	_, err := w.CatchUp(ctx, d)
	return err
}

func (w *Work) version(ctx context.Context, d Database) (version int64, dirty bool, err error) {
	inside, err := w.Inside(ctx, d)
	if err != nil {
		return 0, false, err
	}
	err = inside.Scan(ctx, []any{&version, &dirty}, "SELECT version, dirty FROM ouvira.schema_migrations")
	return version, dirty, err
}

// CloseInside closes the connection that Inside has opened.
func (w *Work) CloseInside() {
	if w.inside != nil {
		w.inside.close()
		w.inside = nil
	}
}

// Close closes all connections and gives their places back.
func (w *Work) Close() {
	w.disconnect()
	if w.access != nil {
		w.access.Close()
		w.access = nil
	}
}

func (w *Work) disconnect() {
	w.CloseInside()
	if w.admin != nil {
		w.admin.close()
		w.admin = nil
	}
}
