package tenantpool

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ouvira/ouvira/shared/route"
)

// meters are the metrics of the pools. Labels are names of servers and fixed
// reasons, never tenants: their number is bounded.
type meters struct {
	pools *Pools

	waits    *prometheus.CounterVec
	refusals *prometheus.CounterVec

	open, limit, waiting, broken, live *prometheus.Desc
}

func newMeters(p *Pools, registerer prometheus.Registerer) (*meters, error) {
	m := &meters{
		pools: p,
		waits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ouvira_tenant_connection_waits_total",
			Help: "Connections that had to wait for the server's budget or the tenant's cap.",
		}, []string{"server"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ouvira_tenant_lease_refusals_total",
			Help: "Leases refused, by reason.",
		}, []string{"server", "reason"}),
		open:    prometheus.NewDesc("ouvira_tenant_connections_open", "Open connections of this process.", []string{"server"}, nil),
		limit:   prometheus.NewDesc("ouvira_tenant_connections_limit", "Connections that this process may have.", []string{"server"}, nil),
		waiting: prometheus.NewDesc("ouvira_tenant_connections_waiting", "Connections that wait for a permit.", []string{"server"}, nil),
		broken:  prometheus.NewDesc("ouvira_tenant_server_broken", "Whether the server is not dialled now, because it did not answer.", []string{"server"}, nil),
		live:    prometheus.NewDesc("ouvira_tenant_pools", "Pools of tenants that are kept.", nil, nil),
	}
	if registerer == nil {
		return m, nil
	}
	if err := registerer.Register(m); err != nil {
		return nil, fmt.Errorf("register the metrics of the pools: %w", err)
	}
	return m, nil
}

func (m *meters) waited(s *server) {
	name, _, _, _ := s.counts()
	m.waits.WithLabelValues(name).Inc()
}

func (m *meters) refused(s *route.Server, reason string) {
	m.refusals.WithLabelValues(s.Name, reason).Inc()
}

// Describe implements prometheus.Collector.
func (m *meters) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, ch) }

// Collect implements prometheus.Collector.
func (m *meters) Collect(ch chan<- prometheus.Metric) {
	m.waits.Collect(ch)
	m.refusals.Collect(ch)
	m.pools.mu.Lock()
	live := m.pools.pools.Len()
	servers := make([]*server, 0, len(m.pools.servers))
	for _, s := range m.pools.servers {
		servers = append(servers, s)
	}
	m.pools.mu.Unlock()
	gauge := func(d *prometheus.Desc, n int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	gauge(m.live, live)
	for _, s := range servers {
		name, open, limit, waiting := s.counts()
		gauge(m.open, open, name)
		gauge(m.limit, limit, name)
		gauge(m.waiting, waiting, name)
		broken := 0
		if s.broken() {
			broken = 1
		}
		gauge(m.broken, broken, name)
	}
}
