package directory_test

import (
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/ouvira/ouvira/dataplane/internal/directory"
	"github.com/ouvira/ouvira/shared/testdb/sidebyside"
)

const fleet = 10_000

// fleetOf makes a control database with 10,000 tenants, one in ten with a
// domain of its own.
func fleetOf(t testing.TB) *control {
	t.Helper()
	c := newControl(t)
	c.exec(t, `INSERT INTO control.tenants (id, slug, name, status, plan_id, server_id, database_name, credential, signing_keys, settings)
		SELECT gen_random_uuid(), 'tenant-' || i, 'Tenant ' || i, 'active', '01900000-0000-7000-8000-000000000001', $1,
		       'ov_' || md5(i::text), decode(repeat('5a', 96), 'hex'), $2, '{"locale": "en"}'
		FROM generate_series(1, $3) i`, c.server, keysJSON, fleet)
	c.exec(t, `INSERT INTO control.domains (id, tenant_id, hostname, status, challenge)
		SELECT gen_random_uuid(), id, slug || '.example', 'verified', 'x' FROM control.tenants WHERE slug LIKE '%0'`)
	c.exec(t, `INSERT INTO control.routes (tenant_id, version) SELECT id, row_number() OVER () + 1 FROM control.tenants`)
	c.exec(t, `UPDATE control.route_clock SET version = $1`, fleet+1)
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
	c := fleetOf(t)
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
	c := fleetOf(b)
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
	c := fleetOf(b)
	o := c.options()
	var events atomic.Int64
	for b.Loop() {
		o.NodeID += "x"
		run(b, o, func(d *directory.Directory) { d.Subscribe(func(directory.Event) { events.Add(1) }) })
	}
	b.ReportMetric(float64(events.Load())/float64(b.N), "routes/op")
}
