package provision

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/failpoint"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
)

// tempFileLimit keeps one tenant's queries from filling the disk; the tenant
// cannot change it.
const tempFileLimit = "256MB"

// role gives the tenant's login role a new password: stored first, sealed so
// that only a node can read it, then set as a verifier.
func (a *attempt) role(ctx context.Context) error {
	admin, err := a.connectAdmin(ctx)
	if err != nil {
		return err
	}
	password := pg.NewPassword()
	verifier, err := pg.SCRAMVerifier(password)
	if err != nil {
		return err
	}
	// Postgres would take anything else for a plain password.
	if !pg.IsSCRAMVerifier(verifier) {
		return errors.New("the SCRAM verifier has not the shape Postgres knows")
	}
	sealed, err := a.s.data.Seal([]byte(password), route.CredentialContext(a.run.TenantID, a.tenant.incarnation))
	if err != nil {
		return fmt.Errorf("seal the role's password: %w", err)
	}
	err = a.run.InTx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE control.tenants SET credential = $2, updated_at = now() WHERE id = $1 AND status = 'provisioning'", a.run.TenantID, sealed)
		return err
	})
	if err != nil {
		return fmt.Errorf("store the role's password: %w", err)
	}
	failpoint.Hit(ctx, failpointRoleStored)

	var exists, modern bool
	err = admin.scan(ctx, []any{&exists, &modern}, `
		SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1), current_setting('server_version_num')::int >= 160000`, a.name())
	if err != nil {
		return err
	}
	verb, membership := "CREATE", ""
	if exists {
		verb = "ALTER"
	}
	if modern {
		membership = " WITH INHERIT TRUE, SET FALSE"
	}
	// One message, which the server commits as a whole without waiting for us:
	// an open transaction with a GRANT would block every other grant and fence of
	// the server.
	return admin.execAll(
		ctx,
		fmt.Sprintf("%s ROLE %s LOGIN CONNECTION LIMIT %d PASSWORD '%s'", verb, a.quoted(), a.tenant.maxConnections, verifier),
		"GRANT "+migrations.AppRole+" TO "+a.quoted()+membership,
		"ALTER ROLE "+a.quoted()+" SET temp_file_limit = '"+tempFileLimit+"'",
	)
}

// found is a database that exists under the tenant's name.
type found struct {
	limit   int
	open    bool
	owner   string
	comment string
}

// droppedHalf: a DROP was interrupted, and only DROP works on it.
func (f *found) droppedHalf() bool { return f.limit == -2 }

// isOf tells whether the database is marked as the tenant's incarnation.
func (f *found) isOf(comment string) bool {
	return f.owner == migrations.OwnerRole && f.comment == comment
}

// unnamed: made, and the run died before it could mark it. It was never opened.
func (f *found) unnamed() bool {
	return f.owner == migrations.OwnerRole && f.comment == "" && !f.open
}

// lookup returns nil when there is no such database.
func (s *session) lookup(ctx context.Context, name string) (*found, error) {
	var f found
	err := s.scan(ctx, []any{&f.limit, &f.open, &f.owner, &f.comment}, `
		SELECT d.datconnlimit, d.datallowconn, pg_get_userbyid(d.datdba), COALESCE(shobj_description(d.oid, 'pg_database'), '')
		FROM pg_database d WHERE d.datname = $1`, name)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return &f, err
}

// database makes the tenant's database from the template, closed.
func (a *attempt) database(ctx context.Context) error {
	admin, err := a.connectAdmin(ctx)
	if err != nil {
		return err
	}
	template, err := a.template(ctx, admin)
	if err != nil {
		return err
	}
	// Looked at again after each change: what is there decides, not what the
	// last statement said.
	for range 4 {
		f, err := admin.lookup(ctx, a.name())
		if err != nil {
			return err
		}
		switch {
		case f == nil:
			err = a.create(ctx, admin, template)
		case f.droppedHalf():
			err = admin.exec(ctx, "DROP DATABASE IF EXISTS "+a.quoted())
		case f.isOf(a.comment()):
			return nil
		case f.unnamed():
			err = admin.exec(ctx, "COMMENT ON DATABASE "+a.quoted()+" IS '"+a.comment()+"'")
		default:
			err = operation.Fail("database_foreign", "A database of the tenant's name exists on server "+admin.server+" and is not the tenant's.",
				"Remove or rename it there, then retry.")
		}
		if err != nil {
			return err
		}
	}
	return errors.New("the database does not come to rest")
}

