// Package directory holds a node's own copy of the whole route table and
// answers, from memory, which tenant a request is for.
//
// The copy is pulled from the control database by version: at each
// notification, after each (re-)LISTEN, and every second as a net. It promises:
//
//   - A lookup does no I/O and takes no lock that is held across I/O.
//   - A route is replaced only by one of a higher version, except when the
//     control database's history has changed (restore, failover): then
//     everything is pulled again and what is gone there is dropped here.
//   - One pull is applied as a whole: no reader sees half of a change.
//   - An unknown host is never given a default tenant.
//   - While the control database is away, what is known is served; Age grows.
//     A snapshot on disk, sealed, makes this hold across a restart; tenants that
//     were suspended in it stay so.
//   - Routes are shared and never changed after they are published.
package directory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/sealedfile"
)

// Options of a Directory. DSN, NodeID and BaseDomain are required.
type Options struct {
	DSN        string // postgres:// URL of the control database, role ouvira_node
	NodeID     string // stable name of this process
	BaseDomain string // tenants answer at <slug>.<BaseDomain>
	SchemaMin  int64  // range of tenant schema versions that this binary serves;
	SchemaMax  int64  // both 0: any

	PollEvery time.Duration // the net under notifications; default 1 s
	MaxAge    time.Duration // older copies answer unknown hosts with 503; default 1 min
	HoldFor   time.Duration // how long Admit lets requests of a held tenant wait; default 5 s
	HoldEach  int           // how many of one tenant; default 1,000
	HoldAll   int           // how many of all tenants; default 4,000
	Log       *slog.Logger

	Snapshot string            // file that keeps the table over restarts; empty: none
	Sealer   sealedfile.Sealer // of the snapshot

	Registerer prometheus.Registerer // of the metrics; nil: none
}

// Event says that a tenant's route has changed. New is nil when the tenant is
// gone; Old is nil when it was not known.
type Event struct {
	Old, New *route.Route
}

// Directory is the route table in memory. Make one with New, feed it with Run.
type Directory struct {
	options Options
	suffix  string // "." + base domain, normalised

	mu         sync.RWMutex // guards table, tableClock and servers; held for map accesses only
	table      table
	tableClock route.Clock                 // what the table is up to
	servers    map[uuid.UUID]*route.Server // all; changed by the pull loop alone, which reads them without the lock
	changed    chan struct{}               // closed and replaced after each applied change
	dirty      chan struct{}               // of size 1: the table has changed since the snapshot

	version  atomic.Int64
	pulled   atomic.Int64 // pulls begun
	pulledAt atomic.Int64 // UnixNano of the last successful pull; 0 before the first
	live     atomic.Bool  // this process has pulled; until then it goes by the snapshot

	holds holds // requests of held tenants

	subscribers []func(Event) // complete before Run

	pulls pulls

	clock route.Clock // of the last pull; the pull loop's alone
}

// New checks the options. Nothing is contacted before Run.
func New(o Options) (*Directory, error) {
	base, err := route.NormalizeHost(o.BaseDomain)
	if err != nil || strings.Contains(o.BaseDomain, ":") {
		return nil, errors.New("the base domain is not a host name: set OUVIRA_BASE_DOMAIN to a name such as example.com")
	}
	if o.NodeID == "" {
		return nil, errors.New("the node has no name: set OUVIRA_NODE_ID")
	}
	o.PollEvery = orDefault(o.PollEvery, time.Second)
	o.MaxAge = orDefault(o.MaxAge, time.Minute)
	o.HoldFor = orDefault(o.HoldFor, 5*time.Second)
	o.HoldEach, o.HoldAll = cmp.Or(max(o.HoldEach, 0), 1000), cmp.Or(max(o.HoldAll, 0), 4000)
	if o.Snapshot != "" && o.Sealer == nil {
		return nil, errors.New("a snapshot needs a key to seal it")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	d := &Directory{
		options: o,
		suffix:  "." + base,
		table:   newTable(0),
		changed: make(chan struct{}),
		dirty:   make(chan struct{}, 1),
		pulls:   newPulls(),
		servers: map[uuid.UUID]*route.Server{},
	}
	if err := d.meter(); err != nil {
		return nil, err
	}
	return d, nil
}

// meter registers what operators watch: how old the copy is that is served by.
func (d *Directory) meter() error {
	if d.options.Registerer == nil {
		return nil
	}
	var errs []error
	for _, g := range []struct {
		name, help string
		value      func() float64
	}{
		{"ouvira_routes_age_seconds", "Time since the route table was last known to be complete; -1 before there is one.", func() float64 {
			if !d.Ready() {
				return -1
			}
			return d.Age().Seconds()
		}},
		{"ouvira_routes_from_snapshot", "1 while the route table is the one from disk, because the control database has not answered since the start.", func() float64 {
			if d.FromSnapshot() {
				return 1
			}
			return 0
		}},
		{"ouvira_routes", "Tenants in the route table.", func() float64 { return float64(d.Len()) }},
		{"ouvira_routes_version", "Version of the route clock up to which everything is known.", func() float64 { return float64(d.Version()) }},
	} {
		errs = append(errs, d.options.Registerer.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: g.name, Help: g.help}, g.value)))
	}
	return errors.Join(errs...)
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d <= 0 {
		return otherwise
	}
	return d
}

