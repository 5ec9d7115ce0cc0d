package tenantpool_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ouvira/ouvira/dataplane/internal/tenantpool"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/testdb"
)

func (n *node) background(t testing.TB, r *route.Route) *tenantpool.Lease {
	t.Helper()
	l, err := n.pools.Background(t.Context(), r)
	if err != nil {
		t.Fatalf("in the background: %v", err)
	}
	return l
}

// Background work at a tenant that nobody uses leaves no connection there, and
// takes the place in the LRU from nobody. At a tenant that is in use it takes the
// connection that is there.
func TestInvariant07BackgroundWorkKeepsNoTenantWarm(t *testing.T) {
	t.Parallel()
	n := newNode(t, 20, func(o *tenantpool.Options) { o.MaxPools = 1 })
	l := n.lease(t, n.A)
	warm := pid(t, l)
	l.Release()
	for range 3 {
		l := n.background(t, n.B.Route)
		gone := pid(t, l)
		l.Release()
		conn := testdb.Connect(t, n.SuperuserDB)
		eventually(t, "the connection of the background work is closed", func() bool {
			var there bool
			err := conn.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", gone).Scan(&there)
			return err == nil && !there
		})
	}
	used := n.background(t, n.A.Route)
	if pid(t, used) != warm {
		t.Error("background work does not use the connection that is there")
	}
	used.Release()
	used = n.lease(t, n.A)
	defer used.Release()
	if pid(t, used) != warm {
		t.Error("background work has taken the tenant's connection away")
	}
}

// A background lease that has waited for a tenant that is suspended meanwhile
// does not get it.
func TestInvariant07BackgroundWorkHearsOfASuspension(t *testing.T) {
	t.Parallel()
	n := newNode(t, 1, func(o *tenantpool.Options) { o.Wait, o.BackgroundWait = 2*time.Second, 30*time.Second })
	held := n.lease(t, n.A)
	done := make(chan error, 1)
	go func() {
		l, err := n.pools.Background(t.Context(), n.B.Route)
		if err == nil {
			l.Release()
		}
		done <- err
	}()
	eventually(t, "it waits", func() bool { return n.demand().Wanted > 1 })
	n.Table.Change(n.B.ID, func(r *route.Route) { r.Status = route.StatusSuspended })
	held.Release()
	wantFault(t, <-done, fault.KindForbidden, "tenant_suspended")
}

// On a server whose whole budget is in use all the time, background work is done
// all the same, and the requests of the other tenant go on.
func TestInvariant07BackgroundWorkIsDoneOnABusyServer(t *testing.T) {
	t.Parallel()
	n := newNode(t, 1, func(o *tenantpool.Options) { o.Wait, o.BackgroundWait = 5*time.Second, 30*time.Second })
	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	var served atomic.Int64
	for range 8 {
		load.Go(func() {
			for ctx.Err() == nil {
				if err := n.use(ctx, n.A); err != nil && ctx.Err() == nil {
					t.Errorf("a request: %v", err)
				}
				served.Add(1)
			}
		})
	}
	eventually(t, "the server is busy", func() bool { return served.Load() > 20 })
	l, err := n.pools.Background(t.Context(), n.B.Route)
	if err != nil {
		t.Errorf("background work: %v", err)
	} else {
		l.Release()
	}
	before := served.Load()
	eventually(t, "requests are served", func() bool { return served.Load() > before+20 })
	cancel()
	load.Wait()
}

// The budget is one connection, the noisy tenant has a hundred requests waiting,
// the quiet one comes last: it waits for the turns of others, not for the line.
func TestInvariant07TheQuietTenantOvertakesALine(t *testing.T) {
	t.Parallel()
	n := newNode(t, 1, func(o *tenantpool.Options) { o.Wait = 60 * time.Second })
	held := n.lease(t, n.A)
	var noise sync.WaitGroup
	var served atomic.Int64
	const line = 300
	for range line {
		noise.Go(func() {
			l, err := n.pools.Lease(t.Context(), n.A.Route)
			if err != nil {
				t.Error(err)
				return
			}
			defer l.Release()
			served.Add(1)
			if _, err := l.Exec(t.Context(), "SELECT pg_sleep(0.002)"); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "they wait", func() bool { return n.pools.Waiting(n.Server.ID) == line })
	quiet := make(chan int64, 1)
	go func() {
		if err := n.use(t.Context(), n.B); err != nil {
			t.Errorf("the quiet tenant: %v", err)
		}
		quiet <- served.Load()
	}()
	eventually(t, "it waits too", func() bool { return n.pools.Waiting(n.Server.ID) == line+1 })
	held.Release()
	// One turn of the noisy tenant is some requests, not the line.
	if before := <-quiet; before > line/2 {
		t.Errorf("%d requests of the noisy tenant were served before the quiet one's", before)
	}
	noise.Wait()
}

// More requests at once than may wait: those who are too many are told so at
// once, the others are served, and the other tenant is too.
func TestInvariant07WhoIsTooManyIsToldAtOnce(t *testing.T) {
	t.Parallel()
	n := newNode(t, 20, func(o *tenantpool.Options) { o.Wait, o.TenantLine = 60*time.Second, 50 })
	n.Table.Change(n.A.ID, func(r *route.Route) { r.MaxConnections = 1 })
	held := n.lease(t, n.A)
	var group sync.WaitGroup
	var served, refused atomic.Int64
	for range 500 {
		group.Go(func() {
			l, err := n.pools.Lease(t.Context(), n.A.Route)
			if err != nil {
				if f := fault.From(err); f.EffectiveCode() != "tenant_busy" || f.Wait < time.Second {
					t.Errorf("%v, Retry-After %v", err, f.Wait)
				}
				refused.Add(1)
				return
			}
			served.Add(1)
			l.Release()
		})
	}
	eventually(t, "all others are refused", func() bool { return refused.Load() == 450 })
	if err := n.use(t.Context(), n.B); err != nil {
		t.Errorf("the other tenant: %v", err)
	}
	held.Release()
	group.Wait()
	if served.Load() != 50 {
		t.Errorf("%d were served", served.Load())
	}
}
