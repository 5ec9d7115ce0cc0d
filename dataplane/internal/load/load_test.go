package load_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ouvira/ouvira/dataplane/internal/load"
)

const shown = 20

func newTenants(t testing.TB) (*load.Tenants, *prometheus.Registry) {
	t.Helper()
	registry := prometheus.NewRegistry()
	tenants, err := load.New(shown, registry)
	if err != nil {
		t.Fatal(err)
	}
	return tenants, registry
}

// after is virtual time.
func after(d time.Duration) { <-time.After(d) }

func TestTheBusiestAreFoundAmongTenThousand(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tenants, registry := newTenants(t)
		// 10,000 tenants ask twice each; 20 ask 300 times more, the first of
		// them most; others fail, and others again keep their database busy.
		type request struct {
			tenant int
			what   load.Sum
		}
		var requests []request
		for i := range 10_000 {
			what := load.Sum{Requests: 1, Database: time.Millisecond}
			switch {
			case i >= 9_000 && i < 9_000+shown:
				what.Database = time.Second
			case i >= 8_000 && i < 8_000+shown:
				what.Errors = 1
			}
			requests = append(requests, request{i, what}, request{i, what})
			if i < shown {
				for range 400 - i {
					requests = append(requests, request{i, what})
				}
			}
		}
		rand.New(rand.NewPCG(1, 2)).Shuffle(len(requests), func(i, j int) { requests[i], requests[j] = requests[j], requests[i] })
		id := func(i int) uuid.UUID { return uuid.NewSHA1(uuid.Nil, fmt.Appendf(nil, "%d", i)) }
		slug := func(i int) string { return fmt.Sprintf("t%d", i) }
		for _, r := range requests {
			tenants.Add(id(r.tenant), slug(r.tenant), r.what)
		}

		for by, first := range map[load.Order]int{load.ByRequests: 0, load.ByErrors: 8_000, load.BySeconds: 9_000} {
			want := map[string]bool{}
			for i := range shown {
				want[slug(first+i)] = true
			}
			busiest, exact := tenants.Busiest(by, 1000)
			if len(busiest) != shown {
				t.Errorf("by %s: %d tenants", by, len(busiest))
			}
			for _, b := range busiest {
				if !want[b.Slug] {
					t.Errorf("by %s: %s is not one of the busiest", by, b.Slug)
				}
				if most := int64(402); b.Requests > most {
					t.Errorf("by %s: %s is said to have asked %d times", by, b.Slug, b.Requests)
				}
			}
			if exact != (by == load.ByErrors) {
				t.Errorf("by %s: exact is %t", by, exact)
			}
		}
		if series := count(t, registry); series != 3*shown {
			t.Errorf("%d series of 10,000 tenants", series)
		}

		after(load.Window)
		if busiest, _ := tenants.Busiest(load.ByRequests, shown); len(busiest) != 0 {
			t.Errorf("after the window there are still %d", len(busiest))
		}
		if series := count(t, registry); series != 0 {
			t.Errorf("%d series of nobody", series)
		}
	})
}

func TestTheWindowMoves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tenants, _ := newTenants(t)
		acme, globex := uuid.New(), uuid.New()
		for range 12 {
			tenants.Add(acme, "acme", load.Sum{Requests: 1, Database: time.Second})
			after(10 * time.Second)
		}
		tenants.Add(globex, "globex", load.Sum{Requests: 3})
		tenants.Add(acme, "acme-renamed", load.Sum{Requests: 1, Errors: 1})
		busiest, exact := tenants.Busiest(load.ByRequests, 10)
		if !exact || len(busiest) != 2 || busiest[0].ID != acme || busiest[0].Sum != (load.Sum{Requests: 6, Errors: 1, Database: 5 * time.Second}) {
			t.Errorf("got %+v, exact %t", busiest, exact)
		}
		if busiest, _ := tenants.Busiest(load.ByRequests, 1); len(busiest) != 1 {
			t.Errorf("a limit of 1 gives %d", len(busiest))
		}
		if busiest, _ := tenants.Busiest("size", 1); busiest != nil {
			t.Errorf("an order that there is not gives %v", busiest)
		}
	})
}

func TestCountingNothing(t *testing.T) {
	t.Parallel()
	tenants, err := load.New(0, prometheus.NewRegistry())
	if err != nil || tenants != nil {
		t.Fatalf("%v, %v", tenants, err)
	}
	tenants.Add(uuid.New(), "acme", load.Sum{Requests: 1})
	if busiest, _ := tenants.Busiest(load.ByRequests, 1); busiest != nil {
		t.Errorf("got %v", busiest)
	}
}

func count(t *testing.T, registry *prometheus.Registry) (series int) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		series += len(f.GetMetric())
	}
	return series
}

func BenchmarkAdd(b *testing.B) {
	for name, known := range map[string]int{"50 tenants": 50, "10,000 tenants": 10_000} {
		b.Run(name, func(b *testing.B) {
			tenants, _ := newTenants(b)
			ids := make([]uuid.UUID, known)
			for i := range ids {
				ids[i] = uuid.New()
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i = (i + 7919) % known
				tenants.Add(ids[i], "acme", load.Sum{Requests: 1, Database: time.Millisecond})
			}
		})
	}
}
