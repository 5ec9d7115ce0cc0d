package main

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/reconcile"
	"github.com/ouvira/ouvira/controlplane/internal/retention"
)

// tend runs what sees to domains, payments and usage until ctx ends.
func (h *house) tend(ctx context.Context, sweeps *sync.WaitGroup) {
	actor := audit.Worker(h.holder)
	for _, s := range []struct {
		pause time.Duration
		name  string
		task  func(context.Context) error
	}{
		{time.Minute, "look at domains again", func(ctx context.Context) error { return h.rooms.Domains.Recheck(ctx, actor) }},
		{time.Hour, "release unproven domains", func(ctx context.Context) error { return h.rooms.Domains.Expire(ctx, actor) }},
		{10 * time.Minute, "see who has paid", h.rooms.Billing.Sweep},
		{time.Minute, "look at what tenants use", func(ctx context.Context) error { return h.rooms.Usage.Sample(ctx, actor) }},
		{time.Hour, "forget what is old", func(ctx context.Context) error { return retention.Sweep(ctx, h.db) }},
		{time.Second, "look into tenants' databases", h.rooms.Reconcile.Scan},
		{5 * time.Minute, "add up what tenants use", h.rooms.Usage.RollUp},
	} {
		sweeps.Go(func() { every(ctx, s.pause, h.log, s.name, s.task) })
	}
	h.registry.MustRegister(scans{h.rooms.Reconcile})
	if err := h.rooms.Reconcile.Rescan(ctx); err != nil {
		h.log.WarnContext(ctx, "databases are looked into when they are due, and not now", "error", err)
	}
}

// scans tells in the metrics what was found in tenants' databases: the control database
// is asked when they are.
type scans struct{ reconcile *reconcile.Service }

var (
	scanForeign = prometheus.NewDesc("ouvira_databases_foreign_code", "Tenants' databases with what no tenant's database has.", nil, nil)
	scanOverdue = prometheus.NewDesc("ouvira_databases_scan_overdue_seconds", "Since when the tenant's database is to be looked into that waits the longest.", nil, nil)
)

// scanPatience is how long who asks for the metrics waits for these.
const scanPatience = 2 * time.Second

// Describe implements prometheus.Collector.
func (s scans) Describe(out chan<- *prometheus.Desc) {
	out <- scanForeign
	out <- scanOverdue
}

// Collect implements prometheus.Collector. They are left out while the control database
// is away.
func (s scans) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scanPatience)
	defer cancel()
	found, err := s.reconcile.Scanned(ctx)
	if err != nil {
		return
	}
	out <- prometheus.MustNewConstMetric(scanForeign, prometheus.GaugeValue, float64(found.Foreign))
	out <- prometheus.MustNewConstMetric(scanOverdue, prometheus.GaugeValue, found.Overdue.Seconds())
}
