package e2e

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/deploy/stack"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/seal"
	"github.com/ouvira/ouvira/shared/testdb/pgserver"
)

// admin is a superuser's work on a tenant's database, step by step: what the
// control plane's operations are made of, and what can go wrong in the hands of
// people.
type admin struct {
	t        *testing.T
	s        *stack.Stack
	slug     string
	server   string // its name
	url      string // of the tenant's database
	database string // its name, and the role's
}

func administer(t *testing.T, s *stack.Stack, slug string) admin {
	t.Helper()
	url, database := tenantDatabase(t, s, slug)
	return admin{t: t, s: s, slug: slug, server: serverOf(t, s, slug), url: url, database: database}
}

// postgres is the database postgres of a tenant server.
func (a admin) postgres(server string) string {
	a.t.Helper()
	for _, known := range a.s.Demo().Postgres.Servers {
		if known.Name == server {
			return known.URL
		}
	}
	a.t.Fatalf("there is no server %s", server)
	return ""
}

func (a admin) exec(address string, statements ...string) {
	a.t.Helper()
	conn := sql(a.t, address)
	for _, statement := range statements {
		if _, err := conn.Exec(a.t.Context(), strings.ReplaceAll(statement, "$DB", pgx.Identifier{a.database}.Sanitize())); err != nil {
			a.t.Fatalf("%s: %v", statement, err)
		}
	}
}

// route changes what the tenant's route is made of and publishes it.
func (a admin) route(set string, args ...any) (version int64) {
	a.t.Helper()
	versions := column[int64](a.t, a.s.Demo().Postgres.Control, "WITH changed AS (UPDATE control.tenants SET "+set+
		" WHERE slug = $1 RETURNING id) SELECT control.publish_route(id) FROM changed", append([]any{a.slug}, args...)...)
	return versions[0]
}

// fence keeps everybody out of the database: the membership goes first, so that
// a session in the middle of connecting can do nothing any more, then whoever is
// there is ended, until two looks find nobody.
func (a admin) fence() {
	a.t.Helper()
	server := a.postgres(a.server)
	a.exec(server, "REVOKE ouvira_app FROM $DB", "ALTER ROLE $DB NOLOGIN CONNECTION LIMIT 0")
	conn := sql(a.t, server)
	for empty := 0; empty < 2; {
		var found int
		err := conn.QueryRow(a.t.Context(), `SELECT count(pg_terminate_backend(pid)) FROM (
			SELECT pid FROM pg_stat_activity WHERE usename = $1 AND backend_type = 'client backend'
			UNION SELECT pid FROM pg_locks WHERE locktype = 'object' AND classid = 'pg_database'::regclass
				AND objid = (SELECT oid FROM pg_database WHERE datname = $1) AND pid <> pg_backend_pid()) s`, a.database).Scan(&found)
		must(a.t, err)
		if found == 0 {
			empty++
		} else {
			empty = 0
		}
	}
}

func (a admin) dump() (file string) {
	a.t.Helper()
	file = filepath.Join(a.t.TempDir(), a.slug+".dump")
	a.tool("pg_dump", "--format=custom", "--file="+file, "--dbname="+a.url)
	return file
}

// restore makes the database and its role's way into it anew on a server.
func (a admin) restore(file, server string) (url string) {
	a.t.Helper()
	address := a.postgres(server)
	a.exec(address, "CREATE DATABASE $DB OWNER ouvira_owner TEMPLATE template0", "REVOKE ALL ON DATABASE $DB FROM PUBLIC")
	url = inDatabase(a.t, address, a.database, nil)
	a.tool("pg_restore", "--exit-on-error", "--dbname="+url, file)
	a.exec(address, "GRANT CONNECT ON DATABASE $DB TO $DB")
	return url
}

func (a admin) tool(name string, args ...string) {
	a.t.Helper()
	binaries, err := pgserver.Find(a.t.Context(), 0)
	must(a.t, err)
	shell(a.t, filepath.Join(binaries.Dir, name), args...)
}

// A tenant moves to another server while its users write and every LISTEN
// connection is cut again and again: nothing is written to the old database
// after the fence, and every acknowledged write is in the new one.
func TestAdversarial05AMoveUnderTrafficWithTheListenersCut(t *testing.T) {
	t.Parallel()
	s := borrow(t)
	b := newBalancer(t, s)
	const retries = 400 // users who go on asking
	moving, staying := work(t, tenant(t, s, b, "moving"), "moving", 6, retries), work(t, tenant(t, s, b, "staying"), "staying", 2, 0)
	moving.more(t, 20)
	stop := cutListeners(t, s)
	defer stop()
	from := administer(t, s, "moving")
	for range scaled(1, 20) {
		to := map[string]string{"a": "b", "b": "a"}[from.server]
		from.route("route_mode = 'hold'")
		from.fence()
		written := column[int64](t, from.url, "SELECT count(*) FROM companies")[0]
		file := from.dump()

		verifier := column[string](t, from.postgres(from.server), "SELECT rolpassword FROM pg_authid WHERE rolname = $1", from.database)[0]
		from.exec(from.postgres(to), "DROP ROLE IF EXISTS $DB", "CREATE ROLE $DB LOGIN CONNECTION LIMIT 10 PASSWORD '"+verifier+"'", "GRANT ouvira_app TO $DB")
		moved := from.restore(file, to)
		from.route("route_mode = 'serve', server_id = (SELECT id FROM control.servers WHERE name = $2)", to)
		moving.more(t, 40)
		staying.more(t, 5)

		if late := column[int64](t, from.url, "SELECT count(*) FROM companies")[0] - written; late != 0 {
			t.Errorf("%d writes reached the old database after the fence", late)
		}
		from.exec(from.postgres(from.server), "DROP DATABASE $DB WITH (FORCE)")
		from.server, from.url = to, moved
	}
	stop()
	for _, l := range []*load{moving, staying} {
		l.stop()
		l.flawless(t)
		address, _ := tenantDatabase(t, s, l.prefix)
		l.replay(t, address)
	}
}

