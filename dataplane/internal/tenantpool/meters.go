package tenantpool

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sony/gobreaker/v2"

	"github.com/ouvira/ouvira/shared/route"
)

// meters are the metrics of the pools. Labels are names of servers and fixed
// reasons, never tenants: their number is bounded.
type meters struct {
	pools *Pools

	waits     *prometheus.CounterVec
	refusals  *prometheus.CounterVec
	evictions *prometheus.CounterVec
	leases    *prometheus.HistogramVec
	connects  *prometheus.HistogramVec

	open, limit, waiting, room, broken, breaker, live *prometheus.Desc
}

// Why pools were evicted, as metrics show it.
const (
	evictedRoute = "route"    // it has changed, or the tenant is not served any more
	evictedRoom  = "capacity" // more tenants than pools are kept for
	evictedIdle  = "idle"     // no request has come for long
)

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
		evictions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ouvira_tenant_pool_evictions_total",
			Help: "Pools that were closed, by reason.",
		}, []string{"server", "reason"}),
		leases: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "ouvira_tenant_lease_seconds",
			Help:    "How long it took to get a connection, or to be refused one: all of waiting and connecting.",
			Buckets: []float64{.0001, .0005, .001, .005, .01, .025, .05, .1, .25, .5, 1, 3},
		}, []string{"server"}),
		connects: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "ouvira_tenant_connect_seconds",
			Help:    "How long it took to make a connection, its proof included, by outcome.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}, []string{"server", "outcome"}),
		open:    prometheus.NewDesc("ouvira_tenant_connections_open", "Open connections of this process.", []string{"server"}, nil),
		limit:   prometheus.NewDesc("ouvira_tenant_connections_limit", "Connections that this process may have.", []string{"server"}, nil),
		waiting: prometheus.NewDesc("ouvira_tenant_connections_waiting", "Connections that wait for a permit.", []string{"server"}, nil),
		room:    prometheus.NewDesc("ouvira_tenant_connections_dropped_total", "Connections that were closed so that other tenants could have one: the coldest of the idle ones, and yielded ones of tenants that had more.", []string{"server", "reason"}, nil),
		broken:  prometheus.NewDesc("ouvira_tenant_server_broken", "Whether the server is not dialled now, because it did not answer.", []string{"server"}, nil),
		breaker: prometheus.NewDesc("ouvira_tenant_server_breaker", "1 for the state that the server's breaker is in: closed (dialled), open (not dialled), half-open (one dial finds out).", []string{"server", "state"}, nil),
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

func (m *meters) evicted(e *pool, reason string) {
	m.evictions.WithLabelValues(e.made.Server.Name, reason).Inc()
}

// Describe implements prometheus.Collector.
func (m *meters) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, ch) }

// Collect implements prometheus.Collector.
func (m *meters) Collect(ch chan<- prometheus.Metric) {
	for _, c := range []prometheus.Collector{m.waits, m.refusals, m.evictions, m.leases, m.connects} {
		c.Collect(ch)
	}
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
		cold, yielded := s.madeRoom()
		ch <- prometheus.MustNewConstMetric(m.room, prometheus.CounterValue, float64(cold), name, "cold")
		ch <- prometheus.MustNewConstMetric(m.room, prometheus.CounterValue, float64(yielded), name, "yielded")
		state := s.dials().State()
		gauge(m.broken, oneIf(state == gobreaker.StateOpen), name)
		for _, possible := range []gobreaker.State{gobreaker.StateClosed, gobreaker.StateOpen, gobreaker.StateHalfOpen} {
			gauge(m.breaker, oneIf(state == possible), name, possible.String())
		}
	}
}

func oneIf(yes bool) int {
	if yes {
		return 1
	}
	return 0
}
