package directory_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ouvira/ouvira/dataplane/internal/directory"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/testdb/sidebyside"
)

const fleet = 10_000

// fleetOf makes a control database with that many tenants, one in ten with a
// domain of its own.
func fleetOf(t testing.TB, tenants int) *control {
	t.Helper()
	c := newControl(t)
	tenanttest.Fill(t, c.adminURL, c.server, keysJSON, tenants)
	return c
}

func inUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

const mostPerTenant = 1024 // bytes of heap

// perTenant is how many bytes of heap a known tenant costs.
func perTenant(t testing.TB) int64 {
	t.Helper()
	c := fleetOf(t, fleet)
	before := inUse()
	d := run(t, c.options())
	each := (inUse() - before) / fleet
	if d.Len() != fleet {
		t.Fatalf("%d tenants are known", d.Len())
	}
	runtime.KeepAlive(d)
	return each
}

// Not parallel: it measures the process.
func TestMemoryPerKnownTenant(t *testing.T) {
	each := perTenant(t)
	t.Logf("%d bytes for each known tenant", each)
	if each > mostPerTenant {
		t.Errorf("%d bytes for each known tenant, at most %d are allowed", each, mostPerTenant)
	}
}

func BenchmarkMemoryPerKnownTenant(b *testing.B) {
	sidebyside.Against(b, float64(perTenant(b)), mostPerTenant)
}

func BenchmarkLookup(b *testing.B) {
	c := fleetOf(b, fleet)
	d := run(b, c.options())
	for name, host := range map[string]string{"slug": "tenant-5000.localhost:8000", "domain": "tenant-5000.example", "unknown": "nobody.localhost"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if r, err := d.Lookup(host); (r == nil) == (err == nil) {
					b.Fatal("neither a route nor an error")
				}
			}
		})
	}
	b.Run("parallel", func(b *testing.B) {
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				_, _ = d.Lookup("tenant-5000.localhost")
			}
		})
	})
}

// A pull of the whole table, as at the start.
func BenchmarkFullPull(b *testing.B) {
	c := fleetOf(b, fleet)
	o := c.options()
	var events atomic.Int64
	for b.Loop() {
		o.NodeID += "x"
		run(b, o, func(d *directory.Directory) { d.Subscribe(func(directory.Event) { events.Add(1) }) })
	}
	b.ReportMetric(float64(events.Load())/float64(b.N), "routes/op")
}

// BenchmarkGrowth is what a node's knowledge costs as the number of tenants
// grows: finding one of them, the memory, the pull of everything at the start
// and the snapshot.
func BenchmarkGrowth(b *testing.B) {
	const few = 10
	for _, n := range []int{few, 100, 1000, 5000} {
		b.Run(fmt.Sprintf("known-%d", n), func(b *testing.B) {
			small := run(b, fleetOf(b, few).options())
			o := fleetOf(b, n).options()
			o.Snapshot = filepath.Join(b.TempDir(), "routes")
			o.Sealer = dataKey(b)
			before, begun := inUse(), time.Now()
			d := run(b, o)
			pulled := time.Since(begun)
			heap := inUse() - before
			begun = time.Now()
			if err := d.WriteSnapshot(); err != nil {
				b.Fatal(err)
			}
			written := time.Since(begun)
			info, err := os.Stat(o.Snapshot)
			if err != nil {
				b.Fatal(err)
			}
			var ours, reference []float64
			for range 9 {
				ours, reference = append(ours, lookups(b, d, n)), append(reference, lookups(b, small, few))
			}
			sidebyside.Report(b, ours, reference)
			b.ReportMetric(float64(heap), "heap-bytes")
			b.ReportMetric(pulled.Seconds(), "pull-seconds")
			b.ReportMetric(written.Seconds(), "snapshot-seconds")
			b.ReportMetric(float64(info.Size()), "snapshot-bytes")
		})
	}
}

// lookups is how many nanoseconds it takes to find a tenant, each of n in turn.
func lookups(b *testing.B, d *directory.Directory, n int) float64 {
	b.Helper()
	hosts := make([]string, n)
	for i := range hosts {
		hosts[i] = fmt.Sprintf("tenant-%d.localhost", (i*7919)%n+1) // in an order that no cache foresees
	}
	const times = 100_000
	begun := time.Now()
	for i := range times {
		if _, err := d.Lookup(hosts[i%n]); err != nil {
			b.Fatal(err)
		}
	}
	return float64(time.Since(begun).Nanoseconds()) / times
}
