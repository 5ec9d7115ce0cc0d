package tenantpool

import (
	"context"
	"time"

	"github.com/ouvira/ouvira/shared/pause"
	"github.com/ouvira/ouvira/shared/route"
)

// rereadAfter are the pauses before a refused route is read again. What
// Postgres enforces already (a fence, a new password) may be committed in the
// control database a moment later.
var rereadAfter = [...]time.Duration{0, 100 * time.Millisecond, 300 * time.Millisecond}

// reread asks for the tenant's route again after it was refused. It returns
// the route if it is newer, nil if it stays the same, or the fault that the
// tenant is now answered with.
func (p *Pools) reread(ctx context.Context, patience *patience, was *route.Route) (*route.Route, error) {
	waiting, cancel := context.WithDeadline(ctx, patience.end())
	defer cancel()
	for _, wait := range rereadAfter {
		if !pause.For(waiting, wait) {
			break
		}
		if err := p.options.Routes.Refresh(waiting, 0); err != nil {
			p.options.Log.WarnContext(ctx, "cannot re-read a refused route", "tenant_id", was.TenantID, "error", err)
		}
		now, err := p.current(ctx, was.TenantID)
		if err != nil {
			return nil, err
		}
		if now != was && (now.Version != was.Version || now.PoolKey() != was.PoolKey()) {
			return now, nil
		}
	}
	return nil, nil
}