// creatingTimeout bounds the wait for another backend that creates the same
// database: a killed client's backend notices within half a second.
const creatingTimeout = 10 * time.Second

// create makes the database, once nobody else is at it. A loser of a race finds
// the winner's database when it looks again.
func (a *attempt) create(ctx context.Context, admin *session, template string) error {
	waiting, cancel := context.WithTimeout(ctx, creatingTimeout)
	defer cancel()
	statement := "CREATE DATABASE " + a.quoted()
	for {
		var busy bool
		err := admin.scan(ctx, []any{&busy}, `
			SELECT EXISTS (SELECT FROM pg_stat_activity
			               WHERE starts_with(query, $1) AND state = 'active' AND pid <> pg_backend_pid())`, statement+" ")
		if err != nil {
			return err
		}
		if !busy {
			break
		}
		if !pause(waiting, pollEvery) {
			return operation.Later("being_created", "Another connection is still creating the database on server "+admin.server+".", "It is tried again.")
		}
	}
	_, err := admin.conn.Exec(ctx, statement+" OWNER "+migrations.OwnerRole+" TEMPLATE "+template+" STRATEGY wal_log ALLOW_CONNECTIONS false")
	switch code := pg.Code(err); {
	case err == nil, code == pg.CodeDuplicateDatabase, code == pg.CodeUniqueViolation:
		return nil
	case code == pg.CodeInvalidCatalog:
		return operation.Later("template_gone", "The template vanished from server "+admin.server+".", "It is built again.").Because(err)
	default:
		return admin.explain(err)
	}
}

// lockdown takes everything from everybody else and opens the database, in one
// commit: nobody can connect to it in a state between. The tenant's role still
// may not.
func (a *attempt) lockdown(ctx context.Context) error {
	admin, err := a.connectAdmin(ctx)
	if err != nil {
		return err
	}
	return admin.execAll(
		ctx,
		"REVOKE ALL ON DATABASE "+a.quoted()+" FROM PUBLIC",
		"ALTER DATABASE "+a.quoted()+" SET client_connection_check_interval = '1s'",
		"ALTER DATABASE "+a.quoted()+" ALLOW_CONNECTIONS true",
	)
}

// migrate brings the database to this release's version. A database from the
// template is there already; one that was made before an upgrade is not.
func (a *attempt) migrate(ctx context.Context) error {
	latest, err := migrations.Tenant.Latest()
	if err != nil {
		return err
	}
	inside, err := a.connectInside(ctx)
	if err != nil {
		return err
	}
	var current bool
	err = inside.scan(ctx, []any{&current}, `
		SELECT EXISTS (SELECT FROM ouvira.schema_migrations WHERE version = $1 AND NOT dirty)`, int64(latest))
	if err != nil || current {
		return err
	}
	a.closeInside() // the migration takes two connections of its own
	return a.up(ctx, inside.server, a.name())
}

// up runs the tenant migrations in a database as its owner.
func (a *attempt) up(ctx context.Context, serverName, database string) error {
	err := a.access.WithURL(server.Target{
		Database: database, Role: migrations.OwnerRole, ApplicationName: a.run.ApplicationName(),
	}, func(dsn string) error {
		_, err := migrations.Up(ctx, dsn, migrations.Tenant)
		return err
	})
	if err == nil || ctx.Err() != nil {
		return err
	}
	// golang-migrate hides what Postgres said of a failing file in a text of its
	// own; what it shows is a connection or a lock.
	if pg.IsConnect(err) || pg.Code(err) != "" {
		return (&session{server: serverName}).explain(err)
	}
	return fmt.Errorf("migrate %s on server %s: %w", database, serverName, err)
}

