package main

import (
	"context"
	"sync"
	"time"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
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
		{5 * time.Minute, "add up what tenants use", h.rooms.Usage.RollUp},
	} {
		sweeps.Go(func() { every(ctx, s.pause, h.log, s.name, s.task) })
	}
}
