package httpapi_test

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/dataplane/internal/peertest"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/testdb/sidebyside"
)

const (
	// tight is what the fleet may hold of its server at once, roomy what keeps
	// fifty tenants warm however clients meet.
	tight, roomy = 60, 4 * warm
	// zipf is the exponent of the uneven loads: the tenant of rank k gets a
	// share of 1/k^1.1.
	zipf, uniform = 1.1, 0
)

// BenchmarkFleet is everything that needs a thousand databases, which are made
// once: see world.
func BenchmarkFleet(b *testing.B) {
	w := newWorld(b)
	many := len(w.tenants)
	for _, c := range []struct {
		name string
		run  func(*testing.B, load)
		load load
	}{
		{"routed-1", w.routed, load{1, uniform, warm, tight}},
		{"routed-50-zipf", w.routed, load{50, zipf, workers, roomy}},
		{"routed-1000", w.routed, load{many, uniform, workers, tight}},
		{"routed-1000-zipf", w.routed, load{many, zipf, workers, tight}},
		{"pgbouncer-1", w.pgbouncer, load{1, uniform, warm, tight}},
		{"pgbouncer-50", w.pgbouncer, load{50, uniform, workers, tight}},
		{"pgbouncer-50-zipf", w.pgbouncer, load{50, zipf, workers, tight}},
		{"pgbouncer-1000", w.pgbouncer, load{many, uniform, workers, tight}},
		{"pgbouncer-1000-zipf", w.pgbouncer, load{many, zipf, workers, tight}},
		// A quarter of what the peer holds: one connection for each tenant.
		{"peer-50", w.persistentPeer, load{50, uniform, workers, warm}},
		{"peer-50-backends", w.peerBackends, load{50, uniform, workers, warm}},
		{"peer-1000", w.connectingPeer, load{many, uniform, workers, many}},
		{"peer-1000-tight", w.connectingPeer, load{many, zipf, workers, tight}},
		{"cold-tenant", w.cold, load{tenants: many, budget: many}},
		{"fleet-budget", w.fleetBudget, load{many / 2, zipf, 9, tight}},
		{"fleet-alike", w.fleetOfThree, load{many / 2, uniform, 9, tight}},
		{"fleet-zipf-1.1", w.fleetOfThree, load{many / 2, 1.1, 9, tight}},
		{"fleet-zipf-1.5", w.fleetOfThree, load{many / 2, 1.5, 9, tight}},
		{"fleet-zipf-2", w.fleetOfThree, load{many / 2, 2, 9, tight}},
		{"fleet-zipf-3", w.fleetOfThree, load{many / 2, 3, 9, tight}},
	} {
		b.Run(c.name, func(b *testing.B) { c.run(b, c.load) })
	}
}

// load says who asks whom: clients at tenants of their choice, those of lower
// rank more often, by the exponent of Zipf's law, or all alike (0). The budget
// is what the tenants' server may have of connections.
type load struct {
	tenants  int
	exponent float64
	clients  int
	budget   int
}

// routed compares the routed handler with the same on one fixed pool, both with
// one client for each of their connections at the most.
func (w *world) routed(b *testing.B, l load) {
	b.Helper()
	node := w.node(b, l.budget)
	pool := fixedPool(b, w.A, int32(l.clients))
	ours := w.callers(b, all(serve(b, routedAPI(node))), l, ownRequest)
	fixed := clients(b, l.clients, all(serve(b, smallAPI(direct(func(string) *pgxpool.Pool { return pool })))))
	same := ownRequest(w.A)
	w.compare(b, l.clients, way{op: ours, backends: oursBackends},
		way{op: func(worker int) { fixed[worker].call(same) }, backends: "usename = '" + w.A.Route.Database + "' AND NOT (" + oursBackends + ")"})
}

