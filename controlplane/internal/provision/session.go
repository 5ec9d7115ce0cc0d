package provision

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/pg"
)

const (
	// ConnectionsPerRun is how many an operation may have: one in postgres, and one in the tenant's database or
	// the two that a migration takes.
	ConnectionsPerRun = 3
	// capacityPause is how long an operation without a place waits at least.
	capacityPause = time.Second
	// evictTimeout bounds the wait for the connections of earlier runs to end.
	evictTimeout = 5 * time.Second
	pollEvery    = 50 * time.Millisecond
)

// session is a connection to a tenant server whose errors say how the
// operation goes on.
type session struct {
	conn   *pgx.Conn
	server string
}

// connectAdmin opens the attempt's connection in database postgres, once. Its
// first act is the fence: sessions of earlier runs of this operation are ended;
// only then is the epoch checked again, so a run that was overtaken while it
// slept finds out before it acts, and one that acts was not overtaken.
func (a *attempt) connectAdmin(ctx context.Context) (*session, error) {
	if a.admin != nil {
		return a.admin, nil
	}
	if a.tenant.server == nil {
		return nil, errors.New("the tenant has no place yet")
	}
	if a.access == nil {
		access, err := a.s.servers.Open(ctx, *a.tenant.server, ConnectionsPerRun)
		if err != nil {
			return nil, err
		}
		a.access = access
	}
	admin, err := a.connect(ctx, server.Target{})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(admin.evict(ctx, a.run), a.run.Check(ctx)); err != nil {
		admin.close()
		return nil, err
	}
	if err := admin.exec(ctx, "SET lock_timeout = '2s'"); err != nil {
		admin.close()
		return nil, err
	}
	a.admin = admin
	return admin, nil
}

// connectInside opens the attempt's connection in the tenant's database, as its
// owner, once.
func (a *attempt) connectInside(ctx context.Context) (*session, error) {
	if a.inside != nil {
		return a.inside, nil
	}
	if _, err := a.connectAdmin(ctx); err != nil {
		return nil, err
	}
	inside, err := a.connect(ctx, server.Target{Database: a.name(), Role: migrations.OwnerRole})
	if err != nil {
		return nil, err
	}
	if err := a.run.Check(ctx); err != nil {
		inside.close()
		return nil, err
	}
	a.inside = inside
	return inside, nil
}

func (a *attempt) connect(ctx context.Context, t server.Target) (*session, error) {
	t.ApplicationName = a.run.ApplicationName()
	s := &session{server: a.access.Server.Name}
	conn, err := a.access.Connect(ctx, t)
	if err != nil {
		return nil, s.explain(err)
	}
	s.conn = conn
	return s, nil
}

// evict ends the sessions of earlier runs of the operation and waits until they
// are gone: what they had begun is then either committed or rolled back.
func (s *session) evict(ctx context.Context, run *operation.Run) error {
	ctx, cancel := context.WithTimeout(ctx, evictTimeout)
	defer cancel()
	for {
		var left int
		err := s.scan(ctx, []any{&left}, `
			SELECT count(pg_terminate_backend(pid))
			FROM pg_stat_activity
			WHERE starts_with(application_name, $1) AND split_part(application_name, '/', 4)::bigint < $2
			  AND pid <> pg_backend_pid()`,
			operation.ApplicationPrefix+run.ID.String()+"/", run.Epoch)
		if err != nil || left == 0 {
			return err
		}
		if !pause(ctx, pollEvery) {
			return operation.Later("earlier_run", "A connection of an earlier run does not end on server "+s.server+".", "It is tried again.")
		}
	}
}

// exec runs a statement in autocommit.
func (s *session) exec(ctx context.Context, sql string, args ...any) error {
	if _, err := s.conn.Exec(ctx, sql, args...); err != nil {
		return s.explain(err)
	}
	return nil
}

// execAll runs statements in one message and one commit.
func (s *session) execAll(ctx context.Context, statements ...string) error {
	// Only the simple protocol takes more than one statement.
	return s.exec(ctx, strings.Join(statements, "; "), pgx.QueryExecModeSimpleProtocol)
}

// scan reads one row. Errors: pgx.ErrNoRows.
func (s *session) scan(ctx context.Context, into []any, sql string, args ...any) error {
	err := s.conn.QueryRow(ctx, sql, args...).Scan(into...)
	if err == nil || errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	return s.explain(err)
}

func (s *session) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx)
}

// explain turns what a tenant server said into how the operation goes on:
// states of the server pass, refusals stay.
func (s *session) explain(err error) error {
	code := pg.Code(err)
	class := code[:min(2, len(code))]
	switch {
	case pg.IsConnect(err):
		return operation.Later("server_unreachable", "Server "+s.server+" cannot be used: "+pg.Explain(err)+".",
			"It is tried again; start the server, or correct its address or credential.").Because(err)
	case code == "" && (s.conn == nil || s.conn.IsClosed()), class == "08", strings.HasPrefix(code, "57P"):
		return operation.Later("server_lost", "The connection to server "+s.server+" was lost.",
			"It is tried again; see whether the server is up.").Because(err)
	case class == "40", class == "55", code == "XX000", code == pg.CodeQueryCanceled, code == pg.CodeTooManyConnections:
		return operation.Later("server_busy", "Server "+s.server+" was busy with something that excludes this step.", "It is tried again.").Because(err)
	case class == "53":
		return operation.Later("server_full", "Server "+s.server+" has run out of a resource.",
			"It is tried again; free disk or memory there.").Because(err)
	case code == pg.CodeReadOnlyTransaction:
		return operation.Later("server_read_only", "Server "+s.server+" accepts no writes: it is a replica.",
			"It is tried again; correct the server's address after a failover.").Because(err)
	case code == pg.CodeInsufficientRights:
		return operation.Fail("server_rights", "The provisioner lacks a right on server "+s.server+".",
			"Prepare the server again, then retry.").Because(err)
	case class == "22", class == "23", class == "42", class == "P0", class == "2B":
		return operation.Fail("server_refused", "Server "+s.server+" refused a step of the provisioning (SQLSTATE "+code+").",
			"Read the worker's log, remove the cause, then retry.").Because(err)
	}
	return fmt.Errorf("server %s: %w", s.server, err)
}

// pause waits; false says that ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
