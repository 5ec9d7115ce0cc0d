package routingtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ouvira/ouvira/dataplane/internal/directory"
	"github.com/ouvira/ouvira/dataplane/internal/tenantpool"
	"github.com/ouvira/ouvira/shared/budget"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/seal"
)

// How nodes are set up: budgets and caches so small that they bind. No two
// nodes can lease so much that nothing is left for the third.
const (
	nodeShare = 0.4
	maxPools  = 2
	holdFor   = time.Second
	patience  = time.Minute // of a client who has no reason to give up
)

// node is a data-plane node: one process after the other, under one name.
type node struct {
	id       string
	control  string // URL of the control database, through the proxy
	proxy    *proxy
	key      *seal.DataKey
	snapshot string // file

	mu        sync.Mutex
	process   *process
	disturbed []span
	calm      context.Context // of requests begun since the last disturbance
	hurry     context.CancelFunc
}

// process is one run of a node.
type process struct {
	dir    *directory.Directory
	pools  *tenantpool.Pools
	lease  *budget.Lease
	leases *pgxpool.Pool // to the control database, for the lease
	ctx    context.Context
	cancel context.CancelFunc
	ended  chan error
}

// start wires a process as the data plane's program does.
func (n *node) start() error {
	dir, err := directory.New(directory.Options{
		DSN: n.control, NodeID: n.id, BaseDomain: domain, HoldFor: holdFor, Snapshot: n.snapshot, Sealer: n.key,
	})
	if err != nil {
		return err
	}
	config, err := pgxpool.ParseConfig(n.control)
	if err != nil {
		return err
	}
	config.MaxConns = 1
	config.ConnConfig.ConnectTimeout = 5 * time.Second
	leases, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		return err
	}
	lease, err := budget.New(budget.Options{
		DB: leases, Member: n.id, Kind: budget.Node, Share: nodeShare, RouteVersion: dir.Version, File: n.shares(), Sealer: n.key,
	})
	if err != nil {
		return err
	}
	pools, err := tenantpool.New(tenantpool.Options{
		NodeID: n.id, Budget: lease, Routes: dir, Key: n.key, MaxPools: maxPools, Wait: patience / 2, ConnectTimeout: patience / 2,
	})
	if err != nil {
		return err
	}
	dir.Subscribe(pools.RouteChanged)
	lease.Attach(pools)
	p := &process{dir: dir, pools: pools, lease: lease, leases: leases, ended: make(chan error, 1)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	go func() {
		var leasing sync.WaitGroup
		leasing.Go(func() { lease.Run(p.ctx) })
		err := dir.Run(p.ctx)
		leasing.Wait()
		p.ended <- err
	}()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.process = p
	n.calm, n.hurry = context.WithCancel(p.ctx)
	return nil
}

// shares is the file that keeps what the node has leased.
func (n *node) shares() string { return n.snapshot + ".shares" }

// stop ends the process and waits until nothing of it is left.
func (p *process) stop() error {
	p.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	closed := p.pools.Close(ctx)
	ended := <-p.ended
	released := p.lease.Close(ctx)
	p.leases.Close()
	return errors.Join(closed, ended, released)
}

