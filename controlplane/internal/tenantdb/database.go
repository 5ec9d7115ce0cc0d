package tenantdb

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/pause"
	"github.com/ouvira/ouvira/shared/pg"
)

// found is a database that exists under a name.
type found struct {
	limit   int
	open    bool
	owner   string
	comment string
}

// droppedHalf: a DROP was interrupted, and only DROP works on it.
func (f *found) droppedHalf() bool { return f.limit == -2 }

// isOf tells whether the database is marked as the tenant's.
func (f *found) isOf(d Database) bool {
	return f.owner == migrations.OwnerRole && f.comment == d.Mark()
}

// unnamed: made, and the run died before it could mark it. It was never opened.
func (f *found) unnamed() bool {
	return f.owner == migrations.OwnerRole && f.comment == "" && !f.open
}

// lookup returns nil when there is no such database.
func (s *Session) lookup(ctx context.Context, name string) (*found, error) {
	var f found
	err := s.Scan(ctx, []any{&f.limit, &f.open, &f.owner, &f.comment}, `
		SELECT d.datconnlimit, d.datallowconn, pg_get_userbyid(d.datdba), COALESCE(shobj_description(d.oid, 'pg_database'), '')
		FROM pg_database d WHERE d.datname = $1`, name)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return &f, err
}

