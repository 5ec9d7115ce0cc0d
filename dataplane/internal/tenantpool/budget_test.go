package tenantpool_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/dataplane/internal/tenantpool"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/testdb"
)

// Two tenants that want more than there is, with queries, cancelled queries
// and cancelled waits: Postgres never sees more backends than the budget.
func TestInvariant01BackendsNeverExceedTheBudget(t *testing.T) {
	t.Parallel()
	n := newNode(t, 3)
	highest := n.watch(t)
	var group sync.WaitGroup
	var served atomic.Int64
	for i := range 16 {
		tenant := []tenanttest.Tenant{n.A, n.B}[i%2]
		group.Go(func() {
			for range 40 {
				ctx, cancel := context.WithCancel(t.Context())
				if rand.IntN(4) == 0 {
					ctx, cancel = context.WithTimeout(t.Context(), rand.N(5*time.Millisecond))
				}
				if err := n.use(ctx, tenant); err == nil {
					served.Add(1)
				} else if ctx.Err() == nil {
					t.Errorf("%s: %v", tenant.Route.Slug, err)
				}
				cancel()
			}
		})
	}
	group.Wait()
	if most := highest(); most > 3 {
		t.Errorf("%d backends were open, the budget is 3", most)
	} else if most == 0 {
		t.Error("the sampler saw no backend")
	}
	if served.Load() < 300 {
		t.Errorf("only %d of 640 were served", served.Load())
	}
}

// The budget is all in idle connections of one tenant: the other one is served
// nevertheless, and at once.
func TestInvariant01IdleConnectionsOfTheColdestMakeRoom(t *testing.T) {
	t.Parallel()
	n := newNode(t, 2)
	a1, a2 := n.lease(t, n.A), n.lease(t, n.A)
	a1.Release()
	a2.Release()
	begun := time.Now()
	b1, b2 := n.lease(t, n.B), n.lease(t, n.B)
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("room was made only after %v", took)
	}
	b1.Release()
	b2.Release()
	if err := n.use(t.Context(), n.A); err != nil {
		t.Error(err)
	}
}

// A connection that nobody took, because its Acquire was cancelled, makes room
// too.
func TestInvariant01AbandonedConnectionsMakeRoom(t *testing.T) {
	t.Parallel()
	n := newNode(t, 1)
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		_ = n.use(ctx, n.A)
		cancel()
		if err := n.use(t.Context(), n.B); err != nil {
			t.Fatal(err)
		}
	}
}

// 10,000 requests that give up after a millisecond, with the budget in use: they
// open nothing, leak nothing, and the next one is served.
func TestInvariant01CancelledAcquiresAtFullBudget(t *testing.T) {
	t.Parallel()
	n := newNode(t, 2)
	highest := n.watch(t)
	held := []*tenantpool.Lease{n.lease(t, n.A), n.lease(t, n.A)}
	var group sync.WaitGroup
	for range 100 {
		group.Go(func() {
			for range 100 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				if l, err := n.pools.Lease(ctx, n.B.Route); err == nil {
					l.Release()
				} else if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("unexpected: %v", err)
				}
				cancel()
			}
		})
	}
	group.Wait()
	for _, l := range held {
		l.Release()
	}
	if err := n.use(t.Context(), n.B); err != nil {
		t.Errorf("after the storm: %v", err)
	}
	if most := highest(); most > 2 {
		t.Errorf("%d backends were open, the budget is 2", most)
	}
}

// Handshakes that fail give their permits back.
func TestInvariant01FailedHandshakesLeakNothing(t *testing.T) {
	t.Parallel()
	n := newNode(t, 2)
	n.Table.Change(n.A.ID, func(r *route.Route) { r.Credential = n.Seal(t, n.A.ID, 1, "not-the-password") })
	for range 4 {
		_, err := n.pools.Lease(t.Context(), n.A.Route)
		wantFault(t, err, fault.KindUnavailable, "database_unavailable")
	}
	for range 2 { // fewer than the breaker takes
		n.Table.Change(n.A.ID, func(r *route.Route) { // nobody listens there
			s := *n.Server
			s.Port = 1
			r.Server = &s
		})
		_, err := n.pools.Lease(t.Context(), n.A.Route)
		wantFault(t, err, fault.KindUnavailable, "database_unavailable")
	}
	defer n.lease(t, n.B).Release()
	defer n.lease(t, n.B).Release()
}

