package tenantpool_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ouvira/ouvira/dataplane/internal/tenantpool"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/testdb/sidebyside"
)

// chaos sets the scale of the tests of docs/reliability.md: their long forms
// run when it is given.
var chaos = flag.Duration("chaos", 0, "run the long forms of the reliability tests")

func scaled[T any](short, long T) T {
	if *chaos > 0 {
		return long
	}
	return short
}

// Many tenants on a server with few connections: a few of them are hot, the
// rest come now and then. Postgres never sees more backends than the budget, and
// everybody is served.
func TestRel04ManyTenantsNeverExceedTheBudget(t *testing.T) {
	t.Parallel()
	const budget = 4
	n := newNode(t, budget, func(o *tenantpool.Options) { o.MaxPools, o.Wait = scaled(6, 200), time.Minute })
	tenants := []tenanttest.Tenant{n.A, n.B}
	for i := len(tenants); i < scaled(12, 1000); i++ {
		tenants = append(tenants, n.Tenant(t, fmt.Sprintf("tenant-%04d", i)))
	}
	hot := max(2, len(tenants)/20)
	highest := n.watch(t)
	var group sync.WaitGroup
	for worker := range 8 {
		random := rand.New(rand.NewPCG(uint64(worker), 4))
		group.Go(func() {
			for i := range scaled(25, 2000) {
				tenant := tenants[random.IntN(hot)]
				if i%4 == 0 {
					tenant = tenants[random.IntN(len(tenants))]
				}
				if err := n.use(t.Context(), tenant); err != nil {
					t.Errorf("%s: %v", tenant.Route.Slug, err)
				}
			}
		})
	}
	group.Wait()
	if most := highest(); most > budget || most == 0 {
		t.Errorf("%d backends were open, the budget is %d", most, budget)
	}
}

// A tenant asks for ten times what another does and holds what it gets: of the
// quiet one's requests, the slow ones take no longer than twice what they took
// alone. Windows with and without the noise take turns, so that a machine whose
// speed drifts slows both.
func TestRel05ANoisyTenantLeavesTheQuietOneItsTime(t *testing.T) {
	t.Parallel()
	n := newNode(t, 6)
	var ratios []float64
	for range scaled(5, 40) {
		alone := n.quiet(t)
		ctx, stop := context.WithCancel(t.Context())
		var noise sync.WaitGroup
		for range 20 {
			noise.Go(func() {
				for ctx.Err() == nil {
					n.hold(ctx, n.A)
				}
			})
		}
		beside := n.quiet(t)
		stop()
		noise.Wait()
		ratios = append(ratios, beside/alone)
	}
	// Alone a request takes a fraction of a millisecond, of which a busy machine
	// makes several: the short form only sees that nobody waits behind a queue.
	if median := sidebyside.Median(ratios); median > scaled(20., 2.) {
		t.Errorf("beside the noise the quiet tenant's p99 is %.1f times that of alone: %.1f", median, ratios)
	} else {
		t.Logf("beside the noise the quiet tenant's p99 is %.2f times that of alone", median)
	}
}

// quiet is the p99 of a tenant with two users, each of whom works for a moment
// with what it leases.
func (n *node) quiet(t *testing.T) (p99 float64) {
	t.Helper()
	var mu sync.Mutex
	var took []float64
	var users sync.WaitGroup
	for range 2 {
		users.Go(func() {
			for range scaled(40, 300) {
				begun := time.Now()
				n.hold(t.Context(), n.B)
				mu.Lock()
				took = append(took, time.Since(begun).Seconds())
				mu.Unlock()
			}
		})
	}
	users.Wait()
	slices.Sort(took)
	return took[len(took)*99/100]
}

// hold leases a connection and keeps it for a few milliseconds of the
// database's time, which cost this machine nothing.
func (n *node) hold(ctx context.Context, tenant tenanttest.Tenant) {
	l, err := n.pools.Lease(ctx, tenant.Route)
	if err != nil {
		return
	}
	defer l.Release()
	_, _ = l.Exec(ctx, "SELECT pg_sleep(0.005)")
}
