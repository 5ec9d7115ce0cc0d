package e2e

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/ouvira/ouvira/deploy/stack"
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

	stop := cutListeners(t, s)
	defer stop()
	for range 3 {
		must(t, operator.Want(t.Context(), http.StatusOK, http.MethodPost, "/v1/tenants/acme/suspend", map[string]string{"reason": "unpaid"}, nil))
		for node := range 2 {
			eventually(t, polling, func() (bool, string) {
				got := me(t, at(s, node, acme, "acme"))
				return got == http.StatusForbidden, fmt.Sprintf("node %d answers the suspended tenant with %d", node, got)
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
