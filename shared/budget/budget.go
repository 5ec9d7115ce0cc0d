// Package budget leases this process's share of each Postgres server's connection
// budget from the control database, where all processes meet
// (node.lease_shares). Both planes use it. It promises:
//
//   - The sum of what all processes may hold on a server never exceeds its budget
//     less a margin. What this process may hold is raised only by an answer of the
//     control database, and what it gives up counts as given up only when it has
//     said, in its next report, that it keeps to less.
//   - Without the control database the last limits stay in force, over a restart
//     too: they are kept in a file, with the instance that they belong to.
//   - An instance that was expelled, because nobody heard of it, holds nothing and
//     opens nothing any more; the process goes on as another, from nothing.
//
// An instance is one run of a process, or several one after the other that
// share the file. Its name is in the application_name of each connection.
package budget

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ouvira/ouvira/shared/pause"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/sealedfile"
)

// Kinds of members.
const (
	Node   = "node"
	Worker = "worker"
)

// Demand is what a holder has and could use on one server.
type Demand struct {
	Open   int // connections that are open, or being opened or closed
	Wanted int // connections in use, and waited for
}

// Holder holds the connections that are leased here.
type Holder interface {
	// Demands tells of every server where there is any.
	Demands() map[uuid.UUID]Demand
	// LimitsChanged has the holder look at Limit and Nodes again. It must not
	// block.
	LimitsChanged()
}

// Options of a Lease. DB, Member, Kind and Share are required.
type Options struct {
	DB     pg.Querier // the control database
	Member string     // stable name of this process
	Kind   string     // Node or Worker
	Share  float64    // the most of every budget that this process may hold, 0 < Share ≤ 1
	Least  int        // … but this many where that is more; default 1

	SchemaMin, SchemaMax int64        // range of tenant schema versions that a node serves
	RouteVersion         func() int64 // up to which a node knows the routes; nil: none

	File   string            // keeps the limits over a restart; empty: none
	Sealer sealedfile.Sealer // of the file

	Every      time.Duration // between two reports; default 1 s
	Log        *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

const (
	// soon is the least time between two reports when somebody waits: all
	// processes take turns at the control database.
	soon = 100 * time.Millisecond
	// reportTimeout bounds one report.
	reportTimeout = 3 * time.Second
	// successorWaits is how long an instance waits that goes on where a process
	// was killed: a server notices within a second that a client is gone
	// (client_connection_check_interval), also while it works for it.
	successorWaits = 2 * time.Second
	// emptyPoll is how often an expelled instance looks whether all is closed.
	emptyPoll = 50 * time.Millisecond
)

// Lease is this process's part of all budgets. Make one with New, Attach what
// holds the connections, and keep it with Run.
type Lease struct {
	options Options
	holder  Holder
	poke    chan struct{} // of size 1
	lock    *os.File      // of the file

	mu       sync.Mutex
	ready    bool // the limits are those that somebody gave
	instance string
	expelled bool
	limits   map[uuid.UUID]int
	saved    map[uuid.UUID]int // what the file says: the process may come back with it
	wanted   map[uuid.UUID]int
	names    map[uuid.UUID]string
	nodes    int
	members  int
	sequence int64
	answered time.Time // when the report was sent that was answered last
}

// New checks the options. Nothing is contacted before Run.
func New(o Options) (*Lease, error) {
	switch {
	case o.Share <= 0 || o.Share > 1:
		return nil, errors.New("the connection share must be more than 0 and at most 1: set OUVIRA_CONNECTION_SHARE")
	case o.Member == "":
		return nil, errors.New("the process has no name: set OUVIRA_NODE_ID")
	case o.DB == nil || (o.Kind != Node && o.Kind != Worker):
		return nil, errors.New("a lease of connections needs the control database and a kind")
	case o.File != "" && o.Sealer == nil:
		return nil, errors.New("the file of the connection shares needs a key to seal it")
	}
	o.Least = max(o.Least, 1)
	if o.Every <= 0 {
		o.Every = time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.RouteVersion == nil {
		o.RouteVersion = func() int64 { return 0 }
	}
	l := &Lease{options: o, poke: make(chan struct{}, 1), instance: newInstance(), nodes: 1}
	l.forget()
	if o.Registerer != nil {
		if err := o.Registerer.Register(meters{l}); err != nil {
			return nil, fmt.Errorf("register the metrics of the connection shares: %w", err)
		}
	}
	return l, nil
}

// forget is called with mu held, or before anybody else knows of l.
func (l *Lease) forget() {
	l.ready = false
	l.limits, l.wanted, l.names = map[uuid.UUID]int{}, map[uuid.UUID]int{}, map[uuid.UUID]string{}
	l.saved = nil
}

// Attach names the holder, before Run.
func (l *Lease) Attach(h Holder) { l.holder = h }

// Limit is how many connections this process may have to the server now.
func (l *Lease) Limit(server uuid.UUID, budget int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return min(l.limits[server], budget)
}

// Nodes is how many nodes live and share the cap of each tenant; at least 1.
func (l *Lease) Nodes() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(1, l.nodes)
}

// Ready tells whether there is something to go by, of the control database or of
// the run before: a connection to some server, or the word that there is none to
// connect to. Who has just come waits until the others have given something up.
func (l *Lease) Ready() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ready || len(l.limits) == 0 {
		return l.ready
	}
	for _, limit := range l.limits {
		if limit > 0 {
			return true
		}
	}
	return false
}

