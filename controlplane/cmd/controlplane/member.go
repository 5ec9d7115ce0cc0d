package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/shared/budget"
)

const (
	// heartbeatStale is when this process is not ready any more: what it holds may
	// have been given to others.
	heartbeatStale = 30 * time.Second
	releaseTimeout = 5 * time.Second
	reclaimEvery   = time.Second
)

// membership is this process among those that hold connections to tenant
// servers.
type membership struct{ *budget.Lease }

// keep leases until ctx ends and everything that holds connections has ended,
// and then gives the share back.
func (m membership) keep(ctx context.Context, ended <-chan struct{}) error {
	leasing, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	done := make(chan struct{})
	go func() {
		m.Run(leasing)
		close(done)
	}()
	<-ended
	cancel()
	<-done
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	return m.Close(closing)
}

// fresh is a readiness check.
func (m membership) fresh(context.Context) error {
	if m.Age() > heartbeatStale {
		return fmt.Errorf("the control database has not heard of this process for more than %s", heartbeatStale)
	}
	return nil
}

// reclaim takes back what processes hold that are not heard of any more.
func reclaim(ctx context.Context, servers *server.Service, holder string, log *slog.Logger) {
	every(ctx, reclaimEvery, log, "reclaim connections", server.NewReclaimer(servers, holder).Turn)
}

// every runs a small task now and then until ctx ends. Errors are logged: the
// next turn tries again.
func every(ctx context.Context, pause time.Duration, log *slog.Logger, name string, task func(ctx context.Context) error) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		if err := task(ctx); err != nil && ctx.Err() == nil {
			log.WarnContext(ctx, "background task failed", "task", name, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