// templatePrefix begins the names of templates; the fingerprint of the
// migrations follows.
const templatePrefix = "ouvira_template_"

// templateTimeout bounds the wait for another run that builds the template.
const templateTimeout = 30 * time.Second

// template returns the name of this release's template on the server and
// builds it when it is not there: under another name, renamed when complete.
func (a *attempt) template(ctx context.Context, admin *session) (string, error) {
	fingerprint, err := migrations.Tenant.Fingerprint()
	if err != nil {
		return "", err
	}
	name := templatePrefix + fingerprint[:16]
	if there, err := admin.hasTemplate(ctx, name); err != nil || there {
		return name, err
	}
	waiting, cancel := context.WithTimeout(ctx, templateTimeout)
	defer cancel()
	for {
		var locked bool
		if err := admin.scan(ctx, []any{&locked}, "SELECT pg_try_advisory_lock(hashtextextended('ouvira.template', 0))"); err != nil {
			return "", err
		}
		if locked {
			break
		}
		if !pause(waiting, pollEvery) {
			return "", operation.Later("template_building", "Another run builds the template on server "+admin.server+".", "It is tried again.")
		}
	}
	buildErr := a.buildTemplate(ctx, admin, name)
	// A lost connection has lost the lock as well.
	unlockErr := admin.exec(ctx, "SELECT pg_advisory_unlock(hashtextextended('ouvira.template', 0))")
	if buildErr != nil {
		return "", buildErr
	}
	return name, unlockErr
}

func (s *session) hasTemplate(ctx context.Context, name string) (bool, error) {
	var there bool
	err := s.scan(ctx, []any{&there}, `
		SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1 AND datistemplate AND NOT datallowconn)`, name)
	return there, err
}

// buildTemplate is called with the server's template lock held.
func (a *attempt) buildTemplate(ctx context.Context, admin *session, name string) error {
	if there, err := admin.hasTemplate(ctx, name); err != nil || there {
		return err
	}
	building := name + "_building"
	all := func(statements ...string) error {
		for _, s := range statements {
			if err := admin.exec(ctx, s); err != nil {
				return err
			}
		}
		return nil
	}
	left, err := admin.lookup(ctx, building)
	if err != nil {
		return err
	}
	if left != nil && !left.droppedHalf() {
		err = all("ALTER DATABASE " + building + " IS_TEMPLATE false")
	}
	if err == nil {
		err = all(
			"DROP DATABASE IF EXISTS "+building+" WITH (FORCE)",
			"CREATE DATABASE "+building+" OWNER "+migrations.OwnerRole+" TEMPLATE "+migrations.BaseDatabase+" STRATEGY wal_log ALLOW_CONNECTIONS false",
			"REVOKE ALL ON DATABASE "+building+" FROM PUBLIC",
			"ALTER DATABASE "+building+" ALLOW_CONNECTIONS true",
		)
	}
	if err != nil {
		return err
	}
	if err := a.up(ctx, admin.server, building); err != nil {
		return err
	}
	if err := all("ALTER DATABASE " + building + " ALLOW_CONNECTIONS false"); err != nil {
		return err
	}
	if err := admin.empty(ctx, building); err != nil {
		return err
	}
	return all(
		"ALTER DATABASE "+building+" IS_TEMPLATE true",
		"ALTER DATABASE "+building+" RENAME TO "+name,
	)
}

// empty waits until the sessions in a closed database are gone: those of the
// migration end a moment after it.
func (s *session) empty(ctx context.Context, database string) error {
	ctx, cancel := context.WithTimeout(ctx, evictTimeout)
	defer cancel()
	for {
		var left int
		err := s.scan(ctx, []any{&left}, `
			SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1`, database)
		if err != nil || left == 0 {
			return err
		}
		if !pause(ctx, pollEvery) {
			return operation.Later("template_in_use", "Somebody stays connected to the template on server "+s.server+".", "It is tried again.")
		}
	}
}