// Instance names this instance. It changes only while no connection is open.
func (l *Lease) Instance() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.instance
}

// Age is the time since the control database has last heard of this process,
// for all that it knows; very long before the first time.
func (l *Lease) Age() time.Duration {
	l.mu.Lock()
	answered := l.answered
	l.mu.Unlock()
	now := time.Now()
	// A machine that slept knows it by the wall clock only, and a wall clock that
	// was set back must not make the lease younger.
	return max(now.Sub(answered), now.Round(0).Sub(answered.Round(0)))
}

// Short says that somebody waits because a limit is reached: the next report is
// made soon.
func (l *Lease) Short() {
	select {
	case l.poke <- struct{}{}:
	default:
	}
}

// Expelled says that a server has refused the instance as expelled. Everything
// is to be closed; then this process begins anew.
func (l *Lease) Expelled(instance string) {
	l.mu.Lock()
	first := instance == l.instance && !l.expelled
	if first {
		l.expelled = true
		l.forget()
	}
	l.mu.Unlock()
	if first {
		l.options.Log.Error("this process was not heard of for too long and its connections are given to others; it closes what it has and begins anew",
			"instance", instance)
		l.holder.LimitsChanged()
		l.Short()
	}
}

// Run keeps the lease until ctx ends.
func (l *Lease) Run(ctx context.Context) {
	l.resume(ctx)
	tick := time.NewTicker(l.options.Every)
	defer tick.Stop()
	poked, troubled := false, false
	for ctx.Err() == nil {
		begun := time.Now()
		changed, err := l.turn(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			if !troubled {
				l.options.Log.WarnContext(ctx, "the control database does not renew this process's connection shares; the last ones stay in force", "error", err)
			}
			troubled = true
		case err == nil && troubled:
			l.options.Log.InfoContext(ctx, "the control database renews this process's connection shares again")
			troubled = false
		}
		// Who waits and got nothing shall not ask ten times a second.
		gap := min(soon, l.options.Every)
		if poked && !changed {
			gap = l.options.Every
		}
		poked = false
		select {
		case <-ctx.Done():
		case <-tick.C:
		case <-l.poke:
			poked = true
			pause.For(ctx, gap-time.Since(begun))
		}
	}
}

// turn makes one report, or helps an expelled instance to its end.
func (l *Lease) turn(ctx context.Context) (changed bool, err error) {
	if !l.renewed(ctx) {
		return false, nil
	}
	changed, err = l.report(ctx)
	switch pg.Code(err) {
	case codeExpelled:
		l.Expelled(l.Instance())
		return true, nil
	case codeOvertaken:
		l.overtaken(err)
		return l.report(ctx)
	}
	return changed, err
}

// renewed waits until an expelled instance has closed everything, and then makes
// a new one of it.
func (l *Lease) renewed(ctx context.Context) bool {
	for {
		l.mu.Lock()
		expelled := l.expelled
		l.mu.Unlock()
		if !expelled {
			return true
		}
		open := 0
		for _, d := range l.holder.Demands() {
			open += d.Open
		}
		if open == 0 {
			break
		}
		if !pause.For(ctx, emptyPoll) {
			return false
		}
	}
	l.mu.Lock()
	l.instance, l.expelled, l.sequence = newInstance(), false, 0
	l.forget()
	l.mu.Unlock()
	l.save(ctx, false)
	l.options.Log.InfoContext(ctx, "this process goes on as a new instance", "instance", l.Instance())
	return true
}

// Close ends the instance. The holder has closed its connections: what it held
// is then free at once. A control database that is away hears nothing; the limits
// stay in the file, for the next start.
func (l *Lease) Close(ctx context.Context) error {
	if l.lock != nil {
		defer l.lock.Close()
	}
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	open := 0
	for _, d := range l.holder.Demands() {
		open += d.Open
	}
	if open > 0 {
		return fmt.Errorf("%d connections are still open: their share is taken back later", open)
	}
	if _, err := l.options.DB.Exec(ctx, "SELECT 1"); err != nil {
		l.save(ctx, true)
		return nil // nothing is lost: see above
	}
	// From here on nobody may come back with these limits.
	l.mu.Lock()
	l.forget()
	instance := l.instance
	l.instance = newInstance()
	l.mu.Unlock()
	if err := l.discard(); err != nil {
		return err
	}
	if _, err := l.options.DB.Exec(ctx, "SELECT node.release_shares($1)", instance); err != nil {
		return fmt.Errorf("give the connection shares back: %w", err)
	}
	return nil
}

// union are the keys of both.
func union(a, b map[uuid.UUID]int) map[uuid.UUID]int {
	all := maps.Clone(a)
	for server, n := range b {
		all[server] = max(all[server], n)
	}
	return all
}
