package tenantpool_test

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ouvira/ouvira/dataplane/internal/tenantpool"
	"github.com/ouvira/ouvira/dataplane/internal/timing"
)

// Waiting for another tenant's connection is waiting, making one's own is
// connecting, and what the node asks a database on its own account is no
// statement of the request.
func TestTheClockTellsWaitingFromConnecting(t *testing.T) {
	t.Parallel()
	const held = 50 * time.Millisecond
	registry := prometheus.NewRegistry()
	n := newNode(t, 1, func(o *tenantpool.Options) { o.Wait, o.Registerer = 30*time.Second, registry })
	first := timing.Start(t.Context())
	lease, err := n.pools.Lease(first, n.A.Route)
	if err != nil {
		t.Fatal(err)
	}
	if got := first.Phases(); got.Connect <= 0 || got.Queries != 0 {
		t.Errorf("the first lease: %+v", got)
	}

	type result struct {
		lease *tenantpool.Lease
		err   error
	}
	second, leased := timing.Start(t.Context()), make(chan result, 1)
	begun := time.Now()
	go func() {
		l, err := n.pools.Lease(second, n.B.Route)
		leased <- result{l, err}
	}()
	eventually(t, "B waits", func() bool { return series(t, registry, "ouvira_tenant_connections_waiting") == 1 })
	waiting := time.Now()
	<-time.After(held) // A has it for so long
	waited := time.Since(waiting)
	lease.Release()
	got := <-leased
	if got.err != nil {
		t.Fatal(got.err)
	}
	defer got.lease.Release()
	whole := time.Since(begun)
	if p := second.Phases(); p.Wait < waited || p.Connect <= 0 || p.Wait+p.Connect > whole || p.Queries != 0 {
		t.Errorf("of %s, of which A had the connection for %s: %+v", whole, waited, p)
	}

	var one int
	if err := got.lease.QueryRow(second, "SELECT 1 FROM users").Scan(&one); err != nil {
		t.Fatal(err)
	}
	if err := got.lease.QueryRow(context.WithoutCancel(second), "-- name: Nap :one\nSELECT 1 FROM pg_sleep(0.02)").Scan(&one); err != nil {
		t.Fatal(err)
	}
	if p := second.Phases(); p.Queries != 2 || p.Query < 20*time.Millisecond {
		t.Errorf("two statements: %+v", p)
	} else if name, took := p.Slowest(); name == "" || took < 20*time.Millisecond {
		t.Errorf("the slowest is %q with %s", name, took)
	}
	if p := first.Phases(); p.Queries != 0 {
		t.Errorf("statements at B count for the request at A: %+v", p)
	}
	if n := series(t, registry, "ouvira_tenant_connections_dropped_total"); n != 1 {
		t.Errorf("%g connections made room", n)
	}
}

// series is the sum of a family.
func series(t *testing.T, registry *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return sum
}
