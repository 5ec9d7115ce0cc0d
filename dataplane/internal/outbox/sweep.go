package outbox

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// Fleet is what the nodes tell each other, by way of the control database.
type Fleet interface {
	// ReportServed tells for which tenants this node has taken requests that
	// may have written messages.
	ReportServed(ctx context.Context, tenants []uuid.UUID) error
	// ServedBefore are the tenants that this node served before it was started.
	ServedBefore(ctx context.Context) ([]uuid.UUID, error)
	// Orphaned takes over tenants of nodes that are dead.
	Orphaned(ctx context.Context, most int) ([]uuid.UUID, error)
	// Unswept takes tenants at which no node has looked for an hour.
	Unswept(ctx context.Context, most int) ([]uuid.UUID, error)
}

const (
	// reportAgain is how long a report counts: a tenant that is served all the
	// time is not reported all the time.
	reportAgain = 5 * time.Minute
	// Looking at an idle tenant opens a connection to its database: not more
	// than these at a time.
	orphansAtOnce = 20
	sweptAtOnce   = 5
)

// Served notes that a request may have written messages of the tenant.
func (d *Drainer) Served(tenant uuid.UUID) {
	if d.options.Fleet == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.served[tenant]; !ok {
		d.served[tenant] = time.Time{}
	}
}

// sweep looks after the fleet until ctx ends.
func (d *Drainer) sweep(ctx context.Context) {
	tick := time.NewTicker(d.options.SweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := d.sweepOnce(ctx); err != nil && ctx.Err() == nil {
				d.options.Log.WarnContext(ctx, "the outboxes of other nodes cannot be looked after", "error", err)
			}
		}
	}
}

func (d *Drainer) sweepOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, writeTime)
	defer cancel()
	if tenants := d.unreported(time.Now()); len(tenants) > 0 {
		if err := d.options.Fleet.ReportServed(ctx, tenants); err != nil {
			return err
		}
		d.reported(tenants, time.Now())
	}
	// Once: what a run of this node has left that was killed. The node lives again, so
	// no other looks after it.
	if !d.returned {
		before, err := d.options.Fleet.ServedBefore(ctx)
		if err != nil {
			return err
		}
		d.returned = true
		for _, tenant := range before {
			d.Wake(tenant)
		}
	}
	orphans, err := d.options.Fleet.Orphaned(ctx, orphansAtOnce)
	if err != nil {
		return err
	}
	for _, tenant := range orphans {
		d.Wake(tenant)
	}
	unswept, err := d.options.Fleet.Unswept(ctx, sweptAtOnce)
	if err != nil {
		return err
	}
	for _, tenant := range unswept {
		d.mu.Lock()
		d.untidy[tenant] = true
		d.mu.Unlock()
		d.Wake(tenant)
	}
	return nil
}

// unreported are the tenants to tell of. What was told long ago is forgotten,
// to be told again when the tenant is served again.
func (d *Drainer) unreported(now time.Time) []uuid.UUID {
	d.mu.Lock()
	defer d.mu.Unlock()
	var tenants []uuid.UUID
	for tenant, at := range d.served {
		switch {
		case at.IsZero():
			tenants = append(tenants, tenant)
		case now.Sub(at) > reportAgain:
			delete(d.served, tenant)
		}
	}
	return tenants
}

func (d *Drainer) reported(tenants []uuid.UUID, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, tenant := range tenants {
		d.served[tenant] = now
	}
}
