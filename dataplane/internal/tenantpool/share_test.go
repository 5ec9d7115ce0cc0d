package tenantpool_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/ouvira/ouvira/dataplane/internal/tenantpool"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/budget"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/testdb"
)

// limit changes what the node may hold of every server, as a lease does.
func (n *node) limit(limit int) {
	n.budget.Set(func(l, _ *int, _ *time.Duration, _ *string) { *l = limit })
}

func (n *node) demand() budget.Demand { return n.pools.Demands()[n.Server.ID] }

// A share of nothing is waited for a bounded time; when it comes, who waits is
// served; when it goes, so do the connections, those in use when they are given
// back.
func TestInvariant01AShareComesAndGoes(t *testing.T) {
	t.Parallel()
	n := newNode(t, 20, func(o *tenantpool.Options) { o.Wait = 300 * time.Millisecond })
	n.limit(0)
	_, err := n.pools.Lease(t.Context(), n.A.Route)
	if f := wantFault(t, err, fault.KindUnavailable, "server_busy"); f.Wait <= 0 {
		t.Error("Retry-After is missing")
	}
	if n.budget.Shorts() == 0 {
		t.Error("nobody said that somebody waits")
	}
	n.limit(3)
	held, other := n.lease(t, n.A), n.lease(t, n.B)
	n.lease(t, n.A).Release()
	if d := n.demand(); d.Open != 3 || d.Wanted != 2 {
		t.Errorf("%+v of three connections, two of them in use", d)
	}
	conn := testdb.Connect(t, n.SuperuserDB)
	open := func(want int) func() bool {
		return func() bool {
			count, err := n.backends(t.Context(), conn)
			return err == nil && count == want && n.demand().Open == want
		}
	}
	n.limit(1)
	eventually(t, "the idle one is closed", open(2))
	other.Release()
	eventually(t, "one that was given back is closed", open(1))
	held.Release()
	if err := n.use(t.Context(), n.A); err != nil {
		t.Error(err)
	}
	n.limit(0)
	eventually(t, "all are closed", open(0))
}

// A tenant's cap is the whole fleet's: when a node joins, the others keep to
// less, and what is over it goes, busy or idle.
func TestInvariant01NodesShareTheTenantsCap(t *testing.T) {
	t.Parallel()
	n := newNode(t, 20) // the tenants' caps are 10
	var held []*tenantpool.Lease
	for range 10 {
		held = append(held, n.lease(t, n.A))
	}
	for _, l := range held[:4] {
		l.Release()
	}
	other := n.lease(t, n.B)
	n.budget.Set(func(_, nodes *int, _ *time.Duration, _ *string) { *nodes = 3 })
	eventually(t, "the idle ones are closed", func() bool { return n.demand().Open == 6+1 })
	for _, l := range held[4:] {
		l.Release()
	}
	eventually(t, "three are left", func() bool { return n.demand().Open == 3+1 })
	other.Release()
	highest := n.watch(t)
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			if err := n.use(t.Context(), n.A); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if most := highest(); most > 3+1 {
		t.Errorf("%d backends were open", most)
	}
}

