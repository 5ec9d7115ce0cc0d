package e2e

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/ouvira/ouvira/deploy/stack"
)

// Nodes are killed again and again while users write: what was acknowledged is
// there, once, and who tries again is served by the other node.
func TestRel01AcknowledgedWritesSurviveKilledNodes(t *testing.T) {
	t.Parallel()
	s := borrow(t)
	b := newBalancer(t, s)
	const retries = 40
	one, two := work(t, tenant(t, s, b, "kill-one"), "kill-one", 4, retries), work(t, tenant(t, s, b, "kill-two"), "kill-two", 4, retries)
	one.more(t, 20)
	for kill := range scaled(4, 100) {
		node := stack.DataNode(kill % 2)
		must(t, s.Kill9(node))
		one.more(t, 10) // by the other node
		two.more(t, 10)
		must(t, s.Start(t.Context(), node))
		settled(t, s, kill%2)
		b.sends(t, kill%2)
	}
	for _, l := range []*load{one, two} {
		l.stop()
		l.flawless(t)
		address, _ := tenantDatabase(t, s, l.prefix)
		l.replay(t, address)
	}
}

// Nodes are restarted in order while users work who never try again: not one
// request fails.
func TestRel17ARestartInOrderCostsNoRequest(t *testing.T) {
	t.Parallel()
	s := borrow(t)
	b := newBalancer(t, s)
	one, two := work(t, tenant(t, s, b, "restart-one"), "restart-one", 4, 0), work(t, tenant(t, s, b, "restart-two"), "restart-two", 4, 0)
	one.more(t, 20)
	for restart := range scaled(2, 50) {
		node := stack.DataNode(restart % 2)
		must(t, s.Stop(node))
		one.more(t, 10)
		two.more(t, 10)
		must(t, s.Start(t.Context(), node))
		settled(t, s, restart%2)
		b.sends(t, restart%2)
	}
	for _, l := range []*load{one, two} {
		l.stop()
		l.flawless(t)
		address, _ := tenantDatabase(t, s, l.prefix)
		l.replay(t, address)
	}
}

// The control plane, its worker and its database stop. Users of the demo
// tenants log in, read and write, also while both nodes restart; all parts that
// come back heal without a restart of anything else. Then the database alone
// stops: sign-ups are refused clearly and at once, until it is back.
func TestRel09TheControlPlaneGoesAndComesBack(t *testing.T) {
	t.Parallel()
	s := borrow(t)
	b := newBalancer(t, s)
	loads := map[string]*load{}
	for _, slug := range []string{"acme", "globex"} {
		loads[slug] = work(t, through(b, demo(s, slug).login(t, s, 0)), slug, 4, 0)
		loads[slug].more(t, 10)
	}
	everyoneWorks := func() {
		t.Helper()
		for slug, l := range loads {
			for node := range 2 {
				if got := me(t, demo(s, slug).login(t, s, node)); got != http.StatusOK {
					t.Errorf("node %d answers %s with %d", node, slug, got)
				}
			}
			l.more(t, 10)
		}
	}

	away := []string{stack.Control, stack.Worker, stack.PGControl}
	for _, part := range away {
		must(t, s.Stop(part))
	}
	gone := time.Now()
	everyoneWorks()
	for node := range 2 {
		must(t, s.Stop(stack.DataNode(node)))
		must(t, s.Start(t.Context(), stack.DataNode(node)))
		ready(t, s, node)
		b.sends(t, node)
		everyoneWorks()
	}
	for time.Since(gone) < scaled(0, 10*time.Minute) {
		everyoneWorks()
	}
	for _, part := range []string{stack.PGControl, stack.Control, stack.Worker} {
		must(t, s.Start(t.Context(), part))
	}
	arrives(t, s, "came-back")

	pids := s.Demo().PIDs
	must(t, s.Stop(stack.PGControl))
	for range 5 {
		refusedAtOnce(t, s)
	}
	everyoneWorks()
	must(t, s.Start(t.Context(), stack.PGControl))
	arrives(t, s, "healed")
	if now := s.Demo().PIDs; fmt.Sprint(now) != fmt.Sprint(pids) {
		t.Errorf("something else was restarted: %v before, %v now", pids, now)
	}
	for slug, l := range loads {
		l.stop()
		l.flawless(t)
		address, _ := tenantDatabase(t, s, slug)
		l.replay(t, address)
	}
}

// refusedAtOnce tries a sign-up without a control database.
func refusedAtOnce(t *testing.T, s *stack.Stack) {
	t.Helper()
	begun := time.Now()
	answer, err := s.ControlAPI().Call(t.Context(), http.MethodPost, "/v1/signups", map[string]string{
		"company_name": "Too Early", "slug": "too-early", "full_name": "Owner", "email": "owner@too-early.example", "password": "correct horse battery",
	})
	took := time.Since(begun)
	must(t, err)
	var problem struct {
		Code   string `json:"code"`
		Detail string `json:"detail"`
	}
	must(t, answer.Into(&problem))
	if answer.Status != http.StatusServiceUnavailable || problem.Code != "database_unavailable" || problem.Detail == "" ||
		answer.Header.Get("Retry-After") == "" || answer.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("a sign-up is answered with %v %s", answer.Header, answer)
	}
	if took > 2*time.Second {
		t.Errorf("a sign-up is refused after %v", took)
	}
}

// arrives takes a new customer from the form to both nodes.
func arrives(t *testing.T, s *stack.Stack, slug string) customer {
	t.Helper()
	c := signUp(t, s, slug)
	eventually(t, recovery, func() (bool, string) {
		got := c.state(t.Context(), s)
		return got.Status == "active", got.Status + " " + got.Reason
	})
	for node := range 2 {
		if got := me(t, c.login(t, s, node)); got != http.StatusOK {
			t.Errorf("node %d answers %s with %d", node, slug, got)
		}
	}
	return c
}