// A tenant's database is dropped under its users: 503, and 403 once it is
// suspended. Restored and resumed it is served again, by the same nodes, and
// the neighbour has noticed nothing.
func TestAdversarial09DroppedSuspendedResumed(t *testing.T) {
	t.Parallel()
	s := borrow(t)
	b := newBalancer(t, s)
	victim, well := tenant(t, s, b, "dropped"), work(t, tenant(t, s, b, "undropped"), "undropped", 2, 0)
	operator, err := s.OperatorAPI(t.Context())
	must(t, err)
	all := func(want int) {
		t.Helper()
		for node := range 2 {
			app := victim
			app.Base, app.Client = s.TenantAPI(node, "dropped").Base, nil
			eventually(t, 10*time.Second, func() (bool, string) {
				got := crowd(t, app, 10)
				return got.status[want] == 10, fmt.Sprintf("node %d answers with %v, want %d", node, got.status, want)
			})
		}
	}
	all(http.StatusOK)
	a := administer(t, s, "dropped")
	file := a.dump()
	a.exec(a.postgres(a.server), "DROP DATABASE $DB WITH (FORCE)")
	all(http.StatusServiceUnavailable)
	must(t, operator.Want(t.Context(), http.StatusOK, http.MethodPost, "/v1/tenants/dropped/suspend", map[string]string{"reason": "its database is gone"}, nil))
	all(http.StatusForbidden)
	a.restore(file, a.server)
	all(http.StatusForbidden)
	must(t, operator.Want(t.Context(), http.StatusOK, http.MethodPost, "/v1/tenants/dropped/resume", map[string]string{}, nil))
	all(http.StatusOK)
	well.more(t, 10)
	well.stop()
	well.flawless(t)
}

// A node is told to stop while queries hang on a lock, and the tenant's password
// rotates: what hangs is finished, the other node goes on with the new password,
// and no request fails.
func TestAdversarial12SIGTERMWithStuckQueriesWhileAPasswordRotates(t *testing.T) {
	t.Parallel()
	s := borrow(t)
	b := newBalancer(t, s)
	reading, well := tenant(t, s, b, "stuck"), work(t, tenant(t, s, b, "unstuck"), "unstuck", 2, 0)
	stuck := reading
	a := administer(t, s, "stuck")
	locker := sql(t, a.url)
	_, err := locker.Exec(t.Context(), "BEGIN; LOCK TABLE companies IN EXCLUSIVE MODE")
	must(t, err)
	const writers = 3
	stuck.Base, stuck.Client = s.TenantAPI(0, "stuck").Base, nil
	var group sync.WaitGroup
	for i := range writers {
		group.Go(func() {
			answer, err := stuck.Call(t.Context(), http.MethodPost, "/company", map[string]string{"name": fmt.Sprintf("stuck %d", i)})
			if err != nil || answer.Status != http.StatusCreated {
				t.Errorf("a write that hung when the node was told to stop: %v %s", err, answer)
			}
		})
	}
	look := sql(t, a.postgres(a.server))
	eventually(t, 30*time.Second, func() (bool, string) {
		var hanging int
		must(t, look.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND wait_event_type = 'Lock'", a.database).Scan(&hanging))
		return hanging == writers, fmt.Sprintf("%d of %d writers hang", hanging, writers)
	})

	stopped := make(chan error, 1)
	go func() { stopped <- s.Stop(stack.DataNode(0)) }()
	eventually(t, 10*time.Second, func() (bool, string) { return !b.ready[0].Load(), "the node says that it is ready" })
	for range scaled(2, 20) {
		a.rotate()
		if got := crowd(t, reading, 10); got.status[http.StatusOK] != 10 {
			t.Errorf("after a rotation the other node answers with %v", got.status)
		}
	}
	_, err = locker.Exec(t.Context(), "ROLLBACK")
	must(t, err)
	group.Wait()
	must(t, <-stopped)
	must(t, s.Start(t.Context(), stack.DataNode(0)))
	settled(t, s, 0)
	if got := crowd(t, stuck, 10); got.status[http.StatusOK] != 10 {
		t.Errorf("the node that came back answers with %v", got.status)
	}
	if found := column[int64](t, a.url, "SELECT count(*) FROM companies WHERE name LIKE 'stuck %'")[0]; found != writers {
		t.Errorf("%d of %d writes are there", found, writers)
	}
	well.stop()
	well.flawless(t)
}

// rotate gives the tenant's role a new password, sealed to the nodes' key as
// the control plane does it.
func (a admin) rotate() {
	a.t.Helper()
	key, err := seal.LoadPublicKey(a.s.Env(stack.Control)["OUVIRA_DATA_PUBLIC_KEY_FILE"])
	must(a.t, err)
	password := pg.NewPassword()
	verifier, err := pg.SCRAMVerifier(password)
	must(a.t, err)
	var id struct {
		Tenant      [16]byte
		Incarnation int
	}
	conn := sql(a.t, a.s.Demo().Postgres.Control)
	must(a.t, conn.QueryRow(a.t.Context(), "SELECT id, incarnation FROM control.tenants WHERE slug = $1", a.slug).Scan(&id.Tenant, &id.Incarnation))
	credential, err := key.Seal([]byte(password), route.CredentialContext(id.Tenant, id.Incarnation))
	must(a.t, err)
	a.exec(a.postgres(a.server), "ALTER ROLE $DB PASSWORD '"+verifier+"'")
	a.route("credential = $2", credential)
}
