package load

import "github.com/prometheus/client_golang/prometheus"

// collector shows the busiest tenants, a bounded number in each family,
// whatever happens: which ones changes, so these are gauges over the window and
// not counters.
type collector struct{ tenants *Tenants }

var families = [...]struct {
	by    Order
	desc  *prometheus.Desc
	value func(Sum) float64
}{
	{
		ByRequests, prometheus.NewDesc("ouvira_top_tenant_requests", "Requests in the last minute of the tenants with the most.", []string{"tenant"}, nil),
		func(s Sum) float64 { return float64(s.Requests) },
	},
	{
		ByErrors, prometheus.NewDesc("ouvira_top_tenant_errors", "Answers of 5xx in the last minute of the tenants with the most.", []string{"tenant"}, nil),
		func(s Sum) float64 { return float64(s.Errors) },
	},
	{
		BySeconds, prometheus.NewDesc("ouvira_top_tenant_database_seconds", "Seconds of statements in the last minute of the tenants with the most.", []string{"tenant"}, nil),
		func(s Sum) float64 { return s.Database.Seconds() },
	},
}

// Describe implements prometheus.Collector.
func (collector) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range families {
		ch <- f.desc
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	for _, f := range families {
		busiest, _ := c.tenants.Busiest(f.by, c.tenants.shown)
		shown := map[string]bool{}
		for _, t := range busiest {
			// A slug may pass from one tenant to another within the window.
			if !shown[t.Slug] {
				shown[t.Slug] = true
				ch <- prometheus.MustNewConstMetric(f.desc, prometheus.GaugeValue, f.value(t.Sum), t.Slug)
			}
		}
	}
}
