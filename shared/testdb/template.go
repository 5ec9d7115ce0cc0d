package testdb

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Template is a schema that tests clone.
type Template struct {
	// Name is for people who look at the server: "control", "tenant".
	Name string
	// Fingerprint changes whenever Build would give another result: the digest
	// of the migrations, say.
	Fingerprint string
	// Build fills an empty database; the URL is a superuser's. It has to close
	// its connections. nil leaves the database empty.
	Build func(ctx context.Context, url string) error
}

// buildLock is one lock for all templates of a server, see the package's
// invariants. The number means nothing but has to be ours alone.
const buildLock = 7_418_220_915

// built remembers the templates that this process has seen complete, so that
// the thousandth clone asks nothing.
var built struct {
	sync.Mutex
	done map[string]*building
}

type building struct {
	once sync.Once
	err  error
}

// New gives the test a database of its own and returns the superuser's URL.
// Tests that need the rights of another role change the user in it.
func New(t testing.TB, template Template) string {
	t.Helper()
	pool := admin(t)
	source, err := ensure(t.Context(), pool, template)
	if err != nil {
		t.Fatalf("build the template %q: %v", template.Name, err)
	}
	name := "test_" + strings.ToLower(rand.Text()[:16])
	address, err := inDatabase(pool.Config().ConnString(), name)
	if err != nil {
		t.Fatal(err)
	}
	create := fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s STRATEGY wal_log", name, source)
	if _, err := pool.Exec(t.Context(), create); err != nil {
		t.Fatalf("clone the template %q: %v", template.Name, err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the database of this test is kept: %s", address)
			return
		}
		// The test's context has ended by now, and what it forgot to close must
		// not keep its database.
		if _, err := pool.Exec(context.Background(), "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)"); err != nil {
			t.Errorf("drop the test's database: %v", err)
		}
	})
	return address
}

// name is what the database of the template is called; it depends on nothing
// but the template, so that all test binaries find the same.
func (t Template) name() string {
	digest := sha256.Sum256([]byte(t.Name + "\x00" + t.Fingerprint))
	return "template_" + hex.EncodeToString(digest[:10])
}

func ensure(ctx context.Context, pool *pgxpool.Pool, template Template) (string, error) {
	name := template.name()
	built.Lock()
	if built.done == nil {
		built.done = map[string]*building{}
	}
	state, known := built.done[name]
	if !known {
		state = &building{}
		built.done[name] = state
	}
	built.Unlock()
	// A test that is stopped must not spoil the template for the others.
	state.once.Do(func() { state.err = build(context.WithoutCancel(ctx), pool, template) })
	return name, state.err
}

// build holds the server's lock. A database under the template's name that is
// not marked as a template is what an interrupted build left.
func build(ctx context.Context, pool *pgxpool.Pool, template Template) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", int64(buildLock)); err != nil {
		return err
	}
	defer func() {
		if _, err := conn.Exec(ctx, "SELECT pg_advisory_unlock($1)", int64(buildLock)); err != nil {
			// The lock lives as long as the session.
			_ = conn.Conn().Close(ctx)
		}
	}()
	name := template.name()
	var complete bool
	const ask = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1 AND datistemplate)"
	if err := conn.QueryRow(ctx, ask, name).Scan(&complete); err != nil || complete {
		return err
	}
	if err := run(ctx, conn.Conn(),
		"DROP DATABASE IF EXISTS "+name+" WITH (FORCE)",
		"CREATE DATABASE "+name+" TEMPLATE template0",
	); err != nil {
		return err
	}
	if template.Build != nil {
		address, err := inDatabase(pool.Config().ConnString(), name)
		if err != nil {
			return err
		}
		if err := template.Build(ctx, address); err != nil {
			return err
		}
	}
	comment := strings.ReplaceAll(template.Name, "'", "''")
	return run(ctx, conn.Conn(),
		"COMMENT ON DATABASE "+name+" IS 'test template "+comment+"'",
		"ALTER DATABASE "+name+" ALLOW_CONNECTIONS false",
		// Whoever is still inside would make every clone fail.
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '"+name+"'",
		"ALTER DATABASE "+name+" IS_TEMPLATE true",
	)
}

func run(ctx context.Context, conn *pgx.Conn, statements ...string) error {
	for _, statement := range statements {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// inDatabase is the same server and user, another database.
func inDatabase(address, name string) (string, error) {
	parsed, err := url.Parse(address)
	if err != nil || (parsed.Scheme != "postgres" && parsed.Scheme != "postgresql") {
		return "", fmt.Errorf("%s has to be a URL (postgres://user:password@host:port/postgres)", URLVariable)
	}
	parsed.Path = "/" + name
	return parsed.String(), nil
}

// RolePassword is the password of every role that tests make. Roles belong to
// the whole server: test binaries that share one must agree on it.
const RolePassword = "test-role-password"