// Create makes the database from a template, closed, and marks it. template is
// one of Template, or the base database.
func (w *Work) Create(ctx context.Context, d Database, template string) error {
	admin, err := w.Admin(ctx)
	if err != nil {
		return err
	}
	// Looked at again after each change: what is there decides, not what the
	// last statement said.
	for range 4 {
		f, err := admin.lookup(ctx, d.Name())
		if err != nil {
			return err
		}
		switch {
		case f == nil:
			err = admin.create(ctx, d, template)
		case f.droppedHalf():
			err = admin.Exec(ctx, "DROP DATABASE IF EXISTS "+d.Quoted())
		case f.isOf(d):
			return nil
		case f.unnamed():
			err = admin.Exec(ctx, "COMMENT ON DATABASE "+d.Quoted()+" IS '"+d.Mark()+"'")
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
func (s *Session) create(ctx context.Context, d Database, template string) error {
	waiting, cancel := context.WithTimeout(ctx, creatingTimeout)
	defer cancel()
	statement := "CREATE DATABASE " + d.Quoted()
	for {
		var busy bool
		err := s.Scan(ctx, []any{&busy}, `
			SELECT EXISTS (SELECT FROM pg_stat_activity
			               WHERE starts_with(query, $1) AND state = 'active' AND pid <> pg_backend_pid())`, statement+" ")
		if err != nil {
			return err
		}
		if !busy {
			break
		}
		if !pause.For(waiting, pollEvery) {
			return operation.Later("being_created", "Another connection is still creating the database on server "+s.server+".", "It is tried again.")
		}
	}
	_, err := s.conn.Exec(ctx, statement+" OWNER "+migrations.OwnerRole+" TEMPLATE "+template+" STRATEGY wal_log ALLOW_CONNECTIONS false")
	switch code := pg.Code(err); {
	case err == nil, code == pg.CodeDuplicateDatabase, code == pg.CodeUniqueViolation:
		return nil
	case code == pg.CodeInvalidCatalog:
		return operation.Later("template_gone", "The template vanished from server "+s.server+".", "It is built again.").Because(err)
	default:
		return s.Explain(err)
	}
}

// Lockdown takes everything from everybody else and opens the database, in one
// commit: nobody can connect to it in a state between. The tenant's role still
// may not.
func (w *Work) Lockdown(ctx context.Context, d Database) error {
	admin, err := w.Admin(ctx)
	if err != nil {
		return err
	}
	return admin.ExecAll(
		ctx,
		"REVOKE ALL ON DATABASE "+d.Quoted()+" FROM PUBLIC",
		"ALTER DATABASE "+d.Quoted()+" SET client_connection_check_interval = '1s'",
		"ALTER DATABASE "+d.Quoted()+" ALLOW_CONNECTIONS true",
	)
}

// Stamp writes into the database which tenant and incarnation it is; nodes read it
// on every new connection.
func (w *Work) Stamp(ctx context.Context, d Database) error {
	inside, err := w.Inside(ctx, d)
	if err != nil {
		return err
	}
	var found Database
	err = inside.Scan(ctx, []any{&found.Tenant, &found.Incarnation}, `
		WITH written AS (
			INSERT INTO ouvira.marker (tenant_id, incarnation) VALUES ($1, $2) ON CONFLICT (singleton) DO NOTHING
			RETURNING tenant_id, incarnation)
		SELECT tenant_id, incarnation FROM written UNION ALL SELECT tenant_id, incarnation FROM ouvira.marker`,
		d.Tenant, d.Incarnation)
	if err != nil {
		return err
	}
	if found != d {
		return operation.Fail("marker_foreign", "The database on server "+inside.server+" carries another tenant's marker.",
			"Let the reconciler report that server, then retry.")
	}
	return nil
}

// Admit lets the tenant's role into its database, which comes last of all.
func (w *Work) Admit(ctx context.Context, d Database) error {
	if w.inside != nil && w.where == d {
		// One out of the warm pool is in: that spares it a connection.
		var in bool
		if err := w.inside.Scan(ctx, []any{&in}, "SELECT has_database_privilege($1::text::name, $1::text, 'CONNECT')", d.Name()); err != nil || in {
			return err
		}
	}
	admin, err := w.Admin(ctx)
	if err != nil {
		return err
	}
	return admin.Exec(ctx, "GRANT CONNECT ON DATABASE "+d.Quoted()+" TO "+d.Quoted())
}

// Exists tells whether the database is there, and the tenant's.
func (w *Work) Exists(ctx context.Context, d Database) (bool, error) {
	admin, err := w.Admin(ctx)
	if err != nil {
		return false, err
	}
	f, err := admin.lookup(ctx, d.Name())
	return err == nil && f != nil && f.isOf(d) && !f.droppedHalf(), err
}

// Drop removes the database, with who is connected to it or replicates from it, and
// the role. What is not marked as the tenant's stays; then so does the role.
func (w *Work) Drop(ctx context.Context, d Database) error {
	admin, err := w.Admin(ctx)
	if err != nil {
		return err
	}
	f, err := admin.lookup(ctx, d.Name())
	if err != nil {
		return err
	}
	switch {
	case f == nil:
	case f.isOf(d) || f.unnamed() || f.droppedHalf():
		// Slots that are not in use go with the database.
		if err := admin.Exec(ctx, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = $1 AND active", d.Name()); err != nil {
			return err
		}
		_, err := admin.conn.Exec(ctx, "DROP DATABASE IF EXISTS "+d.Quoted()+" WITH (FORCE)")
		if pg.Code(err) == pg.CodeInsufficientRights {
			return operation.Later("superuser_connected", "A superuser is connected to the tenant's database on server "+admin.server+", and we cannot end that session.",
				"It is tried again; end the session there.").Because(err)
		}
		if err != nil {
			return admin.Explain(err)
		}
	default:
		return nil
	}
	return admin.Exec(ctx, "DROP ROLE IF EXISTS "+d.Quoted())
}

// Detach removes the subscriptions in the database, which would keep it from being
// dropped. The slots that they used on other servers are those servers' business: the
// one who made them knows their names.
func (w *Work) Detach(ctx context.Context, d Database) error {
	admin, err := w.Admin(ctx)
	if err != nil {
		return err
	}
	f, err := admin.lookup(ctx, d.Name())
	if err != nil || f == nil || !f.isOf(d) || f.droppedHalf() {
		return err
	}
	rows, err := admin.conn.Query(ctx, "SELECT subname FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = $1)", d.Name())
	if err != nil {
		return admin.Explain(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return admin.Explain(err)
	}
	if len(names) == 0 {
		return nil
	}
	// Not as the owner of the database: subscriptions are whose they are.
	inside, err := w.connect(ctx, server.Target{Database: d.Name()})
	if err != nil {
		return err
	}
	defer inside.close()
	if err := w.Check(ctx); err != nil {
		return err
	}
	for _, name := range names {
		name := pgx.Identifier{name}.Sanitize()
		for _, statement := range []string{
			"ALTER SUBSCRIPTION " + name + " DISABLE",
			"ALTER SUBSCRIPTION " + name + " SET (slot_name = NONE)",
			"DROP SUBSCRIPTION IF EXISTS " + name,
		} {
			_, err := inside.conn.Exec(ctx, statement)
			if pg.Code(err) == pg.CodeInsufficientRights {
				return operation.Fail("subscription_left", "The database on server "+admin.server+" has a subscription that the provisioner may not drop.",
					"Drop it there as its owner or as a superuser, then try again.").Because(err)
			}
			if err != nil {
				return inside.Explain(err)
			}
		}
	}
	return nil
}