// 1,000 first requests at the same moment open at most the tenant's cap.
func TestInvariant06AColdStampedeOpensAtMostTheCap(t *testing.T) {
	t.Parallel()
	n := newNode(t, 20)
	n.Table.Change(n.A.ID, func(r *route.Route) { r.MaxConnections = 4 })
	highest := n.watch(t)
	start := make(chan struct{})
	var group sync.WaitGroup
	for range 1000 {
		group.Go(func() {
			<-start
			if err := n.use(t.Context(), n.A); err != nil {
				t.Error(err)
			}
		})
	}
	close(start)
	group.Wait()
	if most := highest(); most > 4 {
		t.Errorf("%d backends were open, the cap is 4", most)
	}
}

func TestInvariant07TheTenantsOwnCapIs429(t *testing.T) {
	t.Parallel()
	n := newNode(t, 20, func(o *tenantpool.Options) { o.Wait = 200 * time.Millisecond })
	n.Table.Change(n.A.ID, func(r *route.Route) { r.MaxConnections = 1 })
	// Connections are made before anybody's wait is measured.
	warm, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for n.use(warm, n.B) != nil && warm.Err() == nil {
		continue
	}
	defer n.lease(t, n.A).Release()
	begun := time.Now()
	_, err := n.pools.Lease(t.Context(), n.A.Route)
	f := wantFault(t, err, fault.KindRateLimited, "tenant_busy")
	if f.Wait <= 0 || time.Since(begun) > 5*time.Second {
		t.Errorf("Retry-After %v after %v", f.Wait, time.Since(begun))
	}
	if err := n.use(t.Context(), n.B); err != nil {
		t.Errorf("the other tenant: %v", err)
	}
}

// Postgres answers 53300 for three limits: two are the tenant's.
func TestInvariant07PostgresLimitsAreToldApart(t *testing.T) {
	t.Parallel()
	n := newNode(t, 20, func(o *tenantpool.Options) { o.Wait = 300 * time.Millisecond })
	n.exec(t, "ALTER ROLE "+n.A.Route.Database+" CONNECTION LIMIT 0")
	_, err := n.pools.Lease(t.Context(), n.A.Route)
	wantFault(t, err, fault.KindRateLimited, "tenant_busy")
	n.exec(t, "ALTER DATABASE "+n.B.Route.Database+" CONNECTION LIMIT 0")
	_, err = n.pools.Lease(t.Context(), n.B.Route)
	wantFault(t, err, fault.KindRateLimited, "tenant_busy")
}

// A noisy tenant holds the whole budget and asks for more without end; the
// quiet one is served all the same.
func TestInvariant07ANoisyTenantWaitsForItself(t *testing.T) {
	t.Parallel()
	n := newNode(t, 3)
	ctx, cancel := context.WithCancel(t.Context())
	var noise sync.WaitGroup
	for range 50 {
		noise.Go(func() {
			for ctx.Err() == nil {
				_ = n.use(ctx, n.A)
			}
		})
	}
	conn := testdb.Connect(t, n.SuperuserDB)
	eventually(t, "the noisy tenant has the budget", func() bool {
		count, err := n.backends(t.Context(), conn)
		return err == nil && count == 3
	})
	for range 20 {
		begun := time.Now()
		if err := n.use(t.Context(), n.B); err != nil {
			t.Errorf("the quiet tenant: %v", err)
		}
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("the quiet tenant waited %v", took)
		}
	}
	cancel()
	noise.Wait()
}

// A server that takes connections and then says nothing: its tenants get 503
// within the bound, the other server's notice nothing.
func TestInvariant07ASilentServerIsWaitedForABoundedTime(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, 20, func(o *tenantpool.Options) { o.Wait, o.ConnectTimeout = 500*time.Millisecond, time.Second })
	// Closed before the pools are: what still waits there ends.
	t.Cleanup(func() { _ = listener.Close() })
	n.Table.Change(n.A.ID, func(r *route.Route) {
		s := *n.Server
		s.ID, s.Port = uuid.New(), uint16(listener.Addr().(*net.TCPAddr).Port)
		r.Server = &s
	})
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() {
			begun := time.Now()
			_, err := n.pools.Lease(t.Context(), n.A.Route)
			var f *fault.Error
			if !errors.As(err, &f) || f.Kind == fault.KindInternal || f.Wait <= 0 || time.Since(begun) > 10*time.Second {
				t.Errorf("%v after %v", err, time.Since(begun))
			}
		})
	}
	for range 20 {
		if err := n.use(t.Context(), n.B); err != nil {
			t.Errorf("the other server's tenant: %v", err)
		}
	}
	group.Wait()
}