// pgbouncer compares the routed handler with an application that has a small
// pool for each tenant at PgBouncer, both within the same budget.
func (w *world) pgbouncer(b *testing.B, l load) {
	b.Helper()
	at := peertest.PgBouncer(b, w.Server, w.tenants[:l.tenants], l.budget)
	pools := make(map[string]*pgxpool.Pool, l.tenants)
	connecting, ctx := errgroup.WithContext(b.Context())
	connecting.SetLimit(workers)
	for _, t := range w.tenants[:l.tenants] {
		config, err := pgxpool.ParseConfig(at(t))
		if err != nil {
			b.Fatal(err)
		}
		config.MaxConns = int32(l.clients)
		config.HealthCheckPeriod = time.Minute
		// Named statements do not survive transaction pooling.
		config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
		pool, err := pgxpool.NewWithConfig(context.Background(), config)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(pool.Close)
		pools[hostOf(t)] = pool
		connecting.Go(func() error { return pool.Ping(ctx) })
	}
	if err := connecting.Wait(); err != nil {
		b.Fatal(err)
	}
	through := serve(b, smallAPI(direct(func(host string) *pgxpool.Pool { return pools[host] })))
	w.compare(b, l.clients,
		way{op: w.callers(b, all(serve(b, routedAPI(w.node(b, l.budget)))), l, ownRequest), backends: oursBackends},
		way{op: w.callers(b, all(through), l, ownRequest), backends: "usename = '" + tenanttest.SharedRole + "'"})
}

// persistentPeer compares GET /account/me with the Django service's, which
// keeps a connection to each tenant in each of its processes.
func (w *world) persistentPeer(b *testing.B, l load) {
	b.Helper()
	ours, django := w.peers(b, l, true)
	w.compare(b, l.clients, ours, django)
}

// connectingPeer compares it with one that connects for each request, because
// it could not keep so many connections.
func (w *world) connectingPeer(b *testing.B, l load) {
	b.Helper()
	ours, django := w.peers(b, l, false)
	w.compare(b, l.clients, ours, django)
}

// peerBackends compares what the two hold of the server at fifty tenants, once
// everybody has been served.
func (w *world) peerBackends(b *testing.B, l load) {
	b.Helper()
	ours, django := w.peers(b, l, true)
	counts := w.watch(ours, django)
	sidebyside.Run(l.clients, w.each, ours.op)
	sidebyside.Run(l.clients, w.each, django.op)
	most := counts()
	sidebyside.Against(b, most[0], most[1])
}

func (w *world) peers(b *testing.B, l load, persistent bool) (ours, django way) {
	b.Helper()
	node := w.node(b, l.budget)
	handler, tokens := wholeNode(b, w.Fixture, node)
	peerAt := peertest.Django(b, w.Server, w.tenants[:l.tenants], tokens.Issuer, persistent)
	requests := w.signInAll(b, handler, w.tenants[:l.tenants])
	own := func(t tenanttest.Tenant) []byte { return requests[t.Route.Slug] }
	at := serve(b, handler)
	sameAnswer(b, clients(b, 1, all(at))[0], clients(b, 1, all(peerAt))[0], own(w.A))
	ours = way{op: w.callers(b, all(at), l, own), backends: oursBackends}
	django = way{op: w.callers(b, all(peerAt), l, own), backends: "application_name = 'peer'"}
	// Each of Django's processes has to meet each tenant once, if it stays
	// connected.
	for turns, all := 0, float64(peertest.DjangoWorkers()*l.tenants); persistent && turns < 5; turns++ {
		counts := w.watch(django)
		sidebyside.Run(l.clients, 3*w.each, django.op)
		if counts()[0] >= all {
			break
		}
	}
	return ours, django
}

