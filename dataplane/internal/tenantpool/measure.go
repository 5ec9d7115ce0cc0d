package tenantpool

import (
	"context"
	"errors"
	"time"

	"github.com/ouvira/ouvira/dataplane/internal/timing"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/tracing"
)

// leased tells how long a lease took, or the attempt to get one: the clock of the
// request, its trace, and the metrics of the server.
//
// A connection is made for whoever comes first, not for the one who has caused
// it. What a request gets that was made while it waited, it has waited for: from
// the dial on that was connecting, before it the queue.
func (p *Pools) leased(ctx context.Context, r *route.Route, begun time.Time, lease *Lease, err error) {
	now := time.Now()
	connecting := time.Duration(0)
	switch {
	case err != nil:
		if errors.Is(err, errNoAnswer) || mayBeStale(err) {
			connecting = now.Sub(begun)
		}
	case lease.conn.made.After(begun):
		dialed := lease.conn.sock.dialed
		if dialed.Before(begun) {
			dialed = begun
		}
		connecting = lease.conn.made.Sub(dialed)
		tracing.Past(ctx, "wait", begun, dialed)
		tracing.Past(ctx, "connect", dialed, lease.conn.made)
	}
	took := now.Sub(begun)
	timing.Of(ctx).Leased(took, connecting)
	p.meters.leases.WithLabelValues(r.Server.Name).Observe(took.Seconds())
}

// connected tells of an attempt to make a connection.
func (e *pool) connected(begun time.Time, err error) {
	outcome := "ok"
	if err != nil {
		outcome = "failed"
	}
	e.owner.meters.connects.WithLabelValues(e.made.Server.Name, outcome).Observe(time.Since(begun).Seconds())
}
