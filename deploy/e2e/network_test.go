package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/ouvira/ouvira/deploy/stack"
)

// Bounds of a node, with room for a slow machine: a request ends within
// requestTimeout and is refused within it, and pools heal within five seconds.
const (
	requestTimeout = 30 * time.Second
	room           = 15 * time.Second
	healing        = 5 * time.Second
)

// neighbours are two tenants on two servers.
type neighbours struct {
	ill, well             stack.API // through the balancer
	illServer, wellServer string
}

// apart signs customers up until two of them live on different servers.
func apart(t *testing.T, s *stack.Stack, b *balancer, slug string) neighbours {
	t.Helper()
	apps := map[string]stack.API{}
	for i := range 10 {
		name := fmt.Sprintf("%s-%d", slug, i)
		app := tenant(t, s, b, name)
		apps[serverOf(t, s, name)] = app
		if len(apps) == 2 {
			return neighbours{ill: apps["a"], well: apps["b"], illServer: "a", wellServer: "b"}
		}
	}
	t.Fatal("all tenants are on one server")
	return neighbours{}
}

func serverOf(t *testing.T, s *stack.Stack, slug string) string {
	t.Helper()
	return column[string](t, s.Demo().Postgres.Control, "SELECT s.name FROM control.tenants t JOIN control.servers s ON s.id = t.server_id WHERE t.slug = $1", slug)[0]
}

// answers counts what a crowd was told, and the longest that somebody waited.
type answers struct {
	mu     sync.Mutex
	status map[int]int
	worst  time.Duration
}

// crowd sends n requests at once and returns when all are answered.
func crowd(t *testing.T, app stack.API, n int) *answers {
	t.Helper()
	a := &answers{status: map[int]int{}}
	var group sync.WaitGroup
	for range n {
		group.Go(func() {
			begun := time.Now()
			answer, err := app.Call(t.Context(), http.MethodGet, "/account/me", nil)
			if err != nil {
				t.Errorf("no answer after %v: %v", time.Since(begun), err)
				return
			}
			if answer.Status == http.StatusServiceUnavailable && answer.Header.Get("Retry-After") == "" {
				t.Errorf("503 without Retry-After: %s", answer)
			}
			a.mu.Lock()
			defer a.mu.Unlock()
			a.status[answer.Status]++
			a.worst = max(a.worst, time.Since(begun))
		})
	}
	group.Wait()
	return a
}

// Each word of one server takes five seconds. Its tenants are answered with 503
// by the deadline, the other server's notice nothing.
func TestRel06ASlowServerIsItsTenantsOwnTrouble(t *testing.T) {
	t.Parallel()
	s := borrow(t)
	b := newBalancer(t, s)
	n := apart(t, s, b, "slow")
	to := before(t, s, n.illServer)
	if got := crowd(t, n.ill, 4); got.status[http.StatusOK] != 4 {
		t.Fatalf("before the trouble: %v", got.status)
	}
	well := work(t, n.well, "slow-well", 4, 0)
	well.more(t, 20)

	to.delay(t, 5*time.Second)
	for range scaled(1, 10) {
		got := crowd(t, n.ill, 40)
		t.Logf("of the slow server: %v, the slowest answer after %v", got.status, got.worst.Round(time.Millisecond))
		if got.status[http.StatusServiceUnavailable] == 0 || got.status[http.StatusInternalServerError] > 0 {
			t.Errorf("the slow server's tenant is answered with %v", got.status)
		}
		if got.worst > requestTimeout+room {
			t.Errorf("somebody waited %v", got.worst)
		}
		well.more(t, 20)
	}
	to.heal()
	eventually(t, healing+room, func() (bool, string) {
		got := crowd(t, n.ill, 4)
		return got.status[http.StatusOK] == 4, fmt.Sprintf("healed, and answered with %v", got.status)
	})
	well.stop()
	well.flawless(t)
	if well.worst > requestTimeout/3 {
		t.Errorf("a request of the other server took %v", well.worst)
	}
}

// The network to one server stands still, both ways, under load: connections
// that are there hear nothing, new ones are accepted and hear nothing. When it
// moves again the pools heal within five seconds, and nobody restarts anything.
func TestRel08PoolsHealAfterTheNetworkStoodStill(t *testing.T) {
	t.Parallel()
	s := borrow(t)
	b := newBalancer(t, s)
	n := apart(t, s, b, "stall")
	to := before(t, s, n.illServer)
	const retries = 400 // users who go on asking
	ill, well := work(t, n.ill, "stall-ill", 8, retries), work(t, n.well, "stall-well", 4, 0)
	ill.more(t, 40)

	to.stall(t)
	stalled := time.Now()
	well.more(t, 20)
	for time.Since(stalled) < scaled(5*time.Second, time.Minute) {
		well.more(t, 10)
	}
	to.heal()
	healed := time.Now()
	ill.more(t, 8)
	if took := time.Since(healed); took > healing+room {
		t.Errorf("the pools healed only after %v", took)
	} else {
		t.Logf("the pools healed after %v", took)
	}
	for node := range 2 {
		app := n.ill
		app.Base, app.Client = s.TenantAPI(node, "any").Base, nil
		if got := crowd(t, app, 20); got.status[http.StatusOK] != 20 {
			t.Errorf("node %d answers with %v", node, got.status)
		}
	}
	for _, l := range []*load{ill, well} {
		l.stop()
		l.flawless(t)
	}
}

// The control database falls silent: it accepts, and says nothing. Sign-ups are
// refused within two seconds, nodes serve on, and all heals by itself.
func TestRel09ASilentControlDatabaseIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	s := borrow(t)
	b := newBalancer(t, s)
	const variable = "OUVIRA_CONTROL_DATABASE_URL"
	direct, err := url.Parse(s.Env(stack.Control)[variable])
	must(t, err)
	to := newNetwork(t, direct.Host)
	behind := *direct
	behind.Host = to.proxy.Listen
	restart := func(value string) {
		s.SetEnv(stack.Control, variable, value)
		must(t, s.Stop(stack.Control))
		must(t, s.Start(t.Context(), stack.Control))
	}
	restart(behind.String())
	t.Cleanup(func() {
		to.heal()
		s.SetEnv(stack.Control, variable, direct.String())
		must(t, s.Stop(stack.Control)) // borrow's cleanup starts it again
	})
	l := work(t, tenant(t, s, b, "silence"), "silence", 2, 0)
	l.more(t, 10)
	pids := s.Demo().PIDs
	to.stall(t)
	for range 3 {
		refusedAtOnce(t, s)
	}
	l.more(t, 10)
	to.heal()
	eventually(t, healing+room, func() (bool, string) {
		answer, err := s.ControlAPI().Call(t.Context(), http.MethodGet, "/v1/signups/availability?slug=anything", nil)
		return err == nil && answer.Status < http.StatusInternalServerError, fmt.Sprint(answer, err)
	})
	arrives(t, s, "spoken")
	if now := s.Demo().PIDs; fmt.Sprint(now) != fmt.Sprint(pids) {
		t.Errorf("something was restarted: %v before, %v now", pids, now)
	}
	l.stop()
	l.flawless(t)
}
