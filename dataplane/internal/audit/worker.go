package audit

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
)

// WorkerOptions of a Worker. Routes, Do and Seal are required.
type WorkerOptions struct {
	Routes interface {
		ByID(id uuid.UUID) (*route.Route, bool)
	}
	// Do leases a connection to a tenant's database for the time of work.
	Do func(ctx context.Context, r *route.Route, work func(Conn) error) error
	// Seal is Sealer.Seal.
	Seal func(ctx context.Context, t Tenant) (rows int, err error)

	Every      time.Duration // from the first request that may have written to the seal; default 5 min
	Requests   int           // as many of them are sealed at once; default 2,000
	Tenants    int           // sealed at the same time; default 2
	Log        *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

// visitTimeout bounds the sealing of one tenant. What is sealed by then stays
// sealed; the rest is for the next time.
const visitTimeout = 20 * time.Second

// Worker seals the tenants that this node serves. What it knows of them is
// lost with the process: the next request, at any node, makes the tenant known
// again, and what was not sealed by then is sealed with the rest.
type Worker struct {
	options WorkerOptions
	outcome *prometheus.CounterVec
	rows    prometheus.Counter

	mu  sync.Mutex
	due map[uuid.UUID]*visit
}

// visit is when to look at a tenant.
type visit struct {
	at       time.Time
	requests int
}

// NewWorker checks the options.
func NewWorker(o WorkerOptions) (*Worker, error) {
	if o.Routes == nil || o.Do == nil || o.Seal == nil {
		return nil, errors.New("sealing the audit needs routes, connections and a sealer")
	}
	if o.Every <= 0 {
		o.Every = 5 * time.Minute
	}
	if o.Requests <= 0 {
		o.Requests = 2000
	}
	if o.Tenants <= 0 {
		o.Tenants = 2
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	w := &Worker{
		options: o, due: map[uuid.UUID]*visit{},
		outcome: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ouvira_audit_seal_visits_total", Help: "Looks at tenants whose audit may have to be sealed, by what came of them.",
		}, []string{"outcome"}),
		rows: prometheus.NewCounter(prometheus.CounterOpts{Name: "ouvira_audit_sealed_rows_total", Help: "Audit records that were sealed."}),
	}
	for _, outcome := range []string{outcomeSealed, outcomeBusy, outcomeForked, outcomeFailed} {
		w.outcome.WithLabelValues(outcome)
	}
	if o.Registerer != nil {
		if err := errors.Join(o.Registerer.Register(w.outcome), o.Registerer.Register(w.rows)); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// What can come of a visit.
const (
	outcomeSealed = "sealed" // or there was nothing to seal
	outcomeBusy   = "busy"   // writers did not pause
	outcomeForked = "forked"
	outcomeFailed = "failed"
)

// Served notes that a request of the tenant may have left audit records. It
// does not block.
func (w *Worker) Served(tenant uuid.UUID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	v, known := w.due[tenant]
	if !known {
		v = &visit{at: time.Now().Add(w.options.Every)}
		w.due[tenant] = v
	}
	if v.requests++; v.requests == w.options.Requests {
		v.at = time.Now()
	}
}

// Replaced notes that the tenant's database is another one now: its chain has to say
// so before anybody can rely on it. It does not block.
func (w *Worker) Replaced(tenant uuid.UUID) { w.again(tenant, 0) }

// Run seals until ctx ends; after it has returned, nothing is under way.
func (w *Worker) Run(ctx context.Context) {
	var visits sync.WaitGroup
	defer visits.Wait()
	free := make(chan struct{}, w.options.Tenants)
	tick := time.NewTicker(w.options.Every / 30)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, tenant := range w.take(time.Now()) {
			select {
			case <-ctx.Done():
				return
			case free <- struct{}{}:
			}
			visits.Go(func() {
				defer func() { <-free }()
				w.visit(ctx, tenant)
			})
		}
	}
}

// take are the tenants that are due; what comes in from now on counts anew.
func (w *Worker) take(now time.Time) []uuid.UUID {
	w.mu.Lock()
	defer w.mu.Unlock()
	var tenants []uuid.UUID
	for tenant, v := range w.due {
		if !v.at.After(now) {
			tenants = append(tenants, tenant)
			delete(w.due, tenant)
		}
	}
	return tenants
}

// again looks at the tenant after a time, or when it was due anyway.
func (w *Worker) again(tenant uuid.UUID, after time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := time.Now().Add(after)
	if v, known := w.due[tenant]; known {
		if at.Before(v.at) {
			v.at = at
		}
		return
	}
	w.due[tenant] = &visit{at: at}
}

func (w *Worker) visit(ctx context.Context, tenant uuid.UUID) {
	r, served := w.options.Routes.ByID(tenant)
	if !served || r.Status != route.StatusActive || r.Mode != route.ModeServe {
		return // the first request when it is served again tells of it
	}
	ctx, cancel := context.WithTimeout(ctx, visitTimeout)
	defer cancel()
	rows, err := w.options.Seal(ctx, Tenant{Route: r, Do: func(ctx context.Context, work func(Conn) error) error {
		return w.options.Do(ctx, r, work)
	}})
	w.rows.Add(float64(rows))
	log := w.options.Log.With("tenant", r.Slug, "tenant_id", tenant)
	outcome := outcomeSealed
	switch {
	case err == nil:
	case errors.Is(err, ErrForked):
		outcome = outcomeForked
		log.ErrorContext(ctx, "the audit of a tenant does not lead to the head that is kept of it; it is sealed no further until that is settled: ask GET /audit/verify what was changed, or whether a restore was not recorded", "error", err)
		w.again(tenant, w.options.Every)
	case pg.Code(err) == pg.CodeLockNotAvailable:
		outcome = outcomeBusy
		w.again(tenant, w.options.Every/10)
	case ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled):
		outcome = outcomeBusy // the node is stopping
	default:
		outcome = outcomeFailed
		log.WarnContext(ctx, "the audit of a tenant could not be sealed; it is tried again", "error", err)
		w.again(tenant, w.options.Every/2)
	}
	w.outcome.WithLabelValues(outcome).Inc()
}
