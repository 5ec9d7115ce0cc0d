package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/cli"
	"github.com/ouvira/ouvira/shared/config"
	"github.com/ouvira/ouvira/shared/seal"
	"github.com/ouvira/ouvira/shared/testdb"
	"github.com/ouvira/ouvira/shared/testdb/pgserver"
)

func TestMain(m *testing.M) { testdb.Main(m) }

const operatorPassword = "correct horse battery staple"

// install is a control plane as one sets it up: a Postgres server of its own
// (roles belong to the whole server), key files, an environment.
type install struct {
	postgres *pgserver.Server
	env      map[string]string
	home     string
}

func newInstall(t *testing.T) *install {
	t.Helper()
	i := &install{postgres: testdb.Server(t, testdb.System), home: t.TempDir()}
	control, public := filepath.Join(i.home, "control.key"), filepath.Join(i.home, "data.pub")
	if err := seal.GenerateDataKey(filepath.Join(i.home, "data.key"), public); err != nil {
		t.Fatal(err)
	}
	i.env = map[string]string{
		"OUVIRA_CONTROL_DATABASE_URL": i.as(t, "ouvira_control", "control-password"),
		"OUVIRA_NODE_DATABASE_URL":    i.as(t, "ouvira_node", "node-password"),
		"OUVIRA_CONTROL_KEY_FILE":     control,
		"OUVIRA_DATA_PUBLIC_KEY_FILE": public,
		"OUVIRA_LISTEN":               freeAddress(t),
		"OUVIRA_INTERNAL_LISTEN":      freeAddress(t),
	}
	if out, err := i.run(t.Context(), "keys", "generate", "--control-key-file", control); err != nil {
		t.Fatalf("keys generate: %v %s", err, out)
	}
	return i
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// as is the control database's URL for a user.
func (i *install) as(t *testing.T, user, password string) string {
	t.Helper()
	u, err := url.Parse(i.postgres.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.User, u.Path = url.UserPassword(user, password), "/ouvira"
	return u.String()
}

func (i *install) run(ctx context.Context, args ...string) (string, error) {
	var out syncBuffer
	var environ []string
	for name, value := range i.env {
		environ = append(environ, name+"="+value)
	}
	err := run(ctx, args, environ, &out)
	return out.String(), err
}

func (i *install) bootstrap(t *testing.T) {
	t.Helper()
	if out, err := i.run(t.Context(), "migrate", "--bootstrap-url", i.postgres.URL()); err != nil {
		t.Fatalf("migrate: %v %s", err, out)
	}
}

// start runs a command until stop is called, and waits until it is ready.
func (i *install) start(t *testing.T, command string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		out, err := i.run(ctx, command)
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, out)
		}
		ended <- err
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s ended with: %v", command, err)
		}
	})
	t.Cleanup(stop)
	eventually(t, command+" is ready", func() bool { return i.ready() == http.StatusOK })
	return stop
}

func (i *install) ready() int {
	res, err := http.Get("http://" + i.env["OUVIRA_INTERNAL_LISTEN"] + "/readyz")
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	return res.StatusCode
}

// cli runs the operators' command line.
func (i *install) cli(t *testing.T, in string, args ...string) (code int, out, errOut string) {
	t.Helper()
	var stdout, stderr syncBuffer
	env := map[string]string{
		"OUVIRA_URL":                  "http://" + i.env["OUVIRA_LISTEN"],
		"OUVIRA_CONTROL_DATABASE_URL": i.env["OUVIRA_CONTROL_DATABASE_URL"],
	}
	code = cli.Run(t.Context(), args, cli.Process{
		In: strings.NewReader(in), Out: &stdout, Err: &stderr,
		Getenv: func(name string) string { return env[name] }, ConfigDir: func() (string, error) { return i.home, nil },
	})
	return code, stdout.String(), stderr.String()
}

func (i *install) mustCLI(t *testing.T, in string, args ...string) (out, errOut string) {
	t.Helper()
	code, out, errOut := i.cli(t, in, args...)
	if code != cli.ExitOK {
		t.Fatalf("ouvira %v: exit %d: %s", args, code, errOut)
	}
	return out, errOut
}

type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.NewTimer(60 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-deadline.C:
			t.Fatalf("waited in vain for: %s", what)
		case <-tick.C:
		}
	}
}

