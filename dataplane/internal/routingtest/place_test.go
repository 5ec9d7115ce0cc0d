package routingtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
)

// place is a Postgres server for tenants.
type place struct {
	id      uuid.UUID
	url     string // of the superuser, in database postgres
	host    string
	port    uint16
	admin   *pgxpool.Pool
	blank   string // the template of a tenant's database
	inherit string // how a membership is granted here
}

// database is a tenant's, with the login role of the same name.
type database struct {
	place       *place
	name        string
	password    string
	tenant      uuid.UUID
	incarnation int

	doors  []span  // when sessions could do anything; guarded by history.mu
	frozen []int64 // what it held when it was fenced for good
}

// sharedPlace is the server that all tests share, with a blank database of its
// own.
func sharedPlace(t *testing.T) *place {
	t.Helper()
	blank := testdb.New(t, testdb.Template{Name: "routing", Fingerprint: "1", Build: buildBlank})
	return newPlace(t, testdb.ServerURL(t), blank)
}

// ownPlace is another server, of the newest version.
func ownPlace(t *testing.T) *place {
	t.Helper()
	address := testdb.Server(t, testdb.PG18).URL()
	conn := testdb.Connect(t, address)
	_, err := conn.Exec(t.Context(), "CREATE DATABASE blank TEMPLATE template0")
	must(t, err)
	blank := inDatabase(address, "blank")
	must(t, buildBlank(t.Context(), blank))
	return newPlace(t, address, blank)
}

func newPlace(t *testing.T, address, blank string) *place {
	t.Helper()
	config, err := pgxpool.ParseConfig(address)
	must(t, err)
	config.MaxConns = 8
	admin, err := pgxpool.NewWithConfig(context.Background(), config)
	must(t, err)
	t.Cleanup(admin.Close)
	p := &place{id: uuid.New(), url: inDatabase(address, "postgres"), host: config.ConnConfig.Host, port: config.ConnConfig.Port, admin: admin, blank: databaseOf(blank)}
	var modern bool
	must(t, admin.QueryRow(t.Context(), "SELECT current_setting('server_version_num')::int >= 160000").Scan(&modern))
	if modern {
		p.inherit = " WITH INHERIT TRUE, SET FALSE"
	}
	return p
}

// buildBlank makes, in place of the empty database that it is given, what
// tenants' databases are cloned from: the marker, as it is in a real one, and a
// journal, in schemas that the application's role reaches.
func buildBlank(ctx context.Context, address string) error {
	server, name := inDatabase(address, "postgres"), databaseOf(address)
	if err := migrations.PrepareServer(ctx, server, ""); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, s := range []string{
		"DROP DATABASE " + name,
		"CREATE DATABASE " + name + " TEMPLATE " + migrations.BaseDatabase + " OWNER " + migrations.OwnerRole,
		"REVOKE ALL ON DATABASE " + name + " FROM PUBLIC",
	} {
		if _, err := conn.Exec(ctx, s); err != nil {
			return err
		}
	}
	inside, err := pgx.Connect(ctx, address)
	if err != nil {
		return err
	}
	defer inside.Close(ctx)
	_, err = inside.Exec(ctx, `
		REVOKE ALL ON SCHEMA public FROM PUBLIC;
		CREATE SCHEMA ouvira;
		GRANT USAGE ON SCHEMA public, ouvira TO ouvira_app;
		CREATE TABLE ouvira.marker (singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton), tenant_id uuid NOT NULL, incarnation integer NOT NULL);
		CREATE TABLE public.journal (entry bigint PRIMARY KEY);
		GRANT SELECT ON ouvira.marker TO ouvira_app;
		GRANT SELECT, INSERT ON public.journal TO ouvira_app;`)
	return err
}

func inDatabase(address, name string) string {
	u, err := url.Parse(address)
	if err != nil {
		panic(err) // tests' servers have URLs
	}
	u.Path = "/" + name
	return u.String()
}

func databaseOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		panic(err)
	}
	return strings.TrimPrefix(u.Path, "/")
}

func (p *place) exec(ctx context.Context, statements ...string) error {
	for _, s := range statements {
		if _, err := p.admin.Exec(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

// create makes the database and its role, as the control plane does.
func (db *database) create(ctx context.Context) error {
	verifier, err := pg.SCRAMVerifier(db.password)
	if err != nil {
		return err
	}
	err = db.place.exec(
		ctx,
		fmt.Sprintf("CREATE ROLE %s LOGIN CONNECTION LIMIT %d PASSWORD '%s'", db.name, tenantCap, verifier),
		"GRANT "+migrations.AppRole+" TO "+db.name+db.place.inherit,
		"CREATE DATABASE "+db.name+" OWNER "+migrations.OwnerRole+" TEMPLATE "+db.place.blank+" STRATEGY wal_log",
		"REVOKE ALL ON DATABASE "+db.name+" FROM PUBLIC",
		"ALTER DATABASE "+db.name+" SET client_connection_check_interval = '1s'",
	)
	if err != nil {
		return err
	}
	err = db.inside(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "INSERT INTO ouvira.marker (tenant_id, incarnation) VALUES ($1, $2)", db.tenant, db.incarnation)
		return err
	})
	if err != nil {
		return err
	}
	return db.place.exec(ctx, "GRANT CONNECT ON DATABASE "+db.name+" TO "+db.name)
}

func (db *database) drop(ctx context.Context) error {
	return db.place.exec(ctx, "DROP DATABASE "+db.name+" WITH (FORCE)", "DROP ROLE "+db.name)
}

func (db *database) inside(ctx context.Context, work func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, inDatabase(db.place.url, db.name))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return work(conn)
}