// The role's own limit, which other nodes fill until they know of this one, is
// waited for.
func TestInvariant07ALimitOfTheRoleIsWaitedFor(t *testing.T) {
	t.Parallel()
	n := newNode(t, 20)
	n.exec(t, "ALTER ROLE "+n.A.Route.Database+" CONNECTION LIMIT 0")
	done := make(chan error, 1)
	go func() { done <- n.use(t.Context(), n.A) }()
	eventually(t, "it waits", func() bool { return n.demand().Wanted > 0 })
	n.exec(t, "ALTER ROLE "+n.A.Route.Database+" CONNECTION LIMIT 10")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// expel puts an instance on the server's list, as the control plane does.
func (n *node) expel(t testing.TB, instance string) {
	t.Helper()
	if err := budget.Expel(t.Context(), testdb.Connect(t, n.SuperuserDB), instance); err != nil {
		t.Fatal(err)
	}
}

// An instance that was expelled opens nothing any more, and learns it from the
// first connection; as another instance it is let in again.
func TestInvariant01AnExpelledInstanceOpensNothing(t *testing.T) {
	t.Parallel()
	n := newNode(t, 20, func(o *tenantpool.Options) { o.Wait = time.Second })
	be := func(instance string, age time.Duration) {
		n.budget.Set(func(limit, _ *int, a *time.Duration, i *string) { *limit, *a, *i = 10, age, instance })
	}
	const gone, another = "abcdefgh23", "bcdefgh234"
	n.expel(t, gone)
	be(gone, 0)
	_, err := n.pools.Lease(t.Context(), n.A.Route)
	wantFault(t, err, fault.KindUnavailable, "server_busy")
	if got := n.budget.WasExpelled(); len(got) == 0 || got[0] != gone {
		t.Errorf("expelled: %v", got)
	}
	eventually(t, "nothing is open", func() bool { return n.demand().Open == 0 })
	be(another, 0)
	for range 2 {
		if err := n.use(t.Context(), n.B); err != nil {
			t.Error(err)
		}
	}
}

// A process that has stood still may have been expelled meanwhile: it tries one
// connection before it opens others.
func TestInvariant01AStalledProcessTriesOneConnection(t *testing.T) {
	t.Parallel()
	n := newNode(t, 20)
	const gone = "cdefgh2345"
	n.expel(t, gone)
	n.budget.Set(func(limit, _ *int, age *time.Duration, i *string) { *limit, *age, *i = 10, time.Hour, gone })
	highest := n.watch(t)
	var group sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 30 {
		group.Go(func() {
			if err := n.use(ctx, n.A); err == nil {
				t.Error("an expelled process was served")
			}
		})
	}
	eventually(t, "it knows that it was expelled", func() bool { return len(n.budget.WasExpelled()) > 0 })
	eventually(t, "nothing is open", func() bool { return n.demand().Open == 0 })
	cancel()
	group.Wait()
	if most := highest(); most > 1 {
		t.Errorf("%d backends were open", most)
	}
	// A process that was only cut off goes on, one connection after the other.
	n.budget.Set(func(limit, _ *int, _ *time.Duration, i *string) { *limit, *i = 10, "defgh23456" })
	held := []*tenantpool.Lease{n.lease(t, n.A), n.lease(t, n.A), n.lease(t, n.B)}
	for _, l := range held {
		l.Release()
	}
}

// A process that is cut off and has served a moment ago may have been expelled
// in between, and what it held been given to others: it tries one connection
// all the same.
func TestInvariant01ACutOffProcessTriesOneConnectionAtATime(t *testing.T) {
	t.Parallel()
	n := newNode(t, 20)
	const gone = "efgh234567"
	n.budget.Set(func(limit, _ *int, age *time.Duration, i *string) { *limit, *age, *i = 10, time.Hour, gone })
	for _, tenant := range []tenanttest.Tenant{n.A, n.B} {
		if err := n.use(t.Context(), tenant); err != nil {
			t.Fatal(err)
		}
	}
	n.expel(t, gone)
	conn := testdb.Connect(t, n.SuperuserDB)
	eventually(t, "its connections are ended", func() bool {
		found, err := budget.Terminate(t.Context(), conn, gone)
		return err == nil && found == 0 && n.demand().Wanted == 0
	})
	highest := n.watch(t)
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for i := range 30 {
		group.Go(func() {
			if err := n.use(ctx, []tenanttest.Tenant{n.A, n.B}[i%2]); err == nil {
				t.Error("an expelled process was served")
			}
		})
	}
	eventually(t, "it knows that it was expelled", func() bool { return len(n.budget.WasExpelled()) > 0 })
	eventually(t, "nothing is open", func() bool { return n.demand().Open == 0 })
	cancel()
	group.Wait()
	if most := highest(); most > 1 {
		t.Errorf("%d backends were open", most)
	}
}
