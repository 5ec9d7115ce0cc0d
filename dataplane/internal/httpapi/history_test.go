package httpapi_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/anishathalye/porcupine"

	"github.com/ouvira/ouvira/dataplane/internal/historytest"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
)

// What is done with a person's one role: each takes effect at one moment
// between its call and its answer.
const (
	granting = "grant"
	revoking = "revoke"
	checking = "check"
)

// done is one of them, at a node, for the person of a tenant.
type done struct {
	tenant string
	what   string
	node   int
}

// allowing is the sequential specification: a person may what they were last
// granted, and not what was taken from them, wherever they ask.
var allowing = porcupine.Model{
	Partition: historytest.By(func(d done) string { return d.tenant }),
	Init:      func() any { return false },
	Step: func(state, input, output any) (bool, any) {
		switch input.(done).what {
		case granting:
			return true, true
		case revoking:
			return true, false
		}
		return output == state, state
	},
	DescribeOperation: func(input, output any) string {
		d := input.(done)
		if d.what == checking {
			return fmt.Sprintf("check at %d: %v", d.node, output)
		}
		return fmt.Sprintf("%s at %d", d.what, d.node)
	},
}

// TestRel14 two nodes answer as one: what a history of grants, revocations and
// checks at both of them shows could have been answered by a single node that
// does one thing after the other. In particular nobody is allowed what was
// taken away by a revocation that was acknowledged before they asked, and
// nobody is denied what was granted.
func TestRel14GrantsAndRevocationsAreLinearizable(t *testing.T) {
	t.Parallel()
	first := newNode(t)
	nodes := []*node{first, nodeOver(t, first.Fixture)}
	var history historytest.Recorder
	var group sync.WaitGroup
	clients := 0
	client := func() int {
		clients++
		return clients
	}
	for _, tenant := range []tenanttest.Tenant{first.A, first.B} {
		owner, _ := first.login(t, tenant)
		p := &permitted{
			nodes: nodes, history: &history, tenant: tenant, owner: owner, person: first.person(t, tenant, "ada"),
			role: seeded(t, tenant, "employee"), finished: make(chan struct{}),
		}
		p.membership = member(t, tenant, p.person.id, tenant.CompanyID)
		giver := client()
		group.Go(func() {
			defer close(p.finished)
			for range 40 {
				p.giveAndTake(t, giver)
			}
		})
		for range checkersOfEach {
			checker := client()
			group.Go(func() { p.check(t, checker) })
		}
	}
	group.Wait()
	history.Judge(t, allowing)
}

const checkersOfEach = 3

// permitted is a person who is given a role and loses it again.
type permitted struct {
	nodes      []*node
	history    *historytest.Recorder
	tenant     tenanttest.Tenant
	owner      string // token of who gives
	person     person
	membership int64
	role       int64
	checks     atomic.Int64
	finished   chan struct{}
}

// giveAndTake gives the role and takes it away, both at any node. After each,
// some checks begin and end before the next: those that overlap with a change
// may be answered either way.
func (p *permitted) giveAndTake(t *testing.T, client int) {
	t.Helper()
	const path = accessControl + "/user-company-roles"
	slug, host := p.tenant.Route.Slug, hostOf(p.tenant)
	assignment := int64(0)
	at := rand.IntN(len(p.nodes))
	p.history.Do(client, done{slug, granting, at}, func() any {
		a := p.nodes[at].ask(t, http.MethodPost, host, path, object{"user_company": p.membership, "role": p.role, "scope": "self"}, bearer(p.owner))
		expect(t, "grant", a, 201)
		assignment = a.number("id")
		return nil
	})
	p.letThemCheck()
	at = rand.IntN(len(p.nodes))
	p.history.Do(client, done{slug, revoking, at}, func() any {
		expect(t, "revoke", p.nodes[at].ask(t, http.MethodDelete, host, path+"/"+itoa(assignment), nil, bearer(p.owner)), 204)
		return nil
	})
	p.letThemCheck()
}

// letThemCheck returns when more checks have ended than were under way.
func (p *permitted) letThemCheck() {
	for enough := p.checks.Load() + 3*checkersOfEach; p.checks.Load() < enough; {
		runtime.Gosched()
	}
}

// check asks at any node, one time after the other, whether the person may.
func (p *permitted) check(t *testing.T, client int) {
	t.Helper()
	for {
		select {
		case <-p.finished:
			return
		default:
		}
		at := rand.IntN(len(p.nodes))
		p.history.Do(client, done{p.tenant.Route.Slug, checking, at}, func() any {
			a := p.nodes[at].ask(t, http.MethodGet, hostOf(p.tenant), "/company/"+itoa(p.tenant.CompanyID), nil, bearer(p.person.token))
			if a.status != 200 && a.status != 403 {
				t.Errorf("check at %d: %d %s", at, a.status, a.raw)
			}
			return a.status == 200
		})
		p.checks.Add(1)
	}
}
