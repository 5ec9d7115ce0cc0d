package tenantpool_test

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/dataplane/internal/tenantpool"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/testdb"
	"github.com/ouvira/ouvira/shared/testdb/sidebyside"
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

// BenchmarkMemoryPerIdlePool: what a tenant costs that was served and has no
// connection any more, as resident memory of the process. The pools are warm:
// each has had a connection, which the server's budget took away for the next.
// One database stands for all tenants; it finds out by the statement timeout
// whose marker to show.
func BenchmarkMemoryPerIdlePool(b *testing.B) {
	const pools, budget, limit = 1000, 2, 8192
	n := newNode(b, budget, func(o *tenantpool.Options) { o.MaxPools = pools })
	superuser := testdb.Connect(b, n.A.AdminURL)
	_, err := superuser.Exec(b.Context(), `
		ALTER TABLE ouvira.marker RENAME TO marker_of_one;
		CREATE VIEW ouvira.marker AS SELECT
			('00000000-0000-4000-8000-' || lpad((SELECT setting FROM pg_settings WHERE name = 'statement_timeout'), 12, '0'))::uuid AS tenant_id,
			1 AS incarnation;
		GRANT SELECT ON ouvira.marker TO PUBLIC`)
	if err != nil {
		b.Fatal(err)
	}
	routes := make([]*route.Route, pools)
	for i := range routes {
		r := *n.A.Route
		r.StatementTimeout = 30*time.Second + time.Duration(i)*time.Millisecond
		r.TenantID = uuid.MustParse(fmt.Sprintf("00000000-0000-4000-8000-%012d", r.StatementTimeout.Milliseconds()))
		r.Credential = n.Seal(b, r.TenantID, 1, n.A.Password)
		routes[i] = &r
		n.Table.Set(&r)
	}
	serve := func(r *route.Route) {
		l, err := n.pools.Lease(b.Context(), r)
		if err != nil {
			b.Fatal(err)
		}
		l.Release()
	}
	serve(routes[0]) // what the first connection of a process costs is not a pool's
	before := resident(b)
	for _, r := range routes[1:] {
		serve(r)
	}
	sidebyside.Against(b, float64(resident(b)-before)/(pools-1), limit)
	runtime.KeepAlive(n)
}

// BenchmarkMemoryPerConnection: the heap of an open connection with the
// statements of a session's life prepared on it.
func BenchmarkMemoryPerConnection(b *testing.B) {
	const each, limit = 60, 35 << 10
	n := newNode(b, 2*each)
	for _, tenant := range []*tenanttest.Tenant{&n.A, &n.B} {
		n.exec(b, fmt.Sprintf("ALTER ROLE %s CONNECTION LIMIT %d", tenant.Route.Database, each))
		tenant.Route = n.Table.Change(tenant.ID, func(r *route.Route) { r.MaxConnections = each })
		n.lease(b, *tenant).Release() // what the first one costs is the pool's
	}
	before := heap()
	var held []*tenantpool.Lease
	for range each {
		held = append(held, n.lease(b, n.A), n.lease(b, n.B))
	}
	for _, l := range held {
		for _, table := range []string{"users", "sessions", "companies", "roles", "user_companies"} {
			var count int
			if err := l.QueryRow(b.Context(), "SELECT count(*) FROM public."+table+" WHERE $1", true).Scan(&count); err != nil {
				b.Fatal(err)
			}
		}
	}
	sidebyside.Against(b, float64(heap()-before)/float64(len(held)-2), limit)
	for _, l := range held {
		l.Release()
	}
}

// heap is what lives on it.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// resident is the process's memory as the system counts it, after what is free
// was given back.
func resident(b *testing.B) int64 {
	b.Helper()
	for range 3 {
		debug.FreeOSMemory()
	}
	raw, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Fatalf("this system does not tell the resident memory of a process: %v", err)
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(raw), &size, &pages); err != nil {
		b.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}
