package pgserver_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/shared/testdb/pgserver"
)

// With this variable the test binary starts a server, tells of it and waits to
// be killed.
const actAsVictim = "PGSERVER_TEST_VICTIM"

func TestMain(m *testing.M) {
	if os.Getenv(actAsVictim) != "" {
		server, err := pgserver.Start(context.Background(), pgserver.Test("", nil))
		if err != nil {
			panic(err)
		}
		fmt.Println(server.PID(), server.Dir())
		select {}
	}
	os.Exit(m.Run())
}

func TestAServerDoesNotOutliveAKilledProcess(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), actAsVictim+"=yes")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	var dir string
	if _, err := fmt.Fscan(out, &pid, &dir); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for {
		_, statErr := os.Stat(dir)
		if errors.Is(statErr, os.ErrNotExist) && (errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) || zombie(pid)) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("process %d or its folder %s outlived the process that started it", pid, dir)
		}
	}
}

// zombie is a process that is dead and that nobody waits for.
func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(stat), ") Z ")
}

func start(t *testing.T, options pgserver.Options) *pgserver.Server {
	t.Helper()
	server, err := pgserver.Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server
}

func query(t *testing.T, url, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var value string
	if err := conn.QueryRow(t.Context(), sql).Scan(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

func execute(t *testing.T, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

// place is a folder that stays over several starts and that the server's user
// can reach, which t.TempDir is not for root.
func place(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "ouvira-pgserver-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestServerSpeaksTCPWithPasswordOnly(t *testing.T) {
	t.Parallel()
	server := start(t, pgserver.Test("", map[string]string{"work_mem": "5MB"}))
	for setting, want := range map[string]string{
		"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "work_mem": "5MB", "fsync": "off",
	} {
		if got := query(t, server.URL(), "SELECT current_setting('"+setting+"')"); got != want {
			t.Errorf("%s is %q, want %q", setting, got, want)
		}
	}
	wrong := strings.Replace(server.URL(), "postgres:", "postgres:x", 1)
	if conn, err := pgx.Connect(t.Context(), wrong); err == nil {
		_ = conn.Close(t.Context())
		t.Error("a wrong password was let in")
	}
	info, err := os.Stat(filepath.Join(server.Dir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; owner == 0 {
		t.Error("the data directory belongs to root")
	}
}

func TestTemporaryServerLeavesNothing(t *testing.T) {
	t.Parallel()
	server, err := pgserver.Start(t.Context(), pgserver.Test("", nil))
	if err != nil {
		t.Fatal(err)
	}
	pid := server.PID()
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d is still there: %v", pid, err)
	}
	if _, err := os.Stat(server.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is still there: %v", err)
	}
}

func TestDataSurvivesEveryKindOfEnd(t *testing.T) {
	t.Parallel()
	options := pgserver.Options{Dir: place(t)}
	server := start(t, options)
	port := server.Port()
	execute(t, server.URL(), "CREATE TABLE kept (how text)")
	ends := []struct {
		name string
		end  func() error
	}{{"stop", server.Stop}, {"immediate", server.StopImmediate}, {"kill", server.Kill}}
	for _, e := range ends {
		execute(t, server.URL(), "INSERT INTO kept VALUES ('"+e.name+"')")
		if err := e.end(); err != nil {
			t.Fatalf("%s: %v", e.name, err)
		}
		if server.PID() != 0 {
			t.Fatalf("%s: the server still runs", e.name)
		}
		if err := server.Start(t.Context()); err != nil {
			t.Fatalf("start after %s: %v", e.name, err)
		}
		if server.Port() != port {
			t.Fatalf("after %s the port is %d, was %d", e.name, server.Port(), port)
		}
	}
	// A second object on the same folder, as after a restart of the process.
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	again := start(t, options)
	if got := query(t, again.URL(), "SELECT string_agg(how, ',' ORDER BY how) FROM kept"); got != "immediate,kill,stop" {
		t.Errorf("kept %q", got)
	}
}

// Tests of crashes rest on this: also a server with test settings keeps what it
// said it committed.
func TestWhatWasCommittedSurvivesAKill(t *testing.T) {
	t.Parallel()
	server := start(t, pgserver.Test("", nil))
	execute(t, server.URL(), "CREATE TABLE kept (n int)")
	const rounds = 5
	for n := range rounds {
		execute(t, server.URL(), fmt.Sprintf("INSERT INTO kept VALUES (%d)", n))
		end := server.Kill
		if n%2 == 0 {
			end = server.StopImmediate
		}
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if err := server.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := query(t, server.URL(), "SELECT count(*)::text FROM kept"); got != fmt.Sprint(n+1) {
			t.Fatalf("%s rows are left of %d", got, n+1)
		}
	}
}

func TestBusyPortIsNamed(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	options := pgserver.Test("", nil)
	options.Port = listener.Addr().(*net.TCPAddr).Port
	server, err := pgserver.Start(t.Context(), options)
	if err == nil {
		_ = server.Close()
		t.Fatal("a server started on a port that is taken")
	}
	if !strings.Contains(err.Error(), "Address already in use") {
		t.Errorf("the error does not say why: %v", err)
	}
}

func TestInterruptedInitdbIsRepeated(t *testing.T) {
	t.Parallel()
	dir := place(t)
	half := filepath.Join(dir, "data")
	if err := os.MkdirAll(half, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(half, "PG_VERSION"), []byte("15\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := start(t, pgserver.Options{Dir: dir, Disposable: true})
	if got := query(t, server.URL(), "SELECT 'works'"); got != "works" {
		t.Error(got)
	}
}

func TestDataOfAnotherVersionIsRefused(t *testing.T) {
	t.Parallel()
	found, err := pgserver.Locate(t.Context(), 0, "")
	if err != nil {
		t.Fatal(err)
	}
	dir := place(t)
	if err := os.WriteFile(filepath.Join(dir, "initialised"), []byte("99\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bin := range []string{found.Dir, ""} {
		_, err = pgserver.Start(t.Context(), pgserver.Options{Dir: dir, Bin: bin})
		if err == nil || !strings.Contains(err.Error(), "99") {
			t.Errorf("with Bin %q: got %v", bin, err)
		}
	}
}
