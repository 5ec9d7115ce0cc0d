package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/deploy/stack"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/seal"
)

// polling is the promise for a route change when every notification is lost,
// with room for the request itself on a busy machine.
const polling = time.Second + 500*time.Millisecond

// me asks who the token belongs to.
func me(t *testing.T, api stack.API) int {
	t.Helper()
	answer, err := api.Call(t.Context(), http.MethodGet, "/account/me", nil)
	if err != nil {
		return 0
	}
	return answer.Status
}

// at is the same tenant and token at another node.
func at(s *stack.Stack, node int, api stack.API, slug string) stack.API {
	other := s.TenantAPI(node, slug)
	other.Token = api.Token
	return other
}

// demo is one of the demo tenants as a customer.
func demo(s *stack.Stack, slug string) customer {
	for _, d := range s.Demo().Tenants {
		if d.Slug == slug {
			return customer{slug: d.Slug, email: d.OwnerEmail, password: d.OwnerPassword}
		}
	}
	return customer{}
}

// A route change reaches a node whose LISTEN connection is being cut all the
// time, within the polling second; the other tenant never notices.
//
//nolint:paralleltest // its bound is a time, so no other test of this package runs beside it
func TestSec06SuspensionArrivesWithTheListenerCut(t *testing.T) {
	s, _ := start(t, stack.Options{})
	operator, err := s.OperatorAPI(t.Context())
	must(t, err)
	acme, globex := demo(s, "acme").login(t, s, 0), demo(s, "globex").login(t, s, 0)
	refresh := refreshToken(t, s, "acme")

	stop := cutListeners(t, s)
	defer stop()
	for range 3 {
		must(t, operator.Want(t.Context(), http.StatusOK, http.MethodPost, "/v1/tenants/acme/suspend", map[string]string{"reason": "unpaid"}, nil))
		for node := range 2 {
			eventually(t, polling, func() (bool, string) {
				got := me(t, at(s, node, acme, "acme"))
				return got == http.StatusForbidden && renew(t, s, node, refresh) == http.StatusForbidden, fmt.Sprintf("node %d answers the suspended tenant with %d", node, got)
			})
			if got := me(t, at(s, node, globex, "globex")); got != http.StatusOK {
				t.Fatalf("node %d answers the other tenant with %d", node, got)
			}
		}
		must(t, operator.Want(t.Context(), http.StatusOK, http.MethodPost, "/v1/tenants/acme/resume", map[string]string{}, nil))
		for node := range 2 {
			eventually(t, polling, func() (bool, string) {
				got := me(t, at(s, node, acme, "acme"))
				return got == http.StatusOK, fmt.Sprintf("node %d answers the resumed tenant with %d", node, got)
			})
		}
	}
}

// refreshToken signs the demo tenant's owner in for one.
func refreshToken(t *testing.T, s *stack.Stack, slug string) string {
	t.Helper()
	owner := demo(s, slug)
	var session struct {
		Tokens struct {
			Refresh string `json:"refresh"`
		} `json:"tokens"`
	}
	must(t, s.TenantAPI(0, slug).Want(t.Context(), http.StatusOK, http.MethodPost, "/auth/login",
		map[string]string{"identifier": owner.email, "password": owner.password}, &session))
	return session.Tokens.Refresh
}

// renew tells how a node of acme answers to the refresh token.
func renew(t *testing.T, s *stack.Stack, node int, refresh string) int {
	t.Helper()
	answer, err := s.TenantAPI(node, "acme").Call(t.Context(), http.MethodPost, "/auth/token/refresh", map[string]string{"refresh": refresh})
	if err != nil {
		return 0
	}
	return answer.Status
}

// A node hears of nothing any more: its way to the control database stands still. It
// goes on serving what it knows of, and a tenant that is suspended meanwhile is kept
// from it by the fence: so is whoever has the role's own password. The neighbour is
// served all the time.
func TestSec06ADeafNodeIsKeptOutByTheFence(t *testing.T) {
	t.Parallel()
	s, _ := start(t, stack.Options{})
	const variable = "OUVIRA_NODE_DATABASE_URL"
	node := stack.DataNode(0)
	direct, err := url.Parse(s.Env(node)[variable])
	must(t, err)
	to := newNetwork(t, direct.Host)
	behind := *direct
	behind.Host = to.proxy.Listen
	s.SetEnv(node, variable, behind.String())
	must(t, s.Stop(node))
	must(t, s.Start(t.Context(), node))
	operator, err := s.OperatorAPI(t.Context())
	must(t, err)
	acme, globex := demo(s, "acme").login(t, s, 0), demo(s, "globex").login(t, s, 0)
	address := roleAddress(t, s, "acme")
	own := sql(t, address)

	to.stall(t)
	suspended := time.Now()
	must(t, operator.Want(t.Context(), http.StatusOK, http.MethodPost, "/v1/tenants/acme/suspend", map[string]string{"reason": "unpaid"}, nil))
	eventually(t, healing+room, func() (bool, string) {
		got := me(t, acme)
		return got != http.StatusOK, fmt.Sprintf("the deaf node answers the suspended tenant with %d", got)
	})
	t.Logf("the deaf node stopped serving the tenant %v after the suspension was asked for", time.Since(suspended))
	for range 10 {
		if got := me(t, acme); got == http.StatusOK {
			t.Fatal("the deaf node serves the suspended tenant again")
		}
		if got := me(t, globex); got != http.StatusOK {
			t.Fatalf("the deaf node answers the neighbour with %d", got)
		}
	}
	if _, err := own.Exec(t.Context(), "SELECT 1"); err == nil {
		t.Error("a session of the role goes on")
	}
	if conn, err := pgx.Connect(t.Context(), address); err == nil {
		_ = conn.Close(t.Context())
		t.Error("the role's own password opens the database")
	}

	to.heal()
	eventually(t, healing+room, func() (bool, string) {
		got := me(t, acme)
		return got == http.StatusForbidden, fmt.Sprintf("the node that hears again answers the suspended tenant with %d", got)
	})
	must(t, operator.Want(t.Context(), http.StatusOK, http.MethodPost, "/v1/tenants/acme/resume", map[string]string{}, nil))
	eventually(t, healing+room, func() (bool, string) {
		got := me(t, acme)
		return got == http.StatusOK, fmt.Sprintf("the node answers the resumed tenant with %d", got)
	})
}

