package e2e

import (
	"testing"
	"time"

	"github.com/ouvira/ouvira/shared/testdb/sidebyside"
)

// Under steady work of several tenants nothing of a node grows: goroutines, open
// files, heap. What the last third of the time shows is compared with the first
// after a warm-up.
func TestRel21NothingGrowsUnderSteadyWork(t *testing.T) {
	t.Parallel()
	s := borrow(t)
	b := newBalancer(t, s)
	loads := []*load{
		work(t, tenant(t, s, b, "soak-one"), "soak-one", 4, 0), work(t, tenant(t, s, b, "soak-two"), "soak-two", 4, 0),
		work(t, through(b, demo(s, "acme").login(t, s, 0)), "acme", 2, 0),
	}
	for _, l := range loads {
		l.more(t, 50)
	}
	figures := map[string]float64{ // and what each may grow by without being a leak
		"go_goroutines": 30, "process_open_fds": 30, "go_memstats_heap_alloc_bytes": 16 << 20,
	}
	type series map[string][]float64
	seen := []series{{}, {}}
	tick := time.NewTicker(scaled(250*time.Millisecond, 5*time.Second))
	defer tick.Stop()
	for end := time.Now().Add(max(8*time.Second, *chaos)); time.Now().Before(end); <-tick.C {
		for node := range seen {
			for name := range figures {
				seen[node][name] = append(seen[node][name], metric(t, s, node, name))
			}
		}
	}
	for node, found := range seen {
		for name, slack := range figures {
			samples := found[name]
			third := len(samples) / 3
			first, last := sidebyside.Median(samples[:third]), sidebyside.Median(samples[2*third:])
			if first <= 0 || last > 1.25*first+slack {
				t.Errorf("node %d: %s was %.0f and is %.0f", node, name, first, last)
			} else {
				t.Logf("node %d: %s was %.0f and is %.0f", node, name, first, last)
			}
		}
	}
	for _, l := range loads {
		l.stop()
		l.flawless(t)
		address, _ := tenantDatabase(t, s, l.prefix)
		l.replay(t, address)
	}
}
