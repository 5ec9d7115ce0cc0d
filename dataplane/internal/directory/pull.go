package directory

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ouvira/ouvira/shared/pause"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
)

const (
	// pullGap is the least time between the beginnings of two pulls: a burst of
	// notifications costs a pull each pullGap, not one each.
	pullGap = 25 * time.Millisecond
	// pullTimeout bounds one pull.
	pullTimeout = 10 * time.Second
)

// flight is a pull that has not begun yet, and who waits for it.
type flight struct {
	done chan struct{}
	err  error // valid once done is closed
}

// pulls hands requests for a pull to the loop. Requests made while a pull runs
// share the next one: the running one may have read before they were made.
type pulls struct {
	mu   *sync.Mutex
	next *flight
	poke chan struct{} // of size 1
}

func newPulls() pulls {
	return pulls{mu: new(sync.Mutex), next: newFlight(), poke: make(chan struct{}, 1)}
}

func newFlight() *flight { return &flight{done: make(chan struct{})} }

func (p *pulls) join() *flight {
	p.mu.Lock()
	f := p.next
	p.mu.Unlock()
	p.wake()
	return f
}

func (p *pulls) wake() {
	select {
	case p.poke <- struct{}{}:
	default: // one is asked for already
	}
}

func (p *pulls) begin() *flight {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.next
	p.next = newFlight()
	return f
}

// end lets go of who waits when there will be no further pull.
func (p *pulls) end() {
	f := p.begin()
	f.err = errors.New("the node is stopping")
	close(f.done)
}

// Run keeps the copy fresh until ctx ends, and then returns nil. It returns an
// error only at the start, for what waiting does not mend: wrong credentials,
// a Postgres too old. A control database that is merely away, or not migrated
// yet, is waited for.
func (d *Directory) Run(ctx context.Context) error {
	defer d.pulls.end()
	d.restore(ctx)
	ctx, cancel := context.WithCancel(ctx)
	var keeping sync.WaitGroup
	defer keeping.Wait()
	defer cancel()
	keeping.Go(func() { d.keepSnapshot(ctx) })
	pool, err := d.open(ctx)
	if err != nil || pool == nil {
		return err
	}
	defer pool.Close()

	var listening sync.WaitGroup
	defer listening.Wait()
	listener := pg.Listener{
		DSN:             d.options.DSN,
		ApplicationName: "ouvira/" + d.options.NodeID,
		Channel:         route.Channel,
		Log:             d.options.Log,
		OnListen:        d.pulls.wake,
		OnNotify:        func(string) { d.pulls.wake() },
	}
	listening.Go(func() { listener.Run(ctx) })

	tick := time.NewTicker(d.options.PollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-d.pulls.poke:
		}
		begun := time.Now()
		_ = d.fly(ctx, pool) // it has told; the next one tries again
		if !pause.For(ctx, pullGap-time.Since(begun)) {
			return nil
		}
	}
}

// open waits for the control database and pulls for the first time. It returns (nil, nil) when ctx ends before that.
func (d *Directory) open(ctx context.Context) (*pgxpool.Pool, error) {
	for {
		pool, err := d.begin(ctx)
		if err == nil {
			return pool, nil
		}
		if ctx.Err() != nil {
			return nil, nil //nolint:nilerr // being told to stop is no failure
		}
		if permanent(err) && !d.survives(err) {
			return nil, err
		}
		d.options.Log.WarnContext(ctx, "waiting for the control database", "error", err)
		if !pause.For(ctx, d.options.PollEvery) {
			return nil, nil
		}
	}
}

func (d *Directory) begin(ctx context.Context) (*pgxpool.Pool, error) {
	pool, err := pg.Open(ctx, d.options.DSN, pg.Options{ApplicationName: "ouvira/" + d.options.NodeID, MaxConnections: 1})
	if err != nil {
		err = fmt.Errorf("the control database (OUVIRA_NODE_DATABASE_URL): %w", err)
		if pg.Code(err) == "" && !pg.IsConnect(err) && ctx.Err() == nil {
			err = unusable{err} // the address, or the version
		}
		return nil, err
	}
	if err := d.fly(ctx, pool); err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}

// permanent tells what no waiting mends. Schema objects that do not exist are
// not among it: the control plane may be about to create them.
func permanent(err error) bool {
	switch pg.Code(err) {
	case pg.CodeInvalidAuth, pg.CodeInvalidPassword, pg.CodeInvalidCatalog, pg.CodeInsufficientRights:
		return true
	}
	return errors.As(err, new(unusable))
}

// survives tells that a node with a snapshot goes on serving by it: whoever
// broke its login to the control database shall not take the tenants down with
// it. A setting that nobody can read is another matter.
func (d *Directory) survives(err error) bool {
	return d.Ready() && !errors.As(err, new(unusable))
}

// unusable marks a control database that answers, or an address that is read,
// and that this binary cannot work with.
type unusable struct{ error }

func (e unusable) Unwrap() error { return e.error }

// fly pulls once and tells who waits for it.
func (d *Directory) fly(ctx context.Context, pool *pgxpool.Pool) error {
	f := d.pulls.begin()
	d.pulled.Add(1)
	f.err = d.pull(ctx, pool)
	close(f.done)
	if f.err != nil && ctx.Err() == nil {
		d.options.Log.WarnContext(ctx, "pull of the routes failed", "error", f.err, "routes_age", d.Age().String())
	}
	return f.err
}

func (d *Directory) pull(ctx context.Context, pool *pgxpool.Pool) error {
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	changes, err := route.Pull(ctx, pool, d.clock, func(id uuid.UUID) *route.Server { return d.servers[id] })
	if err != nil {
		return err
	}
	for _, broken := range changes.Broken {
		d.options.Log.ErrorContext(ctx, "route served as under maintenance", "error", broken)
	}
	d.publish(changes, time.Now())
	d.live.Store(true)
	return nil
}

// publish applies what was pulled at that time as a whole and then tells the
// subscribers.
func (d *Directory) publish(c route.Changes, at time.Time) {
	for _, r := range c.Routes {
		intern(r)
	}
	var events []Event
	d.mu.Lock()
	if c.Full {
		clear(d.servers)
	}
	for _, s := range c.Servers {
		d.servers[s.ID] = s
	}
	if c.Full {
		events = d.table.replace(c.Routes)
	} else {
		moved := d.table.rebind(c.Servers)
		events = append(d.table.apply(moved), d.table.apply(c.Routes)...)
	}
	if len(events) > 0 {
		close(d.changed)
		d.changed = make(chan struct{})
	}
	d.tableClock = c.Clock
	d.pulledAt.Store(at.UnixNano())
	d.mu.Unlock()
	d.clock = c.Clock
	d.version.Store(c.Clock.Version)
	if len(events) > 0 || len(c.Servers) > 0 || c.Full {
		select {
		case d.dirty <- struct{}{}:
		default: // told already
		}
	}
	for _, e := range events {
		for _, tell := range d.subscribers {
			tell(e)
		}
	}
}