// roleAddress leads to the tenant's database with the password of its role, which a
// node opens with its key.
func roleAddress(t *testing.T, s *stack.Stack, slug string) string {
	t.Helper()
	key, err := seal.LoadDataKey(s.Env(stack.DataNode(0))["OUVIRA_DATA_KEY_FILE"])
	must(t, err)
	var id [16]byte
	var incarnation int
	var sealed []byte
	conn := sql(t, s.Demo().Postgres.Control)
	must(t, conn.QueryRow(t.Context(), "SELECT id, incarnation, credential FROM control.tenants WHERE slug = $1", slug).Scan(&id, &incarnation, &sealed))
	password, err := key.Open(sealed, route.CredentialContext(id, incarnation))
	must(t, err)
	address, database := tenantDatabase(t, s, slug)
	return inDatabase(t, address, database, url.UserPassword(database, string(password)))
}

// cutListeners terminates every backend that listens, again and again, until
// the returned function is called.
func cutListeners(t *testing.T, s *stack.Stack) func() {
	t.Helper()
	conn := sql(t, s.Demo().Postgres.Control)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(30 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				_, _ = conn.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ILIKE 'listen %ouvira_routes%'")
			}
		}
	})
	return sync.OnceFunc(func() { close(done); wg.Wait() })
}

// One node is killed: the other serves on, and the killed one knows all that
// has changed when it is back.
func TestAKilledNodeComesBackKnowingEverything(t *testing.T) {
	t.Parallel()
	s, _ := start(t, stack.Options{})
	acme := demo(s, "acme").login(t, s, 0)
	must(t, s.Kill9(stack.DataNode(0)))
	if got := me(t, at(s, 1, acme, "acme")); got != http.StatusOK {
		t.Fatalf("the node that lives answers with %d", got)
	}
	late := signUp(t, s, "latecomer")
	eventually(t, recovery, func() (bool, string) { got := late.state(t.Context(), s); return got.Status == "active", got.Status })
	operator, err := s.OperatorAPI(t.Context())
	must(t, err)
	must(t, operator.Want(t.Context(), http.StatusOK, http.MethodPost, "/v1/tenants/globex/suspend", map[string]string{"reason": "unpaid"}, nil))
	must(t, s.Start(t.Context(), stack.DataNode(0)))
	late.login(t, s, 0)
	if got := me(t, at(s, 0, acme, "acme")); got != http.StatusOK {
		t.Errorf("the node that came back answers acme with %d", got)
	}
	if got := me(t, s.TenantAPI(0, "globex")); got != http.StatusForbidden {
		t.Errorf("the node that came back answers the suspended tenant with %d", got)
	}
}

// The control plane and its database are gone: every known tenant is served.
func TestTheDataPlaneServesAlone(t *testing.T) {
	t.Parallel()
	s, _ := start(t, stack.Options{})
	for _, part := range []string{stack.Control, stack.Worker} {
		must(t, s.Kill9(part))
	}
	must(t, s.StopImmediate(stack.PGControl))
	for node := range 2 {
		for _, slug := range []string{"acme", "globex"} {
			api := demo(s, slug).login(t, s, node)
			if got := me(t, api); got != http.StatusOK {
				t.Errorf("node %d answers %s with %d", node, slug, got)
			}
		}
	}
}

// A token of one tenant is refused at the other, whatever the headers say.
func TestSec01And02ATokenStaysWithItsTenant(t *testing.T) {
	t.Parallel()
	s, _ := start(t, stack.Options{})
	acme := demo(s, "acme").login(t, s, 0)
	for node := range 2 {
		if got := me(t, at(s, node, acme, "globex")); got != http.StatusUnauthorized {
			t.Errorf("node %d answers a token of acme at globex with %d", node, got)
		}
		if got := me(t, at(s, node, acme, "acme")); got != http.StatusOK {
			t.Errorf("node %d answers acme with %d", node, got)
		}
	}
}
