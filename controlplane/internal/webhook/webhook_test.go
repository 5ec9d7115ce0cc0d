package webhook_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/controltest"
	"github.com/ouvira/ouvira/controlplane/internal/event"
	"github.com/ouvira/ouvira/controlplane/internal/webhook"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

var actor = &audit.Actor{Kind: audit.KindCLI, ID: "test", Name: "test"}

// fixture is a control plane with webhooks; endpoints may be on this machine.
type fixture struct {
	*webhook.Service

	control controltest.Control
	tenant  uuid.UUID
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	c := controltest.New(t)
	f := &fixture{
		Service: &webhook.Service{DB: c.Pool, Key: controltest.NewKeys(t).Control, AllowPrivate: true},
		control: c, tenant: uuid.Must(uuid.NewV7()),
	}
	_, err := c.Pool.Exec(t.Context(), `INSERT INTO control.tenants (id, slug, name, status, plan_id)
		SELECT $1, 'acme', 'Acme', 'active', id FROM control.plans WHERE code = 'standard'`, f.tenant)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// courier runs until the test ends, or stop is called.
func (f *fixture) courier(t *testing.T, o webhook.Options) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	c := webhook.NewCourier(f.DB, f.Key, "worker-1", slog.New(slog.DiscardHandler), o)
	running.Go(func() { c.Run(ctx) })
	stop = func() { cancel(); running.Wait() }
	t.Cleanup(stop)
	return stop
}

// soon is how tests retry.
func soon(more ...time.Duration) webhook.Options {
	return webhook.Options{AllowPrivate: true, Pauses: append([]time.Duration{time.Millisecond, time.Millisecond}, more...)}
}

func (f *fixture) endpoint(t *testing.T, url string, events ...string) (webhook.Endpoint, string) {
	t.Helper()
	w, secret, err := f.Create(t.Context(), actor, webhook.New{URL: url, Events: events})
	if err != nil {
		t.Fatal(err)
	}
	return w, secret
}

