package tenantdb

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/pause"
	"github.com/ouvira/ouvira/shared/pg"
)

// tempFileLimit keeps one tenant's queries from filling the disk; the tenant
// cannot change it.
const tempFileLimit = "256MB"

// Role makes the tenant's login role, or gives an existing one a new password and
// limit. verifier is a SCRAM verifier; the password behind it is stored already.
func (w *Work) Role(ctx context.Context, d Database, verifier string, limit int) error {
	// Postgres would take anything else for a plain password.
	if !pg.IsSCRAMVerifier(verifier) {
		return errors.New("the SCRAM verifier has not the shape Postgres knows")
	}
	admin, err := w.Admin(ctx)
	if err != nil {
		return err
	}
	verb := "CREATE"
	exists, err := admin.hasRole(ctx, d.Name())
	if err != nil {
		return err
	}
	if exists {
		verb = "ALTER"
	}
	join, err := admin.joinApp(ctx, d)
	if err != nil {
		return err
	}
	// One message, which the server commits as a whole without waiting for us:
	// an open transaction with a GRANT would block every other grant and fence of
	// the server.
	return admin.ExecAll(
		ctx,
		fmt.Sprintf("%s ROLE %s LOGIN CONNECTION LIMIT %d PASSWORD '%s'", verb, d.Quoted(), limit, verifier),
		remember(d, verifier),
		join,
		bound(d),
	)
}

// remember is the statement that says which password the role was given, so that
// another one is noticed (ouvira_watch.changed_passwords). Everybody can read the
// digest; the verifier in it has a salt of its own.
func remember(d Database, verifier string) string {
	return fmt.Sprintf("COMMENT ON ROLE %s IS 'sha256:%x'", d.Quoted(), sha256.Sum256([]byte(verifier)))
}

// Password gives the role a new password, and changes nothing else of it. It is stored
// already.
func (w *Work) Password(ctx context.Context, d Database, verifier string) error {
	if !pg.IsSCRAMVerifier(verifier) {
		return errors.New("the SCRAM verifier has not the shape Postgres knows")
	}
	admin, err := w.Admin(ctx)
	if err != nil {
		return err
	}
	return admin.ExecAll(ctx, fmt.Sprintf("ALTER ROLE %s PASSWORD '%s'", d.Quoted(), verifier), remember(d, verifier))
}

// Settings are what a role was given, as pg_roles.rolconfig shows it.
const Settings = "{temp_file_limit=" + tempFileLimit + "}"

// Bound gives the role the settings that it was made with, and no others: it can
// change its own.
func (w *Work) Bound(ctx context.Context, d Database) error {
	admin, err := w.Admin(ctx)
	if err != nil {
		return err
	}
	rows, err := admin.conn.Query(ctx, `
		SELECT d.datname FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase JOIN pg_roles r ON r.oid = s.setrole
		WHERE r.rolname = $1`, d.Name())
	if err != nil {
		return admin.Explain(err)
	}
	databases, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return admin.Explain(err)
	}
	statements := []string{"ALTER ROLE " + d.Quoted() + " RESET ALL", bound(d)}
	for _, name := range databases {
		statements = append(statements, "ALTER ROLE "+d.Quoted()+" IN DATABASE "+pgx.Identifier{name}.Sanitize()+" RESET ALL")
	}
	return admin.ExecAll(ctx, statements...)
}

func bound(d Database) string {
	return "ALTER ROLE " + d.Quoted() + " SET temp_file_limit = '" + tempFileLimit + "'"
}

