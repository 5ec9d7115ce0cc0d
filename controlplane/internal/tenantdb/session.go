package tenantdb

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/shared/pause"
	"github.com/ouvira/ouvira/shared/pg"
)

const (
	// evictTimeout bounds the wait for the connections of earlier runs to end.
	evictTimeout = 5 * time.Second
	pollEvery    = 50 * time.Millisecond
)

// Session is a connection to a tenant server whose errors say how the operation
// goes on. What it is asked, it is mostly asked once: nothing is prepared.
type Session struct {
	conn   *pgx.Conn
	server string
}

// Conn is the connection itself, for what Exec and Scan cannot do. Have its
// errors explained.
func (s *Session) Conn() *pgx.Conn { return s.conn }

// Server is the name of the server, for people.
func (s *Session) Server() string { return s.server }

// evict ends the sessions of the operation's runs before the epoch and waits until
// they are gone: what they had begun is then either committed or rolled back.
func (s *Session) evict(ctx context.Context, run *operation.Run, before int64) error {
	ctx, cancel := context.WithTimeout(ctx, evictTimeout)
	defer cancel()
	for {
		var left int
		err := s.Scan(ctx, []any{&left}, `
			SELECT count(pg_terminate_backend(pid))
			FROM pg_stat_activity
			WHERE starts_with(application_name, $1) AND split_part(application_name, '/', 4)::bigint < $2
			  AND pid <> pg_backend_pid()`,
			operation.ApplicationPrefix+run.ID.String()+"/", before)
		if err != nil || left == 0 {
			return err
		}
		if !pause.For(ctx, pollEvery) {
			return operation.Later("earlier_run", "A connection of an earlier run does not end on server "+s.server+".", "It is tried again.")
		}
	}
}

// Exec runs a statement in autocommit.
func (s *Session) Exec(ctx context.Context, sql string, args ...any) error {
	if _, err := s.conn.Exec(ctx, sql, once(args)...); err != nil {
		return s.Explain(err)
	}
	return nil
}

// ExecAll runs statements in one message and one commit.
func (s *Session) ExecAll(ctx context.Context, statements ...string) error {
	// Only the simple protocol takes more than one statement.
	return s.Exec(ctx, strings.Join(statements, "; "), pgx.QueryExecModeSimpleProtocol)
}

// once spares a statement the trip that prepares it, unless its caller has a mode of
// its own.
func once(args []any) []any {
	if len(args) > 0 {
		if _, ok := args[0].(pgx.QueryExecMode); ok {
			return args
		}
	}
	return append([]any{pgx.QueryExecModeExec}, args...)
}

// Scan reads one row. Errors: pgx.ErrNoRows.
func (s *Session) Scan(ctx context.Context, into []any, sql string, args ...any) error {
	err := s.conn.QueryRow(ctx, sql, once(args)...).Scan(into...)
	if err == nil || errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	return s.Explain(err)
}

func (s *Session) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx)
}

// Explain turns what a tenant server said into how the operation goes on:
// states of the server pass, refusals stay.
func (s *Session) Explain(err error) error {
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
		return operation.Fail("server_refused", "Server "+s.server+" refused a step (SQLSTATE "+code+").",
			"Read the worker's log, remove the cause, then retry.").Because(err)
	}
	return fmt.Errorf("server %s: %w", s.server, err)
}