// The operator's first day: set up, sign in, add a server, create a tenant.
func TestFirstDay(t *testing.T) {
	t.Parallel()
	i := newInstall(t)
	i.bootstrap(t)
	i.bootstrap(t) // again changes nothing
	i.mustCLI(t, operatorPassword+"\n", "operator", "create", "--email", "ada@ouvira.test", "--password-stdin")
	stop := i.start(t, "all")
	if code, _, _ := i.cli(t, "", "tenant", "list"); code != cli.ExitRefused {
		t.Errorf("without a login: exit %d", code)
	}
	if code, _, _ := i.cli(t, "wrong wrong wrong\n", "login", "--email", "ada@ouvira.test", "--password-stdin"); code != cli.ExitRefused {
		t.Errorf("a wrong password: exit %d", code)
	}
	i.mustCLI(t, operatorPassword+"\n", "login", "--email", "ada@ouvira.test", "--password-stdin")
	tenants := testdb.Server(t, testdb.System)
	i.mustCLI(t, tenants.URL()+"\n", "server", "add", "a", "--postgres-url", "-", "--databases", "5", "--connections", "50")
	if code, _, errOut := i.cli(t, tenants.URL()+"\n", "server", "add", "b", "--postgres-url", "-", "--connections", "50"); code != cli.ExitConflict {
		t.Errorf("the same server twice: exit %d: %s", code, errOut)
	}
	out, errOut := i.mustCLI(t, "", "tenant", "create", "acme", "--name", "Acme", "--owner-email", "ada@acme.test", "--owner-name", "Ada", "--wait", "-o", "json")
	if !strings.Contains(out, `"status": "active"`) || !strings.Contains(out, `"server": "a"`) || !strings.Contains(errOut, "activate") {
		t.Errorf("unexpected tenant: %s %s", out, errOut)
	}
	if code, _, _ := i.cli(t, "", "tenant", "create", "acme", "--name", "Acme", "--owner-email", "ada@acme.test", "--owner-name", "Ada"); code != cli.ExitConflict {
		t.Errorf("the same slug twice: exit %d", code)
	}
	if code, _, _ := i.cli(t, "", "tenant", "show", "nobody"); code != cli.ExitNotFound {
		t.Errorf("no such tenant: exit %d", code)
	}
	if code, _, _ := i.cli(t, "", "tenant", "show"); code != cli.ExitUsage {
		t.Errorf("no argument: exit %d", code)
	}
	i.mustCLI(t, "", "domain", "add", "acme", "www.acme.test")
	if out, _ := i.mustCLI(t, "", "domain", "list", "acme"); !strings.Contains(out, "_ouvira.www.acme.test") {
		t.Errorf("unexpected domains: %s", out)
	}
	for _, args := range [][]string{{"tenant", "list"}, {"tenant", "list", "-o", "wide"}, {"server", "list", "-o", "yaml"}, {"operation", "list"}, {"doctor"}} {
		i.mustCLI(t, "", args...)
	}
	if _, err := i.run(t.Context(), "healthcheck"); err != nil {
		t.Errorf("healthcheck: %v", err)
	}
	stop()
	if _, err := i.run(t.Context(), "healthcheck"); err == nil {
		t.Error("healthcheck of a process that has ended")
	}
}

// What is wrong at the start is said in a sentence, at once.
func TestRefusesToStart(t *testing.T) {
	t.Parallel()
	i := newInstall(t)
	for name, tc := range map[string]struct {
		change map[string]string
		want   string
	}{
		"no roles yet":       {nil, "check the credentials"},
		"no URL":             {map[string]string{"OUVIRA_CONTROL_DATABASE_URL": ""}, "OUVIRA_CONTROL_DATABASE_URL is not set"},
		"not a URL":          {map[string]string{"OUVIRA_CONTROL_DATABASE_URL": "postgres://%zz:secret-of-mine@"}, "not a valid postgres:// URL"},
		"no key":             {map[string]string{"OUVIRA_CONTROL_KEY_FILE": filepath.Join(i.home, "none")}, "keys generate"},
		"swapped keys":       {map[string]string{"OUVIRA_CONTROL_KEY_FILE": i.env["OUVIRA_DATA_PUBLIC_KEY_FILE"]}, "is needed here"},
		"typing error":       {map[string]string{"OUVIRA_CONTROL_KEYFILE": "x"}, "Did you mean OUVIRA_CONTROL_KEY_FILE?"},
		"bad origin":         {map[string]string{"OUVIRA_SIGNUP_ORIGINS": "https://a.example,*"}, "entry 2 is not an origin"},
		"bad share":          {map[string]string{"OUVIRA_CONNECTION_SHARE": "1.5"}, "at most 1"},
		"no long operations": {map[string]string{"OUVIRA_WORKER_LONG_OPERATIONS": "0"}, "between 1 and 100"},
		"inline":             {map[string]string{"OUVIRA_INLINE_OPERATIONS": "-1"}, "between 0 and 100"},
		"no operations":      {map[string]string{"OUVIRA_WORKER_OPERATIONS": "0"}, "between 1 and 100"},
		"no real key":        {map[string]string{"OUVIRA_ENV": "production", "TURNSTILE_SECRET_KEY": "1x0000000000000000000000000000000AA"}, "this is Cloudflare's key for tests"},
		"no page":            {map[string]string{"OUVIRA_ENV": "production", "TURNSTILE_SECRET_KEY": "0x4AAAAAAA"}, "name the sign-up pages"},
		"production":         {map[string]string{"OUVIRA_ENV": "production"}, "production wants https"},
	} {
		changed := &install{env: map[string]string{}}
		maps.Copy(changed.env, i.env)
		maps.Copy(changed.env, tc.change)
		_, err := changed.run(t.Context(), "serve")
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if strings.Contains(err.Error(), "control-password") || strings.Contains(err.Error(), "secret-of-mine") {
			t.Errorf("%s: the message shows a password: %v", name, err)
		}
	}
	i.bootstrap(t)
	i.env["OUVIRA_CONTROL_DATABASE_URL"] = i.as(t, "ouvira_control", "another-password")
	if _, err := i.run(t.Context(), "worker"); err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "check the credentials") {
		t.Errorf("a wrong password: %v", err)
	}
	if _, err := i.run(t.Context(), "migrate"); err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "check the credentials") {
		t.Errorf("migrate with a wrong password: %v", err)
	}
}

