package directory

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/dataplane/internal/timing"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/tracing"
)

// Refusal is why requests of the tenant are not served now, or nil: 403 for a
// suspended tenant, 404 for one that is gone, 503 for one under maintenance or
// held. It looks at the route alone.
func Refusal(r *route.Route) error {
	switch {
	case r == nil || r.Deleted:
		return fault.NotFound("No workspace answers at this address. Check the spelling.").Code("unknown_host")
	case r.Status == route.StatusSuspended:
		return fault.Forbidden("This workspace is suspended. Ask its owner to contact support.").Code("tenant_suspended")
	case r.Status != route.StatusActive:
		return fault.Unavailable("This workspace is not available now. Try again later.").Code("tenant_unavailable").RetryAfter(30 * time.Second)
	case r.Mode == route.ModeMaintenance:
		return fault.Unavailable("This workspace is under maintenance. Try again shortly.").Code("maintenance").RetryAfter(30 * time.Second)
	case r.Mode == route.ModeHold:
		return held()
	case r.Mode != route.ModeServe:
		return fault.Unavailable("This workspace is not available now. Try again later.").Code("tenant_unavailable").RetryAfter(30 * time.Second)
	}
	return nil
}

func held() *fault.Error {
	return fault.Unavailable("This workspace is being moved. Try again in a moment.").Code("tenant_held").RetryAfter(2 * time.Second)
}

// holds counts the requests that wait for a hold to end.
type holds struct {
	mu   sync.Mutex
	all  int
	each map[uuid.UUID]int
}

// begin tells whether one more may wait; then end must be called.
func (h *holds) begin(tenant uuid.UUID, mostEach, mostAll int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.all >= mostAll || h.each[tenant] >= mostEach {
		return false
	}
	if h.each == nil {
		h.each = map[uuid.UUID]int{}
	}
	h.all++
	h.each[tenant]++
	return true
}

func (h *holds) end(tenant uuid.UUID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all--
	if h.each[tenant]--; h.each[tenant] == 0 {
		delete(h.each, tenant)
	}
}

// Admit is Refusal, except that requests of a held tenant wait for the hold to
// end: a bounded time, and a bounded number of them. It returns the route to serve
// by, which is newer than r when it waited. Those who are let go together stand in
// the tenant's line for its connections, as any requests do.
//
// A database whose schema this binary does not know is refused with 503.
func (d *Directory) Admit(ctx context.Context, r *route.Route) (*route.Route, error) {
	r, err := d.admit(ctx, r)
	if err == nil && d.options.SchemaMax > 0 && (r.SchemaVersion < d.options.SchemaMin || r.SchemaVersion > d.options.SchemaMax) {
		return nil, fault.Unavailable("This workspace is being upgraded. Try again shortly.").Code("schema_not_served").RetryAfter(10 * time.Second).
			Because(fmt.Errorf("its schema is at %d, this node serves %d to %d", r.SchemaVersion, d.options.SchemaMin, d.options.SchemaMax))
	}
	return r, err
}

func (d *Directory) admit(ctx context.Context, r *route.Route) (*route.Route, error) {
	if r.Mode != route.ModeHold || r.Status != route.StatusActive || r.Deleted {
		return r, Refusal(r)
	}
	if !d.holds.begin(r.TenantID, d.options.HoldEach, d.options.HoldAll) {
		return nil, held().Because(errors.New("as many requests wait for the end of holds as may"))
	}
	defer d.holds.end(r.TenantID)
	begun := time.Now()
	ctx, span := tracing.Start(ctx, "hold")
	defer func() {
		timing.Of(ctx).Held(time.Since(begun))
		span.End()
	}()
	timer := time.NewTimer(d.options.HoldFor)
	defer timer.Stop()
	for {
		d.mu.RLock()
		current, changed := d.table.byID[r.TenantID], d.changed
		d.mu.RUnlock()
		if current == nil || current.Mode != route.ModeHold || current.Status != route.StatusActive {
			return current, Refusal(current)
		}
		select {
		case <-changed:
		case <-timer.C:
			return nil, held()
		case <-ctx.Done():
			return nil, fault.From(ctx.Err())
		}
	}
}
