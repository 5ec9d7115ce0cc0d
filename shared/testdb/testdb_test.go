package testdb_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/shared/testdb"
	"github.com/ouvira/ouvira/shared/testdb/pgserver"
)

// With this variable the test binary is one of several that share a server: it
// runs only TestOneOfManyProcesses.
const manyVariable = "TESTDB_TEST_MANY"

func TestMain(m *testing.M) { testdb.Main(m) }

func notes(fingerprint string, builds *atomic.Int32) testdb.Template {
	return testdb.Template{Name: "notes", Fingerprint: fingerprint, Build: func(ctx context.Context, url string) error {
		if builds != nil {
			builds.Add(1)
		}
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		// Fails when a second build, of this process or another, comes between.
		_, err = conn.Exec(ctx, `
			CREATE TABLE notes (body text);
			INSERT INTO notes VALUES ('from the template');
			CREATE ROLE testdb_probe;
			DROP ROLE testdb_probe;`)
		return err
	}}
}

func count(t *testing.T, url string) int {
	t.Helper()
	var n int
	if err := testdb.Connect(t, url).QueryRow(t.Context(), "SELECT count(*) FROM notes").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestClonesShareTheTemplateAndNothingElse(t *testing.T) {
	t.Parallel()
	var builds atomic.Int32
	template := notes("shared", &builds)
	var group sync.WaitGroup
	urls := make([]string, 8)
	for i := range urls {
		group.Go(func() { urls[i] = testdb.New(t, template) })
	}
	group.Wait()
	if builds.Load() != 1 {
		t.Errorf("the template was built %d times", builds.Load())
	}
	if _, err := testdb.Connect(t, urls[0]).Exec(t.Context(), "INSERT INTO notes VALUES ('mine')"); err != nil {
		t.Fatal(err)
	}
	if n := count(t, urls[0]); n != 2 {
		t.Errorf("the first clone holds %d rows, want 2", n)
	}
	for _, url := range urls[1:] {
		if n := count(t, url); n != 1 {
			t.Errorf("a clone sees %d rows, want the template's one", n)
		}
	}
}

func TestAnotherFingerprintIsAnotherTemplate(t *testing.T) {
	t.Parallel()
	var builds atomic.Int32
	testdb.New(t, notes("one", &builds))
	testdb.New(t, notes("two", &builds))
	if builds.Load() != 2 {
		t.Errorf("%d templates were built, want 2", builds.Load())
	}
	testdb.New(t, testdb.Template{Name: "empty"})
}

func TestAPassedTestLeavesNoDatabase(t *testing.T) {
	t.Parallel()
	var url string
	t.Run("passes", func(t *testing.T) {
		url = testdb.New(t, notes("leaves", nil))
		// Left open on purpose: the drop must not wait for it.
		if _, err := pgx.Connect(context.Background(), url); err != nil {
			t.Fatal(err)
		}
	})
	if conn, err := pgx.Connect(t.Context(), url); err == nil {
		_ = conn.Close(t.Context())
		t.Error("the database of a passed test is still there")
	}
}

// failing is a test that failed, as testdb sees it.
type failing struct {
	testing.TB
	cleanups []func()
	logged   strings.Builder
}

func (f *failing) Cleanup(fn func())         { f.cleanups = append(f.cleanups, fn) }
func (f *failing) Failed() bool              { return true }
func (f *failing) Logf(s string, arg ...any) { fmt.Fprintf(&f.logged, s, arg...) }

func TestAFailedTestKeepsItsDatabase(t *testing.T) {
	t.Parallel()
	failed := &failing{TB: t}
	url := testdb.New(failed, notes("keeps", nil))
	for _, cleanup := range failed.cleanups {
		cleanup()
	}
	if n := count(t, url); n != 1 {
		t.Errorf("the kept database holds %d rows", n)
	}
	if !strings.Contains(failed.logged.String(), url) {
		t.Errorf("the URL was not told: %q", failed.logged.String())
	}
}

func TestABuildThatWasInterruptedIsRepeated(t *testing.T) {
	t.Parallel()
	// The first try runs in a process of its own, because a process remembers
	// its failures.
	out, err := child(t, "TestAnInterruptedBuild", "interrupted")
	if err == nil || !strings.Contains(out, "halfway") {
		t.Fatalf("the first build went through: %v\n%s", err, out)
	}
	url := testdb.New(t, notes("interrupted", nil))
	if n := count(t, url); n != 1 {
		t.Errorf("the clone holds %d rows", n)
	}
}

// TestAnInterruptedBuild is the other process of the test above.
func TestAnInterruptedBuild(t *testing.T) {
	if os.Getenv(manyVariable) == "" {
		return
	}
	template := notes("interrupted", nil)
	template.Build = func(context.Context, string) error { return errors.New("stopped halfway") }
	testdb.New(t, template)
}

func TestManyProcessesBuildOnce(t *testing.T) {
	t.Parallel()
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			if out, err := child(t, "TestOneOfManyProcesses", "many"); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	group.Wait()
}

// TestOneOfManyProcesses is what the processes of the test above run.
func TestOneOfManyProcesses(t *testing.T) {
	if os.Getenv(manyVariable) == "" {
		return
	}
	for i := range 3 {
		if n := count(t, testdb.New(t, notes(fmt.Sprint("many", i), nil))); n != 1 {
			t.Errorf("a clone holds %d rows", n)
		}
	}
}

func child(t *testing.T, test, purpose string) (string, error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^"+test+"$", "-test.v")
	cmd.Env = append(os.Environ(), manyVariable+"="+purpose, testdb.URLVariable+"="+testdb.ServerURL(t))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestServersOfBothVersions(t *testing.T) {
	t.Parallel()
	for _, version := range testdb.Versions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			server := testdb.Server(t, version)
			var number int
			ask := "SELECT current_setting('server_version_num')::int / 10000"
			if err := testdb.Connect(t, server.URL()).QueryRow(t.Context(), ask).Scan(&number); err != nil {
				t.Fatal(err)
			}
			if number != server.Binaries().Major || (version == testdb.PG18 && number != 18) {
				t.Errorf("asked for %q, the server is %d", version, number)
			}
			// Both are copies of what initdb made once.
			if one, other := identifier(t, server), identifier(t, testdb.Server(t, version)); one == other || one <= 0 || other <= 0 {
				t.Errorf("the system identifiers of two servers are %d and %d", one, other)
			}
			if err := server.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := server.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func identifier(t *testing.T, server *pgserver.Server) (identifier int64) {
	t.Helper()
	ask := "SELECT system_identifier FROM pg_control_system()"
	if err := testdb.Connect(t, server.URL()).QueryRow(t.Context(), ask).Scan(&identifier); err != nil {
		t.Fatal(err)
	}
	return identifier
}

func BenchmarkClone(b *testing.B) {
	template := notes("bench", nil)
	for b.Loop() {
		testdb.New(b, template)
	}
}
