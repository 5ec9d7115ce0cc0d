package tenantpool_test

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ouvira/ouvira/dataplane/internal/tenantpool"
	"github.com/ouvira/ouvira/shared/fault"
)

// Metrics name servers and reasons, never tenants.
func TestMetersAreBounded(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	n := newNode(t, 1, func(o *tenantpool.Options) { o.Registerer, o.Wait = registry, 100*time.Millisecond })
	defer n.lease(t, n.A).Release()
	_, err := n.pools.Lease(t.Context(), n.B.Route)
	wantFault(t, err, fault.KindUnavailable, "server_busy")
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			key := family.GetName()
			for _, label := range m.GetLabel() {
				key += " " + label.GetName() + "=" + label.GetValue()
			}
			got[key] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	for key, want := range map[string]float64{
		"ouvira_tenant_connections_open server=test":                          1,
		"ouvira_tenant_connections_limit server=test":                         1,
		"ouvira_tenant_connections_waiting server=test":                       1,
		"ouvira_tenant_connection_waits_total server=test":                    1,
		"ouvira_tenant_lease_refusals_total reason=server_budget server=test": 1,
		"ouvira_tenant_lease_seconds server=test":                             2,
		"ouvira_tenant_connect_seconds outcome=ok server=test":                1,
		"ouvira_tenant_connections_dropped_total reason=cold server=test":     0,
		"ouvira_tenant_connections_dropped_total reason=yielded server=test":  0,
		"ouvira_tenant_server_broken server=test":                             0,
		"ouvira_tenant_server_breaker server=test state=closed":               1,
		"ouvira_tenant_server_breaker server=test state=open":                 0,
		"ouvira_tenant_server_breaker server=test state=half-open":            0,

		"ouvira_tenant_pools": 2,
	} {
		if key == "ouvira_tenant_connections_waiting server=test" {
			if _, ok := got[key]; !ok {
				t.Errorf("%s is missing", key)
			}
			continue // the waiter may have gone
		}
		if got[key] != want {
			t.Errorf("%s = %v, want %v", key, got[key], want)
		}
	}
	if len(got) != 14 {
		t.Errorf("there are %d series: %v", len(got), got)
	}
}
