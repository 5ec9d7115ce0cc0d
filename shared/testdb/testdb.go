// Package testdb gives every test a Postgres database of its own in
// milliseconds, on one server per test run.
//
// The server is the one OUVIRA_TEST_DATABASE_URL names (a superuser's URL, as
// `withpg` sets it for a whole `go test ./...`), else one that the test binary
// starts when its first test asks. A schema is built once per server, as a
// template that is named by its fingerprint, and each test gets a clone:
//
//	func TestMain(m *testing.M) { testdb.Main(m) }
//
//	func TestX(t *testing.T) {
//		url := testdb.New(t, testdb.Template{Name: "control", Fingerprint: sum, Build: migrate})
//
// This package knows no schema: whoever has one brings the template.
//
// Invariants:
//   - a clone belongs to one test and is dropped when it passes; when it fails,
//     the clone stays and its URL is logged;
//   - one template is built at a time on a server, whatever process asks, so
//     that Build may create roles, which all databases of a server share;
//   - a template takes no connections, so a clone never waits for one.
package testdb

import (
	"context"
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ouvira/ouvira/shared/internal/stretch"
	"github.com/ouvira/ouvira/shared/testdb/pgserver"
)

// URLVariable names the server that tests shall use.
const URLVariable = "OUVIRA_TEST_DATABASE_URL"

// PG18Variable names the folder with the binaries of Postgres 18.
const PG18Variable = "OUVIRA_TEST_PG18_BIN"

// server is the shared one of this test binary.
var server struct {
	once  sync.Once
	err   error
	admin *pgxpool.Pool
	own   *pgserver.Server
}

// Main runs the tests and then stops what they started. It does not return.
// Passwords cost little in the tests, and their real price in benchmarks.
// The checks run last, when nothing of this package is left (a look for leaked
// goroutines, say); their errors fail the run.
func Main(m *testing.M, checks ...func() error) {
	flag.Parse()
	// Benchmarks measure what a program pays.
	if flag.Lookup("test.bench").Value.String() == "" {
		stretch.Cheap()
	}
	code := m.Run()
	if err := shutdown(); err != nil {
		fmt.Fprintln(os.Stderr, "testdb:", err)
		code = max(code, 1)
	}
	for _, check := range checks {
		if err := check(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

func shutdown() error {
	if server.admin != nil {
		server.admin.Close()
	}
	if server.own != nil {
		return server.own.Close()
	}
	return nil
}

// admin is a pool of the superuser in the database postgres.
func admin(t testing.TB) *pgxpool.Pool {
	t.Helper()
	server.once.Do(func() { server.admin, server.err = connect() })
	if server.err != nil {
		t.Fatalf("no Postgres for the tests: %v", server.err)
	}
	return server.admin
}

// connect does not use the context of the test that happens to come first: the
// server stays for the others.
func connect() (*pgxpool.Pool, error) {
	ctx := context.Background()
	address := os.Getenv(URLVariable)
	if address == "" {
		own, err := pgserver.Start(ctx, pgserver.Test("", nil))
		if err != nil {
			return nil, err
		}
		server.own = own
		address = own.URL()
	}
	config, err := pgxpool.ParseConfig(address)
	if err != nil {
		return nil, fmt.Errorf("%s is not the URL of a Postgres server: %w", URLVariable, err)
	}
	// Creating databases is bound by the disk; more of them at once only makes
	// each one slower, and every test binary has a pool like this.
	config.MaxConns = 4
	config.MinConns = 0
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	var superuser bool
	if err := pool.QueryRow(ctx, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user").Scan(&superuser); err != nil {
		pool.Close()
		return nil, err
	}
	if !superuser {
		pool.Close()
		return nil, fmt.Errorf("%s has to name a superuser, because tests create databases and roles", URLVariable)
	}
	return pool, nil
}

// ServerURL is the superuser's URL of the server that New clones on, for tests
// that have to do with roles or with databases they create themselves.
func ServerURL(t testing.TB) string {
	t.Helper()
	return admin(t).Config().ConnString()
}

// Connect opens a connection that is closed with the test.
func Connect(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatalf("connect to the test database: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}
