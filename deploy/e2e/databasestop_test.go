package e2e

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ouvira/ouvira/deploy/stack"
)

// servingAgain is within how long a server that was started again has to serve: the
// promise is 10 s, on a machine of its own.
func servingAgain() time.Duration { return scaled(time.Minute, 10*time.Second) }

// A tenant's server is stopped without a checkpoint, again and again, while users
// write: what was acknowledged is there, once, it serves again without a restart of
// anything else, and the neighbour on the other server notices nothing.
func TestRel02AcknowledgedWritesSurviveAStoppedServer(t *testing.T) {
	t.Parallel()
	s := borrow(t)
	b := newBalancer(t, s)
	on := onBoth(t, s, b)
	const retries = 600 // of a tenth of a second: a minute
	hit := work(t, on["a"].app, on["a"].slug, 4, retries)
	neighbour := work(t, on["b"].app, on["b"].slug, 4, 0)
	hit.more(t, 20)
	pids := func() string {
		all := map[string]int{}
		for _, name := range s.Names() {
			if name != stack.PGA {
				all[name] = s.PID(name)
			}
		}
		return fmt.Sprint(all)
	}
	before := pids()
	for range scaled(3, 20) {
		must(t, s.StopImmediate(stack.PGA))
		neighbour.more(t, 10)
		must(t, s.Start(t.Context(), stack.PGA))
		begun := time.Now()
		served, _ := hit.count()
		eventually(t, servingAgain(), func() (bool, string) {
			now, _ := hit.count()
			return now > served, "the tenants of the server are not served: " + hit.last()
		})
		t.Logf("serving again %v after the start", time.Since(begun).Round(time.Millisecond))
		hit.more(t, 20)
	}
	if now := pids(); now != before {
		t.Errorf("something else was restarted: %v before, %v now", before, now)
	}
	for _, l := range []*load{hit, neighbour} {
		l.stop()
		l.flawless(t)
		address, _ := tenantDatabase(t, s, l.prefix)
		l.replay(t, address)
	}
}

// placed is a tenant and its app.
type placed struct {
	slug string
	app  stack.API
}

// onBoth gives a tenant of each server: the demo has one on each.
func onBoth(t *testing.T, s *stack.Stack, b *balancer) map[string]placed {
	t.Helper()
	of := map[string]placed{}
	for _, slug := range []string{"acme", "globex"} {
		server := column[string](t, s.Demo().Postgres.Control, "SELECT s.name FROM control.tenants t JOIN control.servers s ON s.id = t.server_id WHERE t.slug = $1", slug)[0]
		of[server] = placed{slug, through(b, demo(s, slug).login(t, s, 0))}
	}
	if len(of) != 2 {
		t.Fatal("the demo tenants are on one server")
	}
	return of
}

// The control database is stopped without a checkpoint, again and again, while people
// sign up and operators work: what was acknowledged is there, once, and every operation
// that was begun ends.
func TestRel02AcknowledgedSignupsAndOperationsSurviveAStoppedControlDatabase(t *testing.T) {
	t.Parallel()
	s := borrow(t)
	operator, err := s.OperatorAPI(t.Context())
	must(t, err)
	var j journal
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var writers sync.WaitGroup
	defer writers.Wait()
	defer stop()
	writers.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			slug := fmt.Sprintf("stopped-%d", n)
			j.ask(ctx, s.ControlAPI(), "control.signups", slug, http.StatusCreated, "/v1/signups", map[string]string{
				"company_name": "Company", "slug": slug, "full_name": "Owner", "email": "owner@" + slug + ".example", "password": "correct horse battery",
			})
		}
	})
	writers.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			reference := fmt.Sprintf("INV-%d", n)
			j.ask(ctx, operator, "control.payments", reference, http.StatusCreated, "/v1/tenants/acme/payments", map[string]string{
				"amount": "1.00", "currency": "EUR", "period_end": time.Now().AddDate(0, 1, 0).Format(time.DateOnly), "reference": reference,
			})
		}
	})
	for stopped := range scaled(3, 20) {
		j.more(t, 10)
		slug := fmt.Sprintf("made-%d", stopped)
		writers.Go(func() {
			j.ask(ctx, operator, "control.tenants", slug, http.StatusAccepted, "/v1/tenants", map[string]any{
				"slug": slug, "name": "Company", "owner": map[string]string{"email": "owner@" + slug + ".example", "full_name": "Owner"},
			})
		})
		must(t, s.StopImmediate(stack.PGControl))
		must(t, s.Start(t.Context(), stack.PGControl))
		begun := time.Now()
		j.more(t, 1)
		t.Logf("serving again %v after the start", time.Since(begun).Round(time.Millisecond))
	}
	j.more(t, 10)
	stop()
	writers.Wait()
	idle(t, s)
	for table, names := range j.acked {
		column := map[string]string{"control.signups": "slug", "control.payments": "reference", "control.tenants": "slug"}[table]
		found := times(t, s, "SELECT "+column+" FROM "+table)
		for _, name := range names {
			if n := found[name]; n != 1 {
				t.Errorf("%s: %s was acknowledged, and is there %d times", table, name, n)
			}
		}
		t.Logf("%s: %d were acknowledged and found", table, len(names))
	}
	if left := column[string](t, s.Demo().Postgres.Control, "SELECT slug||' '||status FROM control.tenants WHERE slug LIKE 'made-%' AND status <> 'active'"); len(left) > 0 {
		t.Errorf("tenants that were asked for are not active: %v", left)
	}
	if len(j.failed) > 0 {
		t.Errorf("%d requests failed: %v", len(j.failed), j.failed[:min(3, len(j.failed))])
	}
}

func times(t *testing.T, s *stack.Stack, query string) map[string]int {
	t.Helper()
	found := map[string]int{}
	for _, name := range column[string](t, s.Demo().Postgres.Control, query) {
		found[name]++
	}
	return found
}

// journal is what the control plane has acknowledged, by table.
type journal struct {
	mu     sync.Mutex
	acked  map[string][]string
	failed []string
	served int
}

// ask makes one POST, again under the same key while it is refused for now, for as
// long as a minute. What is under way when the writers stop is finished.
func (j *journal) ask(ctx context.Context, api stack.API, table, name string, want int, path string, body any) {
	ctx = context.WithoutCancel(ctx)
	api.Header = http.Header{"Idempotency-Key": {table + name}}
	var why string
	for range 600 {
		answer, err := api.Call(ctx, http.MethodPost, path, body)
		if err == nil && answer.Status == want {
			j.mu.Lock()
			defer j.mu.Unlock()
			if j.acked == nil {
				j.acked = map[string][]string{}
			}
			j.acked[table] = append(j.acked[table], name)
			j.served++
			return
		}
		if why = fmt.Sprint(err); err == nil {
			why = answer.String()
		}
		if err == nil && answer.Status < http.StatusInternalServerError {
			break
		}
		time.Sleep(2 * look) //nolint:forbidigo // a client that tries again waits a little
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.failed = append(j.failed, path+": "+why)
}

// more waits until that many further requests have been served.
func (j *journal) more(t *testing.T, n int) {
	t.Helper()
	count := func() (int, []string) {
		j.mu.Lock()
		defer j.mu.Unlock()
		return j.served, slices.Clone(j.failed)
	}
	before, _ := count()
	eventually(t, time.Minute, func() (bool, string) {
		now, failed := count()
		return now >= before+n, fmt.Sprintf("%d requests of %d were served; failed: %v", now-before, n, failed)
	})
}
