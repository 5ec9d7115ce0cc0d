package tenantpool_test

import (
	"context"
	"errors"
	"runtime"
	"testing"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/dataplane/internal/tenantpool"
	"github.com/ouvira/ouvira/shared/route"
)

// What a warm lease adds to a request.
func BenchmarkLeaseWarm(b *testing.B) {
	n := newNode(b, 20)
	n.lease(b, n.A).Release()
	b.ReportAllocs()
	for b.Loop() {
		l, err := n.pools.Lease(b.Context(), n.A.Route)
		if err != nil {
			b.Fatal(err)
		}
		l.Release()
	}
}

// The same with a query, and what the query costs alone.
func BenchmarkLeaseAndQuery(b *testing.B) {
	n := newNode(b, 20)
	query := func(l *tenantpool.Lease) {
		var id int64
		if err := l.QueryRow(b.Context(), "SELECT id FROM users WHERE id = $1", n.A.OwnerID).Scan(&id); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("leased", func(b *testing.B) {
		for b.Loop() {
			l, err := n.pools.Lease(b.Context(), n.A.Route)
			if err != nil {
				b.Fatal(err)
			}
			query(l)
			l.Release()
		}
	})
	b.Run("held", func(b *testing.B) {
		l := n.lease(b, n.A)
		defer l.Release()
		for b.Loop() {
			query(l)
		}
	})
}

// Connect, prove the marker, close.
func BenchmarkLeaseCold(b *testing.B) {
	n := newNode(b, 20)
	for b.Loop() {
		l := n.lease(b, n.A)
		if _, err := l.Exec(b.Context(), "LISTEN soil"); err != nil { // costs the connection
			b.Fatal(err)
		}
		l.Release()
	}
}

// Memory of a tenant that was served and has no connection any more, heap and
// stacks, over 1,000 warm pools.
func BenchmarkMemoryPerIdlePool(b *testing.B) {
	const pools = 1000
	n := newNode(b, 20, func(o *tenantpool.Options) { o.MaxPools = pools })
	routes := make([]*route.Route, pools)
	for i := range routes {
		r := *n.A.Route
		r.TenantID = uuid.New()
		r.Credential = n.Seal(b, r.TenantID, 1, "secret")
		routes[i] = &r
		n.Table.Set(&r)
	}
	// A caller who has gone already makes a pool, and no connection.
	ctx, cancel := context.WithCancel(b.Context())
	cancel()
	before := inUse()
	for _, r := range routes {
		if _, err := n.pools.Lease(ctx, r); !errors.Is(err, context.Canceled) {
			b.Fatal(err)
		}
	}
	each := float64(inUse()-before) / pools
	for b.Loop() { // nothing: it is measured once
	}
	b.ReportMetric(each, "B/pool")
	b.ReportMetric(0, "ns/op")
	runtime.KeepAlive(n)
}

func inUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}