// Subscribe calls fn for every change, in order, from the goroutine that
// pulls: fn must not block. It must be called before Run.
func (d *Directory) Subscribe(fn func(Event)) { d.subscribers = append(d.subscribers, fn) }

// Lookup finds the tenant of a Host header: <slug>.<base domain> (one label
// only), or a verified custom domain. The route may be suspended, held or
// under maintenance: see Admit.
//
// Faults: 400 for what is no host name, 404 for a host that nobody has, 503
// when this node has no copy yet, or one too old to say that nobody has it.
func (d *Directory) Lookup(host string) (*route.Route, error) {
	name, err := route.NormalizeHost(host)
	if err != nil {
		return nil, fault.Malformed("The Host header is not a host name.").Code("bad_host")
	}
	slug, platform := strings.CutSuffix(name, d.suffix)
	d.mu.RLock()
	var r *route.Route
	if platform {
		r = d.table.bySlug[slug] // a slug has no dot, so two labels match none
	} else {
		r = d.table.byHost[name]
	}
	d.mu.RUnlock()
	if r == nil {
		return nil, d.unknown()
	}
	return r, nil
}

// lookAgain bounds how long Find waits for what may have come just now.
const lookAgain = 250 * time.Millisecond

// Find is Lookup for who can wait a moment. A host that nobody has may be a tenant's
// that has become active just now: its owner comes here with the answer to the
// sign-up, which may be faster than the notification. So what was committed before
// the call is asked for, once, where the control database was there a moment ago.
// All who ask share a pull, of which there is one each pullGap.
func (d *Directory) Find(ctx context.Context, host string) (*route.Route, error) {
	r, err := d.Lookup(host)
	if !fault.Is(err, fault.KindNotFound) || d.Age() > 2*d.options.PollEvery {
		return r, err
	}
	ctx, cancel := context.WithTimeout(ctx, lookAgain)
	defer cancel()
	if d.Refresh(ctx, 0) != nil {
		return r, err
	}
	return d.Lookup(host)
}

func (d *Directory) unknown() error {
	if !d.Ready() {
		return fault.Unavailable("This node is starting and does not know its tenants yet. Try again shortly.").
			Code("not_ready").RetryAfter(time.Second)
	}
	if d.Age() > d.options.MaxAge {
		return fault.Unavailable("This address may be new, and this node cannot check it now. Try again shortly.").
			Code("routes_outdated").RetryAfter(5 * time.Second)
	}
	return fault.NotFound("No workspace answers at this address. Check the spelling.").Code("unknown_host")
}

// BySlug finds a tenant that is not deleted.
func (d *Directory) BySlug(slug string) (*route.Route, bool) {
	d.mu.RLock()
	r, ok := d.table.bySlug[slug]
	d.mu.RUnlock()
	return r, ok
}

// ByID finds a tenant that is not deleted.
func (d *Directory) ByID(id uuid.UUID) (*route.Route, bool) {
	d.mu.RLock()
	r, ok := d.table.byID[id]
	d.mu.RUnlock()
	return r, ok
}

// Len is the number of tenants known.
func (d *Directory) Len() int {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return len(d.table.byID)
}

// Ready tells whether there is a table to serve by: pulled since this process
// started, or read from the snapshot.
func (d *Directory) Ready() bool { return d.pulledAt.Load() != 0 }

// Age is the time since the last successful pull, which may have been that of
// an earlier process (see Options.Snapshot); it is meaningless before Ready.
func (d *Directory) Age() time.Duration {
	return time.Duration(time.Now().UnixNano() - d.pulledAt.Load())
}

// FromSnapshot tells whether the table is the one that an earlier process left
// on disk, because the control database has not answered since this one began.
func (d *Directory) FromSnapshot() bool { return d.Ready() && !d.live.Load() }

// Version is that of the route clock up to which everything is known.
func (d *Directory) Version() int64 { return d.version.Load() }

// Pulls is how many pulls have begun. It should follow the polls rather than
// the changes.
func (d *Directory) Pulls() int64 { return d.pulled.Load() }

// PrimaryHost is the host under which the tenant's own links are written: its
// primary custom domain, else its name on the platform. It never comes from a
// request.
func (d *Directory) PrimaryHost(r *route.Route) string {
	if r.CustomPrimary && len(r.Hosts) > 0 {
		return r.Hosts[0]
	}
	return r.Slug + d.suffix
}

// Refresh brings the copy up to atLeast, or, with atLeast 0, to what was
// committed before the call. Calls at the same time share a pull. It needs Run
// to be running and returns the context's or the database's error.
func (d *Directory) Refresh(ctx context.Context, atLeast int64) error {
	if atLeast > 0 && d.Version() >= atLeast {
		return nil
	}
	flight := d.pulls.join()
	select {
	case <-flight.done:
		return flight.err
	case <-ctx.Done():
		return fmt.Errorf("refresh the routes: %w", ctx.Err())
	}
}
