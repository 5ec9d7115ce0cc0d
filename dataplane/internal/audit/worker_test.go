package audit_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
)

// visits is a sealer that writes down when it was asked.
type visits struct {
	mu    sync.Mutex
	begun time.Time
	seen  []string
	err   error
	busy  int // at the same time, at most
	now   int
	takes time.Duration
}

func (v *visits) seal(ctx context.Context, t audit.Tenant) (int, error) {
	v.mu.Lock()
	v.seen = append(v.seen, t.Route.Slug+"@"+time.Since(v.begun).Round(time.Second).String())
	v.now++
	v.busy = max(v.busy, v.now)
	err, takes := v.err, v.takes
	v.mu.Unlock()
	timer := time.NewTimer(takes)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		err = ctx.Err()
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.now--
	return 3, err
}

func (v *visits) take() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	slices.Sort(v.seen)
	seen := strings.Join(v.seen, " ")
	v.seen = nil
	return seen
}

type routesByID map[uuid.UUID]*route.Route

func (r routesByID) ByID(id uuid.UUID) (*route.Route, bool) {
	found, ok := r[id]
	return found, ok
}

func newWorker(t *testing.T, v *visits, routes routesByID, registry prometheus.Registerer) *audit.Worker {
	t.Helper()
	v.begun = time.Now()
	w, err := audit.NewWorker(audit.WorkerOptions{
		Routes: routes, Seal: v.seal, Do: func(context.Context, *route.Route, func(audit.Conn) error) error { return nil },
		Every: 5 * time.Minute, Requests: 4, Tenants: 2, Registerer: registry,
	})
	must(t, err)
	return w
}

// advance lets time go by.
func advance(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestTenantsAreSealedInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b, gone, held := uuid.New(), uuid.New(), uuid.New(), uuid.New()
		routes := routesByID{
			a:    {TenantID: a, Slug: "a", Status: route.StatusActive, Mode: route.ModeServe},
			b:    {TenantID: b, Slug: "b", Status: route.StatusActive, Mode: route.ModeServe},
			held: {TenantID: held, Slug: "held", Status: route.StatusActive, Mode: route.ModeHold},
		}
		v := &visits{}
		registry := prometheus.NewRegistry()
		w := newWorker(t, v, routes, registry)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { w.Run(ctx); close(ended) }()

		w.Served(a)
		w.Served(gone)
		w.Served(held)
		advance(4 * time.Minute)
		w.Served(a) // later requests do not put it off
		advance(50 * time.Second)
		if seen := v.take(); seen != "" {
			t.Errorf("too early: %s", seen)
		}
		advance(10 * time.Second)
		if seen := v.take(); seen != "a@5m0s" {
			t.Errorf("after five minutes: %s", seen)
		}
		advance(20 * time.Minute)
		if seen := v.take(); seen != "" {
			t.Errorf("nobody was there: %s", seen)
		}
		for range 4 {
			w.Served(b) // many requests do not wait
		}
		w.Served(a)
		advance(10 * time.Second)
		if seen := v.take(); seen != "b@25m10s" {
			t.Errorf("after four requests: %s", seen)
		}
		cancel()
		<-ended
		if visited := testutil.CollectAndCount(registry, "ouvira_audit_seal_visits_total"); visited != 4 {
			t.Errorf("%d outcomes", visited)
		}
	})
}

func TestWhatCouldNotBeSealedIsTriedAgain(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want string
	}{
		{&pgconn.PgError{Code: pg.CodeLockNotAvailable}, "a@5m0s a@5m30s a@6m0s"},
		{errors.New("away"), "a@5m0s"},
		{audit.ErrForked, "a@5m0s"},
	} {
		synctest.Test(t, func(t *testing.T) {
			a := uuid.New()
			v := &visits{err: c.err}
			w := newWorker(t, v, routesByID{a: {TenantID: a, Slug: "a", Status: route.StatusActive, Mode: route.ModeServe}}, nil)
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() { w.Run(ctx); close(ended) }()
			w.Served(a)
			advance(6 * time.Minute)
			if seen := v.take(); seen != c.want {
				t.Errorf("%v: %s, want %s", c.err, seen, c.want)
			}
			advance(5 * time.Minute)
			if v.take() == "" {
				t.Errorf("%v: never tried again", c.err)
			}
			cancel()
			<-ended
		})
	}
}

// Slow tenants do not pile up, and nothing is under way after Run.
func TestSealingIsBoundedAndEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		routes := routesByID{}
		v := &visits{takes: time.Hour}
		w := newWorker(t, v, routes, nil)
		for range 10 {
			id := uuid.New()
			routes[id] = &route.Route{TenantID: id, Slug: "t", Status: route.StatusActive, Mode: route.ModeServe}
			w.Served(id)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { w.Run(ctx); close(ended) }()
		advance(6 * time.Minute)
		cancel()
		<-ended
		if v.busy != 2 || v.now != 0 {
			t.Errorf("%d at the same time, %d after the end", v.busy, v.now)
		}
	})
}