func (f *fixture) happen(t *testing.T, kind event.Type, times int) {
	t.Helper()
	err := pg.InTx(t.Context(), f.DB, func(tx pgx.Tx) error {
		for i := range times {
			if err := event.Record(t.Context(), tx, kind, f.tenant, map[string]any{"n": i}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) deliveries(t *testing.T, w webhook.Endpoint, status webhook.DeliveryStatus) []webhook.Delivery {
	t.Helper()
	list, err := f.Deliveries(t.Context(), w.ID, webhook.Filter{Status: status, Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// received is one request as an endpoint got it.
type received struct {
	header http.Header
	body   []byte
}

// receiver is somebody's endpoint.
type receiver struct {
	*httptest.Server

	mu  sync.Mutex
	got []received
}

// newReceiver answers as answer says, 200 when it is nil.
func newReceiver(t *testing.T, answer func(n int, w http.ResponseWriter, r *http.Request)) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		body, _ := io.ReadAll(request.Body)
		r.mu.Lock()
		r.got = append(r.got, received{request.Header, body})
		n := len(r.got)
		r.mu.Unlock()
		if answer != nil {
			answer(n, w, request)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) all() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]received(nil), r.got...)
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-deadline.C:
			t.Fatalf("waited in vain for %s", what)
		case <-tick.C:
		}
	}
}

// What arrives is signed by the rules, says what happened, and is the same at each
// attempt, under the same id.
func TestDeliveries(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	failing := newReceiver(t, func(n int, w http.ResponseWriter, _ *http.Request) {
		if n < 3 {
			w.WriteHeader(500)
		}
	})
	working := newReceiver(t, nil)
	f.happen(t, event.TenantSuspended, 1) // before anybody listens
	first, secret := f.endpoint(t, failing.URL+"/hooks?key=1", "tenant.suspended")
	second, _ := f.endpoint(t, working.URL, "tenant.suspended", "tenant.resumed")
	f.happen(t, event.TenantSuspended, 1)
	f.happen(t, event.TenantResumed, 1)
	f.happen(t, event.TenantCreated, 1)
	f.courier(t, soon())
	eventually(t, "three deliveries", func() bool {
		return len(f.deliveries(t, first, webhook.DeliveryDelivered)) == 1 && len(f.deliveries(t, second, webhook.DeliveryDelivered)) == 2
	})
	attempts := failing.all()
	verifier, err := standardwebhooks.NewWebhook(secret)
	if err != nil || !strings.HasPrefix(secret, "whsec_") || len(attempts) != 3 {
		t.Fatalf("secret %q, %v, %d attempts", secret, err, len(attempts))
	}
	for _, a := range attempts {
		if err := verifier.Verify(a.body, a.header); err != nil {
			t.Errorf("the signature: %v", err)
		}
		if a.header.Get("webhook-id") != attempts[0].header.Get("webhook-id") || string(a.body) != string(attempts[0].body) {
			t.Error("an attempt differs from the first")
		}
	}
	var said struct {
		Type string `json:"type"`
		Data struct {
			Tenant uuid.UUID `json:"tenant_id"`
			Slug   string    `json:"tenant_slug"`
			N      *int      `json:"n"`
		} `json:"data"`
	}
	if err := json.Unmarshal(attempts[0].body, &said); err != nil || said.Type != "tenant.suspended" || said.Data.Tenant != f.tenant || said.Data.Slug != "acme" || said.Data.N == nil {
		t.Errorf("said %s (%v)", attempts[0].body, err)
	}
	if got := f.deliveries(t, first, "")[0]; got.Attempts != 3 || got.LastStatus == nil || *got.LastStatus != 200 || got.EventID.String() != attempts[0].header.Get("webhook-id") {
		t.Errorf("the delivery is %+v", got)
	}
	if w, err := f.Get(t.Context(), first.ID); err != nil || w.FailingSince != nil {
		t.Errorf("it works, and is said to fail since %v (%v)", w.FailingSince, err)
	}
	var stored string
	if err := f.DB.QueryRow(t.Context(), "SELECT string_agg(e::text, ' ') FROM control.webhook_endpoints e").Scan(&stored); err != nil || strings.Contains(stored, secret[6:]) {
		t.Errorf("the secret is stored as it is (%v)", err)
	}
	var audited string
	if err := f.DB.QueryRow(t.Context(), "SELECT string_agg(detail::text, ' ') FROM control.audit_log").Scan(&audited); err != nil || strings.Contains(audited, "key=1") {
		t.Errorf("the audit shows what follows the host: %s (%v)", audited, err)
	}
}

// What cannot be delivered becomes a dead letter, and can be sent again.
func TestDeadLettersAndRedelivery(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	broken := true
	var mu sync.Mutex
	r := newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if broken {
			w.WriteHeader(503)
			_, _ = w.Write([]byte("CANARY of the other side"))
		}
	})
	w, _ := f.endpoint(t, r.URL, "tenant.created")
	f.happen(t, event.TenantCreated, 1)
	f.courier(t, soon())
	eventually(t, "a dead letter", func() bool { return len(f.deliveries(t, w, webhook.DeliveryDead)) == 1 })
	dead := f.deliveries(t, w, webhook.DeliveryDead)[0]
	if dead.Attempts != 3 || dead.LastError != "answered 503" || dead.FinishedAt == nil {
		t.Errorf("the dead letter is %+v", dead)
	}
	mu.Lock()
	broken = false
	mu.Unlock()
	if _, err := f.Redeliver(t.Context(), actor, dead.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the redelivery", func() bool { return len(f.deliveries(t, w, webhook.DeliveryDelivered)) == 1 })
	got := r.all()
	if len(got) != 4 || got[0].header.Get("webhook-id") != got[3].header.Get("webhook-id") {
		t.Errorf("%d requests", len(got))
	}
	if _, err := f.Redeliver(t.Context(), actor, uuid.New()); !fault.Is(err, fault.KindNotFound) {
		t.Errorf("no such delivery: %v", err)
	}
	d, err := f.Test(t.Context(), actor, w.ID)
	if err != nil || d.Type != "webhook.test" {
		t.Fatalf("%+v, %v", d, err)
	}
	eventually(t, "the test", func() bool { return len(r.all()) == 5 })
}

// An endpoint that never answers holds up nobody else's deliveries.
func TestASlowEndpointHoldsUpNobody(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	release := make(chan struct{})
	var most, now int
	var mu sync.Mutex
	count := func(by int) {
		mu.Lock()
		defer mu.Unlock()
		now += by
		most = max(most, now)
	}
	silent := newReceiver(t, func(_ int, _ http.ResponseWriter, r *http.Request) {
		count(1)
		defer count(-1)
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	t.Cleanup(func() { close(release) })
	quick := newReceiver(t, nil)
	f.endpoint(t, silent.URL, "tenant.created")
	other, _ := f.endpoint(t, quick.URL, "tenant.created")
	f.happen(t, event.TenantCreated, 40)
	f.courier(t, webhook.Options{AllowPrivate: true, Timeout: time.Hour})
	eventually(t, "40 deliveries beside a silent endpoint", func() bool { return len(f.deliveries(t, other, webhook.DeliveryDelivered)) == 40 })
	mu.Lock()
	defer mu.Unlock()
	if most != 4 {
		t.Errorf("%d requests waited at the silent endpoint at once", most)
	}
}

// An endpoint that only fails is disabled in the end, by the system's name; so is one that says that it
// is gone. Activated, it begins anew.
func TestWhatOnlyFailsIsDisabled(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	gone := newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(410) })
	failing := newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	first, _ := f.endpoint(t, gone.URL, "tenant.created")
	second, _ := f.endpoint(t, failing.URL, "tenant.created")
	status := func(w webhook.Endpoint) webhook.Endpoint {
		w, err := f.Get(t.Context(), w.ID)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	f.happen(t, event.TenantCreated, 1)
	o := soon(time.Hour)
	stop := f.courier(t, o)
	eventually(t, "the one that is gone", func() bool { return status(first).Status == webhook.StatusDisabled })
	eventually(t, "the attempts", func() bool { return len(failing.all()) == 3 })
	stop()
	if w := status(second); w.Status != webhook.StatusActive || w.FailingSince == nil {
		t.Errorf("disabled at once, or not failing: %+v", w)
	}
	if _, err := f.DB.Exec(t.Context(), "UPDATE control.webhook_endpoints SET failing_since = now() - interval '73 hours' WHERE failing_since IS NOT NULL"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.DB.Exec(t.Context(), "UPDATE control.webhook_deliveries SET next_attempt_at = now()"); err != nil {
		t.Fatal(err)
	}
	stop = f.courier(t, o)
	eventually(t, "the one that only fails", func() bool { return status(second).Status == webhook.StatusDisabled })
	stop()
	var by string
	if err := f.DB.QueryRow(t.Context(), "SELECT string_agg(DISTINCT actor_kind || ' ' || actor_id, ',') FROM control.audit_log WHERE action = 'webhook.disable'").Scan(&by); err != nil || by != "worker worker-1" {
		t.Errorf("disabled by %q (%v)", by, err)
	}
	if w := status(second); !strings.Contains(w.DisabledReason, "answered 500") {
		t.Errorf("the reason is %q", w.DisabledReason)
	}
	if _, err := f.Test(t.Context(), actor, second.ID); !fault.Is(err, fault.KindConflict) {
		t.Errorf("a test of what is disabled: %v", err)
	}
	requests := len(failing.all())
	f.happen(t, event.TenantCreated, 1) // of which it will not hear
	stop = f.courier(t, o)
	eventually(t, "the fan-out", func() bool {
		var left int
		err := f.DB.QueryRow(t.Context(), "SELECT count(*) FROM control.events WHERE NOT fanned_out").Scan(&left)
		return err == nil && left == 0
	})
	stop()
	if n := len(f.deliveries(t, second, "")); n != 1 || len(failing.all()) != requests {
		t.Errorf("%d deliveries, and %d more requests, of one that is disabled", n, len(failing.all())-requests)
	}
	if w, err := f.Update(t.Context(), actor, second.ID, webhook.Patch{Active: new(true)}); err != nil || w.FailingSince != nil || w.DisabledReason != "" {
		t.Errorf("activated: %+v, %v", w, err)
	}
}

// Two couriers beside each other send each event once; one that dies on the way
// leaves what it had to the other, under the same id; one that is stopped gives it
// back at once.
func TestCouriersShareAndInherit(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r := newReceiver(t, nil)
	w, _ := f.endpoint(t, r.URL, "tenant.created")
	f.happen(t, event.TenantCreated, 60)
	stopFirst, stopSecond := f.courier(t, soon()), f.courier(t, soon())
	eventually(t, "60 deliveries", func() bool { return len(f.deliveries(t, w, webhook.DeliveryDelivered)) == 60 })
	stopFirst()
	stopSecond()
	ids := map[string]int{}
	for _, got := range r.all() {
		ids[got.header.Get("webhook-id")]++
	}
	if len(ids) != 60 || len(r.all()) != 60 {
		t.Errorf("%d events in %d requests", len(ids), len(r.all()))
	}

	// A dead one's lease is over.
	f.happen(t, event.TenantCreated, 1)
	_, err := f.DB.Exec(t.Context(), `
		WITH e AS (UPDATE control.events SET fanned_out = true WHERE NOT fanned_out RETURNING id)
		INSERT INTO control.webhook_deliveries (id, endpoint_id, event_id, attempts, lease_until)
		SELECT gen_random_uuid(), $1, e.id, 1, now() FROM e`, w.ID)
	if err != nil {
		t.Fatal(err)
	}
	stop := f.courier(t, soon())
	eventually(t, "what a dead courier left", func() bool { return len(f.deliveries(t, w, webhook.DeliveryDelivered)) == 61 })
	stop()

	entered := make(chan struct{}, 8)
	slow := newReceiver(t, func(n int, _ http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		if n == 1 {
			<-r.Context().Done()
		}
	})
	other, _ := f.endpoint(t, slow.URL, "tenant.suspended")
	f.happen(t, event.TenantSuspended, 1)
	stop = f.courier(t, soon())
	<-entered
	stop()
	if d := f.deliveries(t, other, webhook.DeliveryPending); len(d) != 1 || d[0].Attempts != 0 {
		t.Errorf("a stopped courier left %+v", d)
	}
	f.courier(t, soon())
	eventually(t, "what a stopped courier gave back", func() bool { return len(f.deliveries(t, other, webhook.DeliveryDelivered)) == 1 })
}

func TestEndpointsAreChecked(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.AllowPrivate = false
	for name, n := range map[string]webhook.New{
		"no events":      {URL: "https://hooks.example.com"},
		"unknown event":  {URL: "https://hooks.example.com", Events: []string{"tenant.*"}},
		"plain":          {URL: "http://hooks.example.com", Events: []string{"tenant.created"}},
		"another scheme": {URL: "file:///etc/passwd", Events: []string{"tenant.created"}},
		"a user":         {URL: "https://a:b@hooks.example.com", Events: []string{"tenant.created"}},
		"loopback":       {URL: "https://127.0.0.1/", Events: []string{"tenant.created"}},
		"no host":        {URL: "https:///x", Events: []string{"tenant.created"}},
	} {
		if _, _, err := f.Create(t.Context(), actor, n); !fault.Is(err, fault.KindInvalid) || strings.Contains(err.Error(), n.URL) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var making sync.WaitGroup
	var mu sync.Mutex
	made := 0
	for range webhook.MaxEndpoints + 5 {
		making.Go(func() {
			_, _, err := f.Create(context.Background(), actor, webhook.New{URL: "https://hooks.example.com", Events: []string{"tenant.created", "tenant.created"}})
			if err != nil && !fault.Is(err, fault.KindConflict) {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				made++
			}
		})
	}
	making.Wait()
	list, err := f.List(t.Context())
	if err != nil || len(list) != webhook.MaxEndpoints || made != webhook.MaxEndpoints || len(list[0].Events) != 1 {
		t.Fatalf("%d endpoints, %d made, %v", len(list), made, err)
	}
	if err := f.Delete(t.Context(), actor, list[0].ID); err != nil {
		t.Fatal(err)
	}
	if err := f.Delete(t.Context(), actor, list[0].ID); !fault.Is(err, fault.KindNotFound) {
		t.Errorf("deleted twice: %v", err)
	}
}
