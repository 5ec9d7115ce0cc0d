package tenantpool

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
)

var (
	errClosed     = errors.New("the pools are closed")
	errStale      = errors.New("the route changed while a connection was waited for")
	errTenantBusy = errors.New("all connections that the tenant may have are in use")
	errServerBusy = errors.New("all connections that this process may have to the server are in use")
	errTenantLine = errors.New("as many wait for the tenant's connections as may")
	errServerLine = errors.New("as many wait for connections to the server as may")
	errExpelled   = errors.New("this process was expelled from the server, and begins anew")
	errNoAnswer   = errors.New("the server did not make a connection in time")
)

// isTenantCap tells whether Postgres refused for a limit of the tenant's own.
// 53300 stands for three limits; the routine that raised it tells them apart.
func isTenantCap(err error) bool {
	if pg.Code(err) != pg.CodeTooManyConnections {
		return false
	}
	routine := pg.Routine(err)
	return routine == "InitializeSessionUserId" || routine == "CheckMyDatabase"
}

// mayBeStale tells whether err is a refusal while connecting that a newer
// route could mend: a fence, another password, a database that has moved, is
// gone or is another's, a server that does not answer at this address.
func mayBeStale(err error) bool {
	if pg.Code(err) == pg.CodeTooManyConnections || errors.Is(err, context.Canceled) {
		return false
	}
	var marker *markerError
	return pg.IsConnect(err) || errors.As(err, &marker)
}

// refuse makes the fault of an attempt that failed for good.
func (p *Pools) refuse(ctx context.Context, r *route.Route, err error) error {
	reason, refusal := explain(err)
	if refusal == nil {
		return fault.From(err) // the caller's own deadline, or a mistake of ours
	}
	p.meters.refused(r.Server, reason)
	if reason == reasonWrongDatabase || reason == reasonRefused {
		p.options.Log.ErrorContext(ctx, "a tenant's database refuses its route",
			"tenant_id", r.TenantID, "server", r.Server.Name, "database", r.Database, "error", err)
	}
	return refusal.Because(err)
}

// The reasons of refusals, as metrics show them.
const (
	reasonTenantBusy    = "tenant_cap"
	reasonServerBusy    = "server_budget"
	reasonTenantLine    = "tenant_line"
	reasonServerLine    = "server_line"
	reasonServerFull    = "server_full"
	reasonNoAnswer      = "no_answer"
	reasonRefused       = "refused"
	reasonWrongDatabase = "wrong_database"
	reasonClosed        = "closing"
)

func explain(err error) (reason string, f *fault.Error) {
	switch {
	case errors.Is(err, errTenantBusy), isTenantCap(err):
		return reasonTenantBusy, tooMany()
	case errors.Is(err, errTenantLine):
		return reasonTenantLine, tooMany().RetryAfter(later())
	case errors.Is(err, errServerLine):
		return reasonServerLine, busy().RetryAfter(later())
	case errors.Is(err, errServerBusy), errors.Is(err, errExpelled):
		return reasonServerBusy, busy()
	case pg.Code(err) == pg.CodeTooManyConnections:
		return reasonServerFull, busy()
	case errors.Is(err, errNoAnswer), pg.Code(err) == pg.CodeCannotConnectNow:
		return reasonNoAnswer, away()
	case errors.Is(err, errWrongDatabase):
		return reasonWrongDatabase, away()
	case errors.Is(err, errClosed):
		return reasonClosed, fault.Unavailable("This node is stopping. Try again.").Code("stopping").RetryAfter(time.Second)
	case errors.Is(err, errStale):
		return reasonRefused, away()
	case errors.Is(err, context.Canceled):
		return "", nil
	case pg.Code(err) != "" && mayBeStale(err):
		return reasonRefused, away()
	case mayBeStale(err):
		return reasonNoAnswer, away()
	}
	return "", nil
}

func tooMany() *fault.Error {
	return fault.RateLimited("This workspace has too many requests at work at the same time. Try again shortly.").
		Code("tenant_busy").RetryAfter(time.Second)
}

// later is when to come again after a line was full: about when those who stand
// in it have been served or sent away, and not all at once.
func later() time.Duration { return 2*time.Second + rand.N(3*time.Second) } //nolint:gosec // spreads load, guards nothing

func busy() *fault.Error {
	return fault.Unavailable("The database server of this workspace is busy. Try again shortly.").
		Code("server_busy").RetryAfter(time.Second)
}

func away() *fault.Error {
	return fault.Unavailable("The database of this workspace cannot be reached now. Try again shortly.").
		Code("database_unavailable").RetryAfter(2 * time.Second)
}