// kill ends the process as a crash does, as far as that can be had inside of
// another: clients lose it at once, servers end its backends, and it gives
// nothing back and leaves no last word in its files.
func (n *node) kill(ctx context.Context, places []*place) error {
	n.mu.Lock()
	p := n.process
	n.mu.Unlock()
	files := map[string][]byte{n.snapshot: nil, n.shares(): nil}
	for name := range files {
		content, err := os.ReadFile(name)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		files[name] = content
	}
	n.proxy.breakLinks()
	p.leases.Close()
	p.cancel()
	for _, at := range places {
		if err := at.terminate(ctx, "ouvira/"+n.id); err != nil {
			return err
		}
	}
	if err := p.stop(); err != nil {
		return fmt.Errorf("node %s does not end: %w", n.id, err)
	}
	for name, content := range files {
		if content == nil {
			continue
		}
		if err := os.WriteFile(name, content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// forget loses what the node keeps on disk.
func (n *node) forget() error {
	var errs []error
	for _, name := range []string{n.snapshot, n.shares()} {
		if err := os.Remove(name); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// disturb marks the node as disturbed until it is calm again; clients that wait
// for it lose their patience soon.
func (n *node) disturb(at int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if last := len(n.disturbed) - 1; last >= 0 && n.disturbed[last].to == never {
		return
	}
	n.disturbed = append(n.disturbed, span{at, never})
	time.AfterFunc(time.Second, n.hurry)
	n.calm, n.hurry = context.WithCancel(n.process.ctx)
}

func (n *node) calmed(at int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.disturbed[len(n.disturbed)-1].to = at
}

// troubled tells whether the node was disturbed at some moment of the span.
func (n *node) troubled(s span) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(n.disturbed, s.meets)
}

// client asks nodes, one request after the other.
type client struct {
	random  *rand.Rand
	history *history
	entries *atomic.Int64       // counts the writes of all clients
	wrote   map[uuid.UUID]int64 // the last acknowledged entry of each tenant
}

// ask sends a request and says what came of it.
func (c *client) ask(n *node, slug string) answer {
	n.mu.Lock()
	p, calm := n.process, n.calm
	n.mu.Unlock()
	a := answer{slug: slug, node: n.id, knew: p.dir.Version()}
	a.from = c.history.now()
	wait := patience
	if n.troubled(span{a.from, a.from}) {
		wait = time.Duration(20+c.random.IntN(800)) * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(calm, wait)
	defer cancel()
	entry := int64(0)
	if c.random.IntN(2) == 0 {
		entry = c.entries.Add(1)
	}
	reached := uuid.Nil
	a.code, a.err = c.work(ctx, p, &a, entry, &reached)
	if a.code != served && ctx.Err() != nil {
		a.code = gaveUp
	}
	a.to = c.history.now()
	a.disturbed = n.troubled(a.span)
	if entry != 0 {
		c.keep(entry, a, reached)
	}
	return a
}

// keep remembers what came of a write. It is done unless the answer says so,
// or no statement was sent.
func (c *client) keep(entry int64, a answer, reached uuid.UUID) {
	o := outcome{code: a.code, tenant: reached}
	switch {
	case a.code == served:
		c.wrote[a.tenant] = entry
	case reached == uuid.Nil:
		o.code = refused
	default:
		o.code = gaveUp
	}
	c.history.wrote(entry, o)
}

// work does what a request does: find the tenant, be admitted, lease, and read
// or write. reached is the tenant whose database was sent a statement.
func (c *client) work(ctx context.Context, p *process, a *answer, entry int64, reached *uuid.UUID) (code string, err error) {
	refusal := func(err error) (string, error) { return fault.From(err).EffectiveCode(), err }
	r, err := p.dir.Lookup(a.slug + "." + domain)
	if err != nil {
		return refusal(err)
	}
	if r, err = p.dir.Admit(ctx, r); err != nil {
		return refusal(err)
	}
	lease, err := p.pools.Lease(ctx, r)
	if err != nil {
		return refusal(err)
	}
	defer lease.Release()
	a.routed = lease.Route().TenantID
	*reached = a.routed
	before := c.wrote[a.routed]
	there := false
	if entry != 0 {
		err = pgx.BeginFunc(ctx, beginner{lease}, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "INSERT INTO public.journal (entry) VALUES ($1)", entry); err != nil {
				return err
			}
			return tx.QueryRow(ctx, lookAround, before).Scan(&a.tenant, &a.incarnation, &there)
		})
	} else {
		err = lease.QueryRow(ctx, lookAround, before).Scan(&a.tenant, &a.incarnation, &there)
	}
	if err != nil {
		return broken, err
	}
	if before != 0 && !there {
		a.lost = before
	}
	return served, nil
}

const lookAround = "SELECT tenant_id, incarnation, EXISTS (SELECT FROM public.journal WHERE entry = $1) FROM ouvira.marker"

// beginner begins with the defaults.
type beginner struct{ *tenantpool.Lease }

func (b beginner) Begin(ctx context.Context) (pgx.Tx, error) { return b.BeginTx(ctx, pgx.TxOptions{}) }