// After a power cut all start at once: the process waits for its database, and can
// be stopped while it waits.
func TestWaitsForTheControlDatabase(t *testing.T) {
	t.Parallel()
	i := newInstall(t)
	i.bootstrap(t)
	if err := i.postgres.Stop(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if out, err := i.run(ctx, "serve"); err == nil || ctx.Err() == nil || !strings.Contains(out, "waiting for the control database") {
		t.Errorf("it did not wait: %v\n%s", err, out)
	}
	started := make(chan error, 1)
	go func() { started <- i.postgres.Start(context.WithoutCancel(t.Context())) }()
	i.start(t, "serve")
	if err := <-started; err != nil {
		t.Fatal(err)
	}
}

// A binary newer than the schema says which command brings it up.
func TestRefusesAnOldSchema(t *testing.T) {
	t.Parallel()
	i := newInstall(t)
	i.bootstrap(t)
	u, err := url.Parse(i.postgres.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/ouvira"
	conn, err := pgx.Connect(t.Context(), u.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, broken := range []string{
		"UPDATE control.schema_migrations SET version = 1",
		"DROP SCHEMA river CASCADE",
		"DROP SCHEMA control CASCADE",
	} {
		if _, err := conn.Exec(t.Context(), broken); err != nil {
			t.Fatal(err)
		}
		if _, err := i.run(t.Context(), "serve"); err == nil || !strings.Contains(err.Error(), "controlplane migrate") {
			t.Errorf("after %q: %v", broken, err)
		}
	}
}

// With the control database away the process stays, says so, and goes on when
// it is back.
func TestDatabaseAwayForAWhile(t *testing.T) {
	t.Parallel()
	i := newInstall(t)
	i.bootstrap(t)
	i.mustCLI(t, operatorPassword+"\n", "operator", "create", "--email", "ada@ouvira.test", "--password-stdin")
	i.start(t, "all")
	i.mustCLI(t, operatorPassword+"\n", "login", "--email", "ada@ouvira.test", "--password-stdin")
	if err := i.postgres.Stop(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "readiness turns off", func() bool { return i.ready() == http.StatusServiceUnavailable })
	for range 5 { // those with a broken connection, and those that cannot get a new one
		code, _, errOut := i.cli(t, "", "tenant", "list")
		if code != cli.ExitFailure || !strings.Contains(errOut, "database does not answer") {
			t.Errorf("exit %d: %s", code, errOut)
		}
	}
	if err := i.postgres.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "readiness comes back", func() bool { return i.ready() == http.StatusOK })
	eventually(t, "the API works again", func() bool { code, _, _ := i.cli(t, "", "tenant", "list"); return code == cli.ExitOK })
}

func TestPrintConfigMasksSecrets(t *testing.T) {
	t.Parallel()
	i := &install{env: map[string]string{
		"OUVIRA_CONTROL_DATABASE_URL": "postgres://u:CANARY@h/d", "EMAIL_HOST_PASSWORD": "CANARY", "OUVIRA_BASE_DOMAIN": "Example.com",
	}}
	for _, args := range [][]string{{"--print-config"}, {"serve", "--print-config"}, {"worker", "--print-config"}, {"migrate", "--print-config"}} {
		out, err := i.run(t.Context(), args...)
		if err != nil || strings.Contains(out, "CANARY") || !strings.Contains(out, "OUVIRA_BASE_DOMAIN=example.com") {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
}

// The committed document is the one that this binary gives.
func TestCommittedDocument(t *testing.T) {
	t.Parallel()
	out, err := (&install{}).run(t.Context(), "openapi")
	if err != nil {
		t.Fatal(err)
	}
	committed, err := os.ReadFile("../../openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if out != string(committed) {
		t.Error("controlplane/openapi.yaml is old: make generate")
	}
}

func TestUnknownCommands(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"fly"}, {"serve", "now"}, {"keys", "generate"}, {"--fast"}} {
		if out, err := (&install{}).run(t.Context(), args...); err == nil {
			t.Errorf("%v is accepted: %s", args, out)
		}
	}
	err := errors.New("x")
	if explained(err) != err || explained(nil) != nil {
		t.Error("explained changes what it does not know")
	}
}

// A setting that config does not know is refused as a typing error, and one
// without a word about it helps nobody.
func TestEverySettingIsKnown(t *testing.T) {
	t.Parallel()
	for line := range strings.Lines(config.Table[settings]()) {
		if strings.HasSuffix(strings.TrimSpace(line), "|  |") {
			t.Errorf("shared/config does not describe %s", line)
		}
	}
}
