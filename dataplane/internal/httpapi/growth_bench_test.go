package httpapi_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/testdb/sidebyside"
)

// BenchmarkGrowth: what a warm request costs on a node that knows many tenants,
// beside one that knows the few that it serves.
func BenchmarkGrowth(b *testing.B) {
	const served = 10
	f := tenanttest.New(b)
	tenants := []tenanttest.Tenant{f.A, f.B}
	for i := len(tenants); i < served; i++ {
		tenants = append(tenants, f.Tenant(b, fmt.Sprintf("served-%d", i)))
	}
	f.Server.MaxConnections = 4 * served
	keys, err := json.Marshal(f.A.Route.Keys)
	if err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{10, 100, 1000, 5000} {
		b.Run(fmt.Sprintf("warm-%d", n), func(b *testing.B) {
			knowing := func(n int) *client {
				control := f.Control(b, tenants...)
				tenanttest.Fill(b, control, f.Server.ID, string(keys), n-served)
				return clients(b, 1, all(serve(b, routedAPI(routingOf(b, f, control, n)))))[0]
			}
			ours, reference := knowing(n), knowing(served)
			var next [2]int
			ask := func(which int, c *client) func() {
				return func() {
					c.call(ownRequest(tenants[next[which]%served]))
					next[which]++
				}
			}
			sidebyside.Latency(b, rounds, 800, ask(0, ours), ask(1, reference))
		})
	}
}
