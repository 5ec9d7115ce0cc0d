package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/directory"
	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/dataplane/internal/tenantpool"
	"github.com/ouvira/ouvira/shared/pause"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/seal"
)

const (
	// resealEvery is between two questions for tenants whose secrets an earlier key has
	// sealed; there are none while no key is rotated.
	resealEvery   = 2 * time.Second
	resealTenants = 5
	// tellKeysEvery is how often a node says which keys it has: the control database may
	// have been restored meanwhile.
	tellKeysEvery = 30 * time.Second
	// resealTime bounds the work on one tenant, which another node may take up after a
	// minute.
	resealTime = 30 * time.Second
)

// resealing tells the control plane which keys this node has, and seals tenants' secrets
// anew where the key is rotated.
type resealing struct {
	nodeID  string
	log     *slog.Logger
	routes  *directory.Directory
	pools   *tenantpool.Pools
	key     *seal.DataKey
	users   *identity.Service
	control pg.Querier
	told    time.Time
}

func newResealing(nodeID string, log *slog.Logger, routes *directory.Directory, pools *tenantpool.Pools, key *seal.DataKey, users *identity.Service, control pg.Querier) *resealing {
	return &resealing{nodeID: nodeID, log: log, routes: routes, pools: pools, key: key, users: users, control: control}
}

// start works until the returned function is called, which waits for what is under way.
func (r *resealing) start(ctx context.Context) (stop func()) {
	working, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			// While the control database is away others say so, often enough.
			if err := r.turn(working); err != nil && working.Err() == nil {
				r.log.DebugContext(working, "keys are not looked after", "error", err)
			}
			if !pause.For(working, resealEvery) {
				return
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

func (r *resealing) turn(ctx context.Context) error {
	if time.Since(r.told) > tellKeysEvery {
		rings, err := json.Marshal(map[string]seal.Ring{"credentials": r.key.OpeningRing(), "nodes": r.key.Ring()})
		if err != nil {
			return fmt.Errorf("encode the ids of the keys: %w", err)
		}
		if _, err := r.control.Exec(ctx, "SELECT node.report_keys($1, $2)", r.nodeID, rings); err != nil {
			return fmt.Errorf("tell which keys this node has: %w", err)
		}
		r.told = time.Now()
	}
	if !r.routes.Ready() { // it would take tenants that it cannot reach yet
		return nil
	}
	rows, err := r.control.Query(ctx, "SELECT node.take_resealing($1, $2)", r.key.Ring().Primary, resealTenants)
	if err != nil {
		return fmt.Errorf("ask whose secrets are to be sealed anew: %w", err)
	}
	tenants, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return fmt.Errorf("ask whose secrets are to be sealed anew: %w", err)
	}
	for _, tenant := range tenants {
		if err := r.reseal(ctx, tenant); err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "secrets of a tenant could not be sealed anew; it is tried again", "tenant_id", tenant, "error", err)
		}
	}
	return nil
}

// reseal seals the secrets of one tenant anew. Then the control plane sees what is left.
func (r *resealing) reseal(ctx context.Context, tenant uuid.UUID) error {
	ctx, cancel := context.WithTimeout(ctx, resealTime)
	defer cancel()
	found, ok := r.routes.ByID(tenant)
	if !ok {
		return errors.New("its route is not known here")
	}
	err := r.users.ResealFactors(ctx, identity.Tenant{Route: found, Do: r.lease(found)}, r.key.Ring().Primary)
	if _, told := r.control.Exec(ctx, "SELECT node.resealed($1)", tenant); told != nil {
		err = errors.Join(err, fmt.Errorf("tell of it: %w", told))
	}
	return err
}

func (r *resealing) lease(of *route.Route) func(ctx context.Context, work func(identity.Conn) error) error {
	return func(ctx context.Context, work func(identity.Conn) error) error {
		lease, err := r.pools.Background(ctx, of)
		if err != nil {
			return err
		}
		defer lease.Release()
		return work(lease)
	}
}
