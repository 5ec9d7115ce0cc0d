package pg_test

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

// empty is a database without a schema.
var empty = testdb.Template{Name: "empty", Fingerprint: "1", Build: func(context.Context, string) error { return nil }}

func open(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// with gives the URL another user and password.
func with(t *testing.T, url, user, password string) *pgx.ConnConfig {
	t.Helper()
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.User, config.Password = user, password
	return config
}

// Postgres accepts the verifier as one, and the password that it was made from.
func TestSCRAMVerifierLogsIn(t *testing.T) {
	t.Parallel()
	url := testdb.New(t, empty)
	conn := open(t, url)
	password := pg.NewPassword()
	verifier, err := pg.SCRAMVerifier(password)
	if err != nil {
		t.Fatal(err)
	}
	if !pg.IsSCRAMVerifier(verifier) {
		t.Fatalf("not the shape of a verifier: %s", verifier)
	}
	role := "scram_" + strings.ToLower(strings.Map(func(r rune) rune {
		if r == '-' || r == '_' {
			return 'x'
		}
		return r
	}, password[:12]))
	if _, err := conn.Exec(t.Context(), "CREATE ROLE "+role+" LOGIN PASSWORD '"+verifier+"'"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = conn.Exec(context.Background(), "DROP ROLE "+role) })
	var stored string
	if err := conn.QueryRow(t.Context(), "SELECT rolpassword FROM pg_authid WHERE rolname = $1", role).Scan(&stored); err != nil || stored != verifier {
		t.Fatalf("Postgres stored something else than the verifier: %v", err)
	}
	login, err := pgx.ConnectConfig(t.Context(), with(t, url, role, password))
	if err != nil {
		t.Fatalf("log in with the password: %v", err)
	}
	_ = login.Close(t.Context())

	_, err = pgx.ConnectConfig(t.Context(), with(t, url, role, password+"x"))
	if pg.Code(err) != pg.CodeInvalidPassword || !pg.IsConnect(err) {
		t.Fatalf("a wrong password: %v", err)
	}
	if !strings.Contains(pg.Explain(err), "password") {
		t.Errorf("explained as %q", pg.Explain(err))
	}
}

func TestSCRAMVerifierRefusesWhatSASLprepWouldChange(t *testing.T) {
	t.Parallel()
	for _, password := range []string{"pass word", "pässword", "tab\t"} {
		if _, err := pg.SCRAMVerifier(password); err == nil {
			t.Errorf("%q was accepted", password)
		}
	}
}

func TestInTxCommitsOrLeavesNothing(t *testing.T) {
	t.Parallel()
	conn := open(t, testdb.New(t, empty))
	if _, err := conn.Exec(t.Context(), "CREATE TABLE t (n int CONSTRAINT t_n_key UNIQUE)"); err != nil {
		t.Fatal(err)
	}
	refused := errors.New("refused")
	err := pg.InTx(t.Context(), conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), "INSERT INTO t VALUES (1)"); err != nil {
			return err
		}
		return refused
	})
	if !errors.Is(err, refused) {
		t.Fatalf("InTx = %v", err)
	}
	n, err := pg.InTxValue(t.Context(), conn, func(tx pgx.Tx) (int, error) {
		if _, err := tx.Exec(t.Context(), "INSERT INTO t VALUES (2)"); err != nil {
			return 0, err
		}
		var n int
		return n, tx.QueryRow(t.Context(), "SELECT count(*) FROM t").Scan(&n)
	})
	if err != nil || n != 1 {
		t.Fatalf("rows = %d, %v; the refused transaction left something", n, err)
	}
	_, err = conn.Exec(t.Context(), "INSERT INTO t VALUES (2)")
	if pg.Code(err) != pg.CodeUniqueViolation || pg.Constraint(err) != "t_n_key" {
		t.Fatalf("violation = %v", err)
	}
}

func TestOpenSaysWhatIsWrongWithoutThePassword(t *testing.T) {
	t.Parallel()
	url := testdb.New(t, empty)
	config := with(t, url, "nobody_here", "hunter2hunter2")
	for name, dsn := range map[string]string{
		"a wrong user":   "postgres://nobody_here:hunter2hunter2@" + config.Host + ":" + strconv.Itoa(int(config.Port)) + "/postgres",
		"a closed port":  "postgres://u:hunter2hunter2@127.0.0.1:1/postgres",
		"no URL at all":  "postgres://u:hunter2hunter2@127.0.0.1:port/postgres",
		"another scheme": "mysql://u:hunter2hunter2@127.0.0.1/x",
	} {
		pool, err := pg.Open(t.Context(), dsn, pg.Options{ConnectTimeout: time.Second})
		if err == nil {
			pool.Close()
			t.Errorf("%s: opened", name)
			continue
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error repeats the password: %v", name, err)
		}
	}
}

// A LISTEN whose backend is terminated comes back and says so, so that its
// owner can catch up on what was notified in between.
func TestListenerComesBack(t *testing.T) {
	t.Parallel()
	url := testdb.New(t, empty)
	conn := open(t, url)
	listening, notified := make(chan struct{}, 10), make(chan string, 10)
	listener := pg.Listener{
		DSN: url, ApplicationName: "listener-under-test", Channel: "news", Log: slog.New(slog.DiscardHandler),
		OnListen: func() { listening <- struct{}{} },
		OnNotify: func(payload string) { notified <- payload },
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { listener.Run(ctx); close(done) }()
	defer func() { cancel(); <-done }()

	for round := range 3 {
		receive(t, listening)
		if _, err := conn.Exec(ctx, "NOTIFY news, 'hello'"); err != nil {
			t.Fatal(err)
		}
		if got := receive(t, notified); got != "hello" {
			t.Fatalf("round %d: notified %q", round, got)
		}
		_, err := conn.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'listener-under-test' AND datname = current_database()")
		if err != nil {
			t.Fatal(err)
		}
	}
}

func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came within 10 s")
		panic("unreachable")
	}
}
