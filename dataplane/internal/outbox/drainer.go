package outbox

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
)

// Conn is a connection to a tenant's database.
type Conn interface {
	pg.Querier
	pg.Beginner
}

// Lease is a Conn until Release.
type Lease interface {
	Conn
	Release()
}

// Options of a Drainer. Routes, Lease, Key and a Sender for each channel are
// required.
type Options struct {
	Routes interface {
		ByID(id uuid.UUID) (*route.Route, bool)
	}
	Lease   func(ctx context.Context, r *route.Route) (Lease, error) // for background work
	Key     Opener
	Senders map[Channel]Sender

	Fleet      Fleet         // nil: this node looks after nobody else
	SweepEvery time.Duration // between two looks at the fleet; default 5 s
	Tenants    int           // drained at the same time; default 4
	Grace      time.Duration // for what is under way when Run is told to end; default 10 s
	Log        *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

// Drainer sends the messages of the tenants that it is told of. Make one with
// New, and let Run run.
//
// It knows for each tenant when to look there next: now, when a request has
// written messages; later, when something is to be tried again. Tenants take
// turns, a batch each. What it knows is lost with the process: see Fleet.
type Drainer struct {
	options Options
	meters  *meters

	mu       sync.Mutex
	due      map[uuid.UUID]time.Time
	running  map[uuid.UUID]bool
	untidy   map[uuid.UUID]bool // to be tidied on the next visit
	returned bool               // what this node served before it was started has been looked at; of sweep alone
	failures map[uuid.UUID]int  // in a row, to reach the tenant's database
	served   map[uuid.UUID]time.Time
	poke     chan struct{} // of size 1
	visits   sync.WaitGroup
}

var errGone = errors.New("this node does not serve the tenant")

// New checks the options.
func New(o Options) (*Drainer, error) {
	if o.Routes == nil || o.Lease == nil || o.Key == nil || o.Senders[Email] == nil || o.Senders[SMS] == nil {
		return nil, errors.New("the outbox needs routes, leases, a key and a sender for each channel")
	}
	if o.Tenants <= 0 {
		o.Tenants = 4
	}
	if o.Grace <= 0 {
		o.Grace = 10 * time.Second
	}
	if o.SweepEvery <= 0 {
		o.SweepEvery = 5 * time.Second
	}
	o.Log = discard(o.Log)
	d := &Drainer{
		options: o, due: map[uuid.UUID]time.Time{}, running: map[uuid.UUID]bool{}, untidy: map[uuid.UUID]bool{},
		failures: map[uuid.UUID]int{}, served: map[uuid.UUID]time.Time{}, poke: make(chan struct{}, 1),
	}
	var err error
	d.meters, err = newMeters(d, o.Registerer)
	return d, err
}

// Wake tells that messages of the tenant may be waiting. It does not block.
func (d *Drainer) Wake(tenant uuid.UUID) { d.lookAt(tenant, time.Now()) }

func (d *Drainer) lookAt(tenant uuid.UUID, when time.Time) {
	d.mu.Lock()
	if at, ok := d.due[tenant]; !ok || when.Before(at) {
		d.due[tenant] = when
	}
	d.mu.Unlock()
	d.poked()
}

func (d *Drainer) poked() {
	select {
	case d.poke <- struct{}{}:
	default: // it will look anyway
	}
}

// Run sends until ctx ends. It then sends what is due at once, and gives what
// is under way the grace to finish: after it has returned, nothing is.
func (d *Drainer) Run(ctx context.Context) {
	working, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	var sweeping sync.WaitGroup
	defer sweeping.Wait()
	if d.options.Fleet != nil {
		sweeping.Go(func() { d.sweep(ctx) })
	}
	defer d.visits.Wait()
	stopping := ctx.Done()
	var over <-chan time.Time
	for {
		wait, idle := d.dispatch(working)
		if ctx.Err() != nil && idle {
			return
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-d.poke:
		case <-stopping:
			stopping = nil
			over = time.After(d.options.Grace)
		case <-over:
			timer.Stop()
			giveUp()
			return
		}
		timer.Stop()
	}
}

// dispatch begins the visits that are due, as many as there is room for. It
// says how long nothing more will be due, and whether there is nothing to do
// before that.
func (d *Drainer) dispatch(ctx context.Context) (wait time.Duration, idle bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	wait = time.Hour
	for len(d.running) < d.options.Tenants {
		tenant, at, ok := d.earliest()
		if !ok {
			break
		}
		if wait = time.Until(at); wait > 0 {
			break
		}
		wait = time.Hour
		delete(d.due, tenant)
		d.running[tenant] = true
		tidy := d.untidy[tenant]
		delete(d.untidy, tenant)
		d.visits.Go(func() { d.visit(ctx, tenant, tidy) })
	}
	return wait, len(d.running) == 0
}

// earliest is called with mu held.
func (d *Drainer) earliest() (tenant uuid.UUID, at time.Time, ok bool) {
	for id, when := range d.due {
		if !d.running[id] && (!ok || when.Before(at)) {
			tenant, at, ok = id, when, true
		}
	}
	return tenant, at, ok
}

// visit drains a tenant once and says when to come back.
func (d *Drainer) visit(ctx context.Context, tenant uuid.UUID, tidy bool) {
	defer func() {
		d.mu.Lock()
		delete(d.running, tenant)
		d.mu.Unlock()
		d.poked()
	}()
	r, err := d.routeOf(tenant)
	var again time.Duration
	if err == nil {
		again, err = d.drain(ctx, r)
	}
	if err == nil && tidy {
		err = d.tidy(ctx, r)
	}
	d.mu.Lock()
	failures := d.failures[tenant] + 1
	if err == nil {
		delete(d.failures, tenant)
	} else {
		d.failures[tenant] = failures
	}
	d.mu.Unlock()
	switch {
	case err == nil && again >= 0:
		d.lookAt(tenant, time.Now().Add(again))
	case err == nil:
	case errors.Is(err, errGone), fault.Is(err, fault.KindForbidden), fault.Is(err, fault.KindNotFound):
		// Suspended or deleted. What waits there waits on; the slow sweep finds it
		// when the tenant is served again.
		d.mu.Lock()
		delete(d.failures, tenant)
		d.mu.Unlock()
	case ctx.Err() == nil:
		pause := patience{first: 5 * time.Second, atMost: 5 * time.Minute}.pause(int32(min(failures, 16)))
		d.options.Log.WarnContext(ctx, "the outbox of a tenant cannot be reached", "tenant_id", tenant, "error", err, "again_in", pause.String())
		d.lookAt(tenant, time.Now().Add(pause))
	}
}

// meters are the metrics. Tenants are no labels: their number is not bounded.
type meters struct {
	messages *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

func newMeters(d *Drainer, registerer prometheus.Registerer) (*meters, error) {
	m := &meters{
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ouvira_outbox_messages_total",
			Help: "Attempts to send mail and SMS, by how they ended: sent, later (it will be tried again), dead (given up), unknown (handed over, no answer).",
		}, []string{"channel", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "ouvira_outbox_attempt_seconds", Help: "How long attempts to send took.", Buckets: []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"channel"}),
	}
	if registerer == nil {
		return m, nil
	}
	waiting := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ouvira_outbox_tenants_waiting", Help: "Tenants whose outbox this node will look at, now or later.",
	}, func() float64 {
		d.mu.Lock()
		defer d.mu.Unlock()
		return float64(len(d.due) + len(d.running))
	})
	var errs []error
	for _, c := range []prometheus.Collector{m.messages, m.seconds, waiting} {
		errs = append(errs, registerer.Register(c))
	}
	return m, errors.Join(errs...)
}