// journal is what the database holds, in order.
func (db *database) journal(ctx context.Context) (entries []int64, err error) {
	err = db.inside(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, "SELECT entry FROM public.journal ORDER BY entry")
		if err != nil {
			return err
		}
		entries, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		return err
	})
	return entries, err
}

func (db *database) copyIn(ctx context.Context, entries []int64) error {
	return db.inside(ctx, func(conn *pgx.Conn) error {
		_, err := conn.CopyFrom(ctx, pgx.Identifier{"public", "journal"}, []string{"entry"},
			pgx.CopyFromSlice(len(entries), func(i int) ([]any, error) { return []any{entries[i]}, nil }))
		return err
	})
}

// setPassword changes the role's.
func (db *database) setPassword(ctx context.Context, password string) error {
	verifier, err := pg.SCRAMVerifier(password)
	if err != nil {
		return err
	}
	db.password = password
	return db.place.exec(ctx, "ALTER ROLE "+db.name+" PASSWORD '"+verifier+"'")
}

// sessionsOf finds what the role does, sessions in the middle of connecting
// included: they lock their database before anybody sees their role.
const sessionsOf = `
SELECT pid FROM pg_stat_activity WHERE usename = $1 AND backend_type = 'client backend'
UNION
SELECT pid FROM pg_locks WHERE locktype = 'object' AND classid = 'pg_database'::regclass
   AND objid = (SELECT oid FROM pg_database WHERE datname = $1) AND pid <> pg_backend_pid()`

// fence locks the tenant out in the database, whatever nodes believe: when it
// returns, no session of the role can do anything any more.
func (db *database) fence(ctx context.Context) error {
	if err := db.place.exec(ctx, "REVOKE "+migrations.AppRole+" FROM "+db.name); err != nil {
		return err
	}
	// Who is connecting may hold the role's row for a moment.
	for {
		err := db.place.exec(ctx, "ALTER ROLE "+db.name+" NOLOGIN CONNECTION LIMIT 0")
		if err == nil {
			break
		}
		if code := pg.Code(err); code != "55P03" && code != "XX000" {
			return err
		}
	}
	for empty := 0; empty < 2; {
		rows, err := db.place.admin.Query(ctx, "SELECT pg_terminate_backend(pid) FROM ("+sessionsOf+") s", db.name)
		if err != nil {
			return err
		}
		ended, err := pgx.CollectRows(rows, pgx.RowTo[bool])
		if err != nil {
			return err
		}
		empty++
		if len(ended) > 0 {
			empty = 0
		}
	}
	return nil
}

func (db *database) unfence(ctx context.Context) error {
	return db.place.exec(
		ctx,
		"GRANT "+migrations.AppRole+" TO "+db.name+db.place.inherit,
		fmt.Sprintf("ALTER ROLE %s LOGIN CONNECTION LIMIT %d", db.name, tenantCap),
	)
}

// unchanged fails when the database holds something else than before.
func (db *database) unchanged(ctx context.Context, before []int64) error {
	now, err := db.journal(ctx)
	if err != nil {
		return err
	}
	if !slices.Equal(now, before) {
		return fmt.Errorf("database %s of %s held %d entries when it was fenced, and holds %d", db.name, db.tenant, len(before), len(now))
	}
	return nil
}

// terminate ends all backends whose application's name begins so, until none
// is left.
func (p *place) terminate(ctx context.Context, application string) error {
	for {
		rows, err := p.admin.Query(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE starts_with(application_name, $1)", application)
		if err != nil {
			return err
		}
		ended, err := pgx.CollectRows(rows, pgx.RowTo[bool])
		if err != nil || len(ended) == 0 {
			return err
		}
	}
}

// crowd is how many backends the applications whose name begins so have in
// tenants' databases.
func crowd(ctx context.Context, conn *pgx.Conn, prefix string) (count int, err error) {
	err = conn.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE starts_with(application_name, $1) AND starts_with(datname, 'ov_')", prefix).Scan(&count)
	return count, err
}

// newDatabase is one that is not created yet.
func newDatabase(p *place, tenant uuid.UUID, incarnation int) *database {
	return &database{place: p, name: "ov_" + token(), password: pg.NewPassword(), tenant: tenant, incarnation: incarnation}
}

func token() string { return strings.ReplaceAll(uuid.NewString(), "-", "")[:24] }

// eventually polls until check has nothing to object, or returns what it
// objects in the end.
func eventually(ctx context.Context, within time.Duration, check func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-tick.C:
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
