package httpapi_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ouvira/ouvira/dataplane/internal/directory"
	"github.com/ouvira/ouvira/dataplane/internal/tenantpool"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/budget"
	"github.com/ouvira/ouvira/shared/testdb/sidebyside"
)

// fleetBudget counts what three nodes hold of a server while they share its
// budget, from the first request on.
func (w *world) fleetBudget(b *testing.B, l load) {
	b.Helper()
	w.setBudget(b, l.budget)
	nodes := w.threeNodes(b)
	ours := way{op: w.callers(b, nodes, l, ownRequest), backends: oursBackends}
	counts := w.watch(ours)
	sidebyside.Run(l.clients, 4*w.each, ours.op)
	sidebyside.Against(b, counts()[0], float64(l.budget))
}

// fleetOfThree compares the throughput of three nodes that share a budget at
// many tenants with theirs at the few to which connections stay.
func (w *world) fleetOfThree(b *testing.B, l load) {
	b.Helper()
	const few = 10
	w.setBudget(b, l.budget)
	nodes := w.threeNodes(b)
	w.compare(b, l.clients,
		way{op: w.callers(b, nodes, l, ownRequest), backends: oursBackends, settle: true},
		way{op: w.callers(b, nodes, load{few, uniform, l.clients, l.budget}, ownRequest), backends: oursBackends, settle: true})
}

// threeNodes are a fleet: each with a directory, pools and a leased share of
// its own. Clients go to them in turn.
func (w *world) threeNodes(b *testing.B) (address func(client int) string) {
	b.Helper()
	var addresses [3]string
	for i := range addresses {
		addresses[i] = serve(b, routedAPI(w.leasingNode(b, fmt.Sprintf("bench-%d", i))))
	}
	return func(client int) string { return addresses[client%len(addresses)] }
}

// leasingNode is wired as a node is.
func (w *world) leasingNode(b *testing.B, id string) *routing {
	b.Helper()
	node := &routing{}
	node.Directory = w.DirectoryOf(b, w.address, len(w.tenants), func(e directory.Event) {
		if node.pools != nil {
			node.pools.RouteChanged(e)
		}
	})
	control, err := pgxpool.New(b.Context(), tenanttest.WithRole(w.address, migrations.NodeRole))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(control.Close)
	lease, err := budget.New(budget.Options{DB: control, Member: id, Kind: budget.Node, Share: 1, RouteVersion: node.Version})
	if err != nil {
		b.Fatal(err)
	}
	if node.pools, err = tenantpool.New(tenantpool.Options{NodeID: id, Budget: lease, Routes: node.Directory, Key: w.Key}); err != nil {
		b.Fatal(err)
	}
	lease.Attach(node.pools)
	running, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		lease.Run(running)
	}()
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := node.pools.Close(ctx); err != nil {
			b.Errorf("close the pools: %v", err)
		}
		stop()
		<-ended
		if err := lease.Close(ctx); err != nil {
			b.Errorf("give the share back: %v", err)
		}
	})
	return node
}
