// Package tenantpool leases connections to tenants' databases. See Pools.
package tenantpool

import (
	"context"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ouvira/ouvira/dataplane/internal/directory"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/route"
)

// Routes is what the pools ask of the directory.
type Routes interface {
	// ByID finds a tenant that is not deleted.
	ByID(id uuid.UUID) (*route.Route, bool)
	// Admit says by which route the tenant is served now, or why it is not.
	Admit(ctx context.Context, r *route.Route) (*route.Route, error)
	// Refresh reads what was committed before the call.
	Refresh(ctx context.Context, atLeast int64) error
}

// Opener opens the credentials in routes: *seal.DataKey.
type Opener interface {
	Open(sealed, context []byte) ([]byte, error)
}

// Options of Pools. NodeID, Share, Routes and Key are required.
type Options struct {
	NodeID string  // shown to Postgres as application_name ouvira/<NodeID>
	Share  float64 // of every server's budget and of every tenant's cap, 0 < Share ≤ 1
	Routes Routes
	Key    Opener

	MaxPools       int           // pools kept at once; default 1,000
	Wait           time.Duration // bound on waiting for a connection; default 3 s
	ConnectTimeout time.Duration // bound on making one; default 5 s
	Log            *slog.Logger
	Registerer     prometheus.Registerer // nil: no metrics
}

// Pools leases connections to tenants' databases. Make one with New, pass its
// RouteChanged to directory.Subscribe, and Close it after the last request.
type Pools struct{}

// New checks the options. Nothing is contacted before the first Lease.
func New(o Options) (*Pools, error) { return &Pools{}, nil }

// Lease gives a connection to the tenant's database; the caller must Release
// it. r is what the request was routed by; the lease is made by the newest
// route that the directory knows (see Lease.Route).
//
// Faults: 403 suspended, 404 gone, 429 the tenant's own cap is in use, 503
// with Retry-After when the server's budget is in use or it does not answer.
func (p *Pools) Lease(ctx context.Context, r *route.Route) (*Lease, error) {
	return nil, fault.Unavailable("Not built yet.")
}

// RouteChanged retires pools whose route has changed in what a connection is
// made from, and those of tenants that are no longer served. It does not
// block.
func (p *Pools) RouteChanged(e directory.Event) {}

// Close refuses new leases, waits until all are released and all connections
// are closed, or until ctx ends.
func (p *Pools) Close(ctx context.Context) error { return nil }
