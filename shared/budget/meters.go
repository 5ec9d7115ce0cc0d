package budget

import (
	"maps"

	"github.com/prometheus/client_golang/prometheus"
)

// meters are the metrics of a lease. Labels are names of servers.
type meters struct{ lease *Lease }

var (
	descLimit   = prometheus.NewDesc("ouvira_connection_share_limit", "Connections that this process may hold now.", []string{"server"}, nil)
	descWanted  = prometheus.NewDesc("ouvira_connection_share_wanted", "Connections that this process has in use or waits for, as it was reported last.", []string{"server"}, nil)
	descAge     = prometheus.NewDesc("ouvira_connection_share_age_seconds", "Time since the control database has last renewed the shares; -1 before the first time.", nil, nil)
	descMembers = prometheus.NewDesc("ouvira_connection_share_members", "Processes that share the connection budgets.", nil, nil)
)

// Describe implements prometheus.Collector.
func (m meters) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descLimit, descWanted, descAge, descMembers} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m meters) Collect(ch chan<- prometheus.Metric) {
	l := m.lease
	l.mu.Lock()
	limits, wanted, names := maps.Clone(l.limits), maps.Clone(l.wanted), maps.Clone(l.names)
	members, answered := l.members, !l.answered.IsZero()
	l.mu.Unlock()
	age := -1.0
	if answered {
		age = l.Age().Seconds()
	}
	gauge := func(d *prometheus.Desc, n float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, n, labels...)
	}
	gauge(descAge, age)
	gauge(descMembers, float64(members))
	for server, limit := range limits {
		if name, known := names[server]; known {
			gauge(descLimit, float64(limit), name)
			gauge(descWanted, float64(wanted[server]), name)
		}
	}
}