func (s *Session) hasRole(ctx context.Context, name string) (exists bool, err error) {
	err = s.Scan(ctx, []any{&exists}, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", name)
	return exists, err
}

// Modern tells whether the server is Postgres 16 or later.
func (s *Session) Modern(ctx context.Context) (modern bool, err error) {
	err = s.Scan(ctx, []any{&modern}, "SELECT current_setting('server_version_num')::int >= 160000")
	return modern, err
}

// joinApp is the statement that makes the role a member of ouvira_app.
func (s *Session) joinApp(ctx context.Context, d Database) (string, error) {
	modern, err := s.Modern(ctx)
	if err != nil {
		return "", err
	}
	statement := "GRANT " + migrations.AppRole + " TO " + d.Quoted()
	if modern {
		statement += " WITH INHERIT TRUE, SET FALSE"
	}
	return statement, nil
}

// Alone calls act while no other session of ours changes the fence of the tenant's
// role. The order is decided elsewhere, by a lock on the tenant's row; still tells
// whether the caller has it. Whoever is found at work here has lost that lock and does
// not know it yet (its process stood still, or was cut off): its session is ended, and
// with it what it was about to do.
func (w *Work) Alone(ctx context.Context, d Database, still func(context.Context) error, act func() error) error {
	admin, err := w.Admin(ctx)
	if err != nil {
		return err
	}
	if err := still(ctx); err != nil { // or the one who has the lock would be ended
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, evictTimeout)
	defer cancel()
	name := "ouvira.fence/" + d.Name()
	for {
		var locked bool
		if err := admin.Scan(ctx, []any{&locked}, "SELECT pg_try_advisory_lock(hashtextextended($1, 0))", name); err != nil {
			return err
		}
		if locked {
			break
		}
		err := admin.Exec(ctx, `
			SELECT pg_terminate_backend(l.pid)
			FROM pg_locks l CROSS JOIN hashtextextended($1, 0) h
			WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted AND l.pid <> pg_backend_pid()
			  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
			  AND l.classid = ((h >> 32) & 4294967295)::oid AND l.objid = (h & 4294967295)::oid`, name)
		if err != nil {
			return err
		}
		if !pause.For(waiting, pollEvery/5) {
			return operation.Later("fence_at_work", "Another session at the tenant's fence does not end on server "+admin.server+".", "It is tried again.")
		}
	}
	err = still(ctx)
	if err == nil {
		err = act()
	}
	// A lost connection has lost the lock as well.
	unlockErr := admin.Exec(ctx, "SELECT pg_advisory_unlock(hashtextextended($1, 0))", name)
	if err != nil {
		return err
	}
	return unlockErr
}

// Fence shuts the tenant's role out: when it returns, no session of the role is
// left, none can do anything that is just connecting, and none can connect. It is
// put on the role and not on the database, which we need ourselves. A role that
// does not exist is fenced.
func (w *Work) Fence(ctx context.Context, d Database) error {
	admin, err := w.Admin(ctx)
	if err != nil {
		return err
	}
	exists, err := admin.hasRole(ctx, d.Name())
	if err != nil || !exists {
		return err
	}
	// First the rights, in a commit of its own: a session in the middle of
	// connecting can do nothing any more.
	for _, statement := range []string{
		"REVOKE " + migrations.AppRole + " FROM " + d.Quoted(),
		"ALTER ROLE " + d.Quoted() + " NOLOGIN CONNECTION LIMIT 0",
	} {
		if err := admin.pressing(ctx, d, statement); err != nil {
			return err
		}
	}
	waiting, cancel := context.WithTimeout(ctx, evictTimeout)
	defer cancel()
	for empty := 0; empty < 2; {
		left, err := admin.terminate(ctx, d)
		if err != nil {
			return err
		}
		if left == 0 {
			empty++
		} else {
			empty = 0
		}
		if empty < 2 && !pause.For(waiting, pollEvery/5) {
			return operation.Later("sessions_remain", "Sessions of the tenant do not end on server "+admin.server+".", "It is tried again.")
		}
	}
	var member bool
	err = admin.Scan(ctx, []any{&member}, "SELECT pg_has_role($1::name, '"+migrations.AppRole+"', 'usage')", d.Name())
	if err == nil && member {
		return operation.Fail("fence_open", "The tenant's role on server "+admin.server+" keeps its rights: somebody else has granted them too.",
			"Revoke "+migrations.AppRole+" from "+d.Name()+" there as who granted it, then try again.")
	}
	return err
}

// pressing runs a statement that the tenant's own sessions may be in the way of.
func (s *Session) pressing(ctx context.Context, d Database, statement string) error {
	const tries = 10
	if err := s.Exec(ctx, "SET lock_timeout = '500ms'"); err != nil {
		return err
	}
	for range tries - 1 {
		_, err := s.conn.Exec(ctx, statement)
		switch pg.Code(err) {
		case "55P03", "XX000": // locked; changed by somebody else at the same time
			if _, err := s.terminate(ctx, d); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return s.Explain(err)
		}
		return nil
	}
	return s.Exec(ctx, statement)
}

// terminate ends the role's sessions, those that are only connecting included,
// and tells how many there were.
func (s *Session) terminate(ctx context.Context, d Database) (left int, err error) {
	err = s.Scan(ctx, []any{&left}, `
		SELECT count(pg_terminate_backend(pid)) FROM (
			SELECT pid FROM pg_stat_activity WHERE usename = $1 AND backend_type = 'client backend'
			UNION
			SELECT l.pid FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
			WHERE l.locktype = 'object' AND l.classid = 'pg_database'::regclass AND a.usename IS NULL
			  AND l.objid = (SELECT oid FROM pg_database WHERE datname = $1) AND l.pid <> pg_backend_pid()) s`, d.Name())
	return left, err
}

// Limit sets how many connections the role may have. Those that it has stay.
func (w *Work) Limit(ctx context.Context, d Database, limit int) error {
	admin, err := w.Admin(ctx)
	if err != nil {
		return err
	}
	return admin.Exec(ctx, fmt.Sprintf("ALTER ROLE %s CONNECTION LIMIT %d", d.Quoted(), limit))
}

// Unfence lets the role in again, with so many connections.
func (w *Work) Unfence(ctx context.Context, d Database, limit int) error {
	admin, err := w.Admin(ctx)
	if err != nil {
		return err
	}
	join, err := admin.joinApp(ctx, d)
	if err != nil {
		return err
	}
	if err := admin.Exec(ctx, join); err != nil {
		return err
	}
	return admin.Exec(ctx, fmt.Sprintf("ALTER ROLE %s LOGIN CONNECTION LIMIT %d", d.Quoted(), limit))
}
