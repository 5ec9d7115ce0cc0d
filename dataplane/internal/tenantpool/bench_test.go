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