// signInAll has a request for each tenant's owner. Hashing passwords takes its
// time, so the tokens serve the next benchmark as well, if it comes soon enough.
func (w *world) signInAll(b *testing.B, handler http.Handler, tenants []tenanttest.Tenant) map[string][]byte {
	b.Helper()
	if time.Since(w.signedIn) > identity.AccessLifetime/3 {
		w.requests, w.signedIn = map[string][]byte{}, time.Now()
	}
	missing := make(chan tenanttest.Tenant, len(tenants))
	for _, t := range tenants {
		if w.requests[t.Route.Slug] == nil {
			missing <- t
		}
	}
	close(missing)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for t := range missing {
				request := get(hostOf(t), "/account/me", signIn(b, handler, t))
				mu.Lock()
				w.requests[t.Route.Slug] = request
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if b.Failed() {
		b.FailNow()
	}
	return w.requests
}

// sameAnswer makes sure that two services say the same of a user.
func sameAnswer(b *testing.B, x, y *client, request []byte) {
	b.Helper()
	var answers [2]map[string]any
	for i, c := range []*client{x, y} {
		c.call(request)
		if err := json.Unmarshal(c.body, &answers[i]); err != nil {
			b.Fatalf("%v: %s", err, c.body)
		}
	}
	for name, value := range answers[0] {
		other, ok := answers[1][name]
		if text, is := value.(string); is {
			// One of them trims zeros of a time's fraction.
			if at, err := time.Parse(time.RFC3339, text); err == nil {
				value, other = at.UnixMicro(), parsed(other)
			}
		}
		if !ok || value != other {
			b.Fatalf("the answers differ in %s:\n%s\n%s", name, x.body, y.body)
		}
	}
}

func parsed(value any) any {
	text, _ := value.(string)
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return value
	}
	return at.UnixMicro()
}

// cold compares the first request for a tenant that this node has no connection
// to with connecting and asking the same. Each tenant serves for one of each.
func (w *world) cold(b *testing.B, l load) {
	b.Helper()
	node := w.node(b, l.budget)
	c := clients(b, 1, all(serve(b, routedAPI(node))))[0]
	each := l.tenants * 4 / (4*w.rounds + 1)
	first, next := 0, 0
	sidebyside.Latency(b, w.rounds, each,
		func() {
			c.call(ownRequest(w.tenants[first]))
			first++
		},
		func() {
			connectAndAsk(b, w.tenants[next])
			next++
		})
}

func connectAndAsk(b *testing.B, t tenanttest.Tenant) {
	b.Helper()
	u, err := url.Parse(t.AdminURL)
	if err != nil {
		b.Fatal(err)
	}
	u.User = url.UserPassword(t.Route.Database, t.Password)
	conn, err := pgx.Connect(b.Context(), u.String())
	if err != nil {
		b.Fatal(err)
	}
	var name, email string
	if err := conn.QueryRow(b.Context(), "SELECT full_name, email FROM public.users WHERE id = $1", t.OwnerID).Scan(&name, &email); err != nil {
		b.Fatal(err)
	}
	go func() { _ = conn.Close(context.Background()) }() // which the other way does not do either
}

// callers are the clients of a load.
func (w *world) callers(b *testing.B, address func(client int) string, l load, request func(tenanttest.Tenant) []byte) (op func(worker int)) {
	b.Helper()
	requests := make([][]byte, l.tenants)
	for i, t := range w.tenants[:l.tenants] {
		requests[i] = request(t)
	}
	callers := clients(b, l.clients, address)
	choose := make([]func() int, l.clients)
	for i := range choose {
		choose[i] = chooser(uint64(i), l.tenants, l.exponent)
	}
	return func(worker int) { callers[worker].call(requests[choose[worker]()]) }
}

// all clients go to the same address.
func all(address string) func(int) string { return func(int) string { return address } }

func chooser(seed uint64, n int, exponent float64) func() int {
	random := rand.New(rand.NewPCG(seed, 7))
	if exponent == uniform {
		return func() int { return random.IntN(n) }
	}
	z := rand.NewZipf(random, exponent, 1, uint64(n-1))
	return func() int { return int(z.Uint64()) }
}
