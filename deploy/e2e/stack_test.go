package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/deploy/stack"
)

// bin holds the planes, built with failpoints, for all tests.
var bin string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "ouvira-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	root, err := stack.Root()
	if err == nil {
		err = stack.Build(context.Background(), root, dir, "failpoints")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	bin = dir
	// The programs collect their garbage as they do for everybody.
	if err := os.Unsetenv("GOGC"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := closeShared(); err != nil {
		fmt.Fprintln(os.Stderr, "stop the shared stack:", err)
		code = max(code, 1)
	}
	return code
}

// start brings up a stack that ends with the test. Its failpoints are armed in
// the returned folder.
func start(t testing.TB, o stack.Options) (*stack.Stack, string) {
	t.Helper()
	failpoints := t.TempDir()
	o.Bin, o.Disposable = bin, true
	if o.Env == nil {
		o.Env = map[string]map[string]string{}
	}
	if o.Env[""] == nil {
		o.Env[""] = map[string]string{}
	}
	o.Env[""]["OUVIRA_FAILPOINT_DIR"] = failpoints
	state, err := os.MkdirTemp("", "ouvira-e2e-") // t.TempDir follows GOTMPDIR, which is on a disk
	must(t, err)
	must(t, passable(state))
	t.Cleanup(func() { _ = os.RemoveAll(state) })
	s, end, err := up(t.Context(), state, o)
	if err != nil {
		t.Fatalf("start the stack: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(logs(s.State()))
		}
		if err := end(); err != nil {
			t.Errorf("stop the stack: %v", err)
		}
	})
	return s, failpoints
}

// passable opens a test's folder to the user that Postgres runs as, whose data would
// otherwise lie elsewhere, and not in memory where the test's other files may be.
func passable(dir string) error { return os.Chmod(dir, 0o711) }

// logs are the last lines that each program wrote.
func logs(state string) string {
	files, _ := filepath.Glob(filepath.Join(state, "log", "*.log"))
	out := ""
	for _, file := range files {
		text, _ := os.ReadFile(file)
		if len(text) > 60000 {
			text = text[len(text)-60000:]
		}
		out += "--- " + filepath.Base(file) + "\n" + string(text) + "\n"
	}
	return out
}

// eventually waits for the condition, which explains itself while it is not
// true, and fails the test after the limit.
func eventually(t testing.TB, limit time.Duration, condition func() (bool, string)) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, why := condition()
		if ok {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("not within %s: %s", limit, why)
		case <-tick.C:
		}
	}
}

// customer is a tenant in the making.
type customer struct {
	slug, email, password string
	signup                string
}

// signUp takes a customer up to the verified code, and not further.
func signUp(t testing.TB, s *stack.Stack, slug string) customer {
	t.Helper()
	c, code := ask(t, s, slug)
	c.verify(t, s, code)
	return c
}

// ask signs a customer up, who gets a code by mail.
func ask(t testing.TB, s *stack.Stack, slug string) (c customer, code string) {
	t.Helper()
	c = customer{slug: slug, email: "owner@" + slug + ".example", password: "correct horse battery " + slug}
	asked := time.Now()
	var made struct {
		ID string `json:"id"`
	}
	err := s.ControlAPI().Want(t.Context(), http.StatusCreated, http.MethodPost, "/v1/signups", map[string]string{
		"company_name": "Company " + slug, "slug": slug, "full_name": "Owner of " + slug, "email": c.email, "password": c.password,
	}, &made)
	if err != nil {
		t.Fatal(err)
	}
	if code, err = s.Code(t.Context(), c.email, asked); err != nil {
		t.Fatal(err)
	}
	c.signup = made.ID
	return c, code
}

// verify gives the code back, and tells how far the tenant is.
func (c customer) verify(t testing.TB, s *stack.Stack, code string) (status string) {
	t.Helper()
	var answer struct {
		Tenant struct {
			Status string `json:"status"`
		} `json:"tenant"`
	}
	err := s.ControlAPI().Want(t.Context(), http.StatusAccepted, http.MethodPost, "/v1/signups/"+c.signup+"/verify", map[string]string{"code": code}, &answer)
	if err != nil {
		t.Fatal(err)
	}
	return answer.Tenant.Status
}

// state of a sign-up as anyone may see it.
type state struct {
	Status string `json:"status"`
	Reason string `json:"reason"`
}

func (c customer) state(ctx context.Context, s *stack.Stack) state {
	var got state
	if err := s.ControlAPI().Want(ctx, http.StatusOK, http.MethodGet, "/v1/signups/"+c.signup, nil, &got); err != nil {
		got.Reason = err.Error()
	}
	return got
}

// login at a node; the answer's tokens.
func (c customer) login(t testing.TB, s *stack.Stack, node int) stack.API {
	t.Helper()
	api := s.TenantAPI(node, c.slug)
	var session struct {
		Tokens struct {
			Access string `json:"access"`
		} `json:"tokens"`
	}
	eventually(t, 10*time.Second, func() (bool, string) {
		err := api.Want(t.Context(), http.StatusOK, http.MethodPost, "/auth/login", map[string]string{"identifier": c.email, "password": c.password}, &session)
		return err == nil, fmt.Sprint(err)
	})
	api.Token = session.Tokens.Access
	return api
}

// sql opens a connection to a server of the stack that ends with the test.
func sql(t *testing.T, address string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// column runs a query of one column.
func column[T any](t *testing.T, address, query string, args ...any) []T {
	t.Helper()
	ctx := context.WithoutCancel(t.Context()) // cleanups ask too
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, query, args...)
	if err != nil {
		t.Fatal(err)
	}
	values, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatal(err)
	}
	return values
}

// inDatabase is the address of another database on the same server, for
// another user where one is named.
func inDatabase(t *testing.T, address, database string, user *url.Userinfo) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + database
	if user != nil {
		u.User = user
	}
	return u.String()
}
