package billing_test

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/billing"
	"github.com/ouvira/ouvira/controlplane/internal/controltest"
	"github.com/ouvira/ouvira/controlplane/internal/job"
	"github.com/ouvira/ouvira/controlplane/internal/lifecycle"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/controlplane/internal/tenant"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

var actor = &audit.Actor{Kind: audit.KindCLI, ID: "test", Name: "test"}

type world struct {
	*billing.Service

	control controltest.Control
	tenants *tenant.Service
	clock   time.Time
}

// newWorld is on the first of March, by noon.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{control: controltest.New(t), clock: time.Date(2027, time.March, 1, 12, 0, 0, 0, time.UTC)}
	queue, err := job.NewInsertOnly(w.control.Pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	operations := operation.NewStore(w.control.Pool, queue)
	servers := server.NewService(w.control.Pool, controltest.NewKeys(t).Control, slog.New(slog.DiscardHandler), server.Options{})
	life := lifecycle.NewService(w.control.Pool, operations, servers, slog.New(slog.DiscardHandler), lifecycle.Options{})
	w.tenants = &tenant.Service{DB: w.control.Pool, Lifecycle: life, Addresses: tenant.Addresses{BaseDomain: "ouvira.test", Scheme: "https"}}
	w.Service = &billing.Service{
		DB: w.control.Pool, Tenants: w.tenants, Jobs: queue, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return w.clock },
	}
	return w
}

func (w *world) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := w.control.Pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func one[T any](t *testing.T, w *world, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := w.control.Pool.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// tenant is active, and made on the first of March.
func (w *world) tenant(t *testing.T, slug string) uuid.UUID {
	t.Helper()
	id := uuid.Must(uuid.NewV7())
	w.exec(t, `INSERT INTO control.tenants (id, slug, name, status, plan_id, created_at)
		SELECT $1, $2, $2, 'active', id, '2027-03-01 10:00Z' FROM control.plans WHERE code = 'standard'`, id, slug)
	w.exec(t, "SELECT control.publish_route($1)", id)
	return id
}

// on runs the sweep on a day of March.
func (w *world) on(t *testing.T, day int) {
	t.Helper()
	w.clock = time.Date(2027, time.March, day, 12, 0, 0, 0, time.UTC)
	if err := w.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (w *world) status(t *testing.T, id uuid.UUID) string {
	t.Helper()
	return one[string](t, w, "SELECT status FROM node.routes_v1 WHERE tenant_id = $1", id)
}

func (w *world) events(t *testing.T, id uuid.UUID) string {
	t.Helper()
	return one[string](t, w, "SELECT coalesce(string_agg(type, ' ' ORDER BY created_at, id), '') FROM control.events WHERE tenant_id = $1", id)
}

func march(day int) time.Time { return time.Date(2027, time.March, day, 0, 0, 0, 0, time.UTC) }

func pay(reference string, end time.Time) billing.Payment {
	return billing.Payment{Amount: "120.00", Currency: "EUR", PeriodEnd: end, Reference: reference}
}

func (w *world) pays(t *testing.T, id uuid.UUID, p billing.Payment) billing.Payment {
	t.Helper()
	recorded, err := w.Record(t.Context(), actor, id, p)
	if err != nil {
		t.Fatal(err)
	}
	return recorded
}

// A payment counts once under its reference, also when many send it at once; it
// extends what is paid and does not shorten it.
func TestAPaymentCountsOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme, globex := w.tenant(t, "acme"), w.tenant(t, "globex")
	paid := func(id uuid.UUID) string {
		return one[string](t, w, "SELECT coalesce(paid_until::text, '') || ' ' || on_trial FROM control.tenants WHERE id = $1", id)
	}
	var group sync.WaitGroup
	ids := make([]uuid.UUID, 10)
	for i := range ids {
		group.Go(func() {
			p, err := w.Record(t.Context(), actor, acme, pay("INV-1", march(31)))
			if err != nil {
				t.Error(err)
			}
			ids[i] = p.ID
		})
	}
	group.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("payments %v", ids)
		}
	}
	if got := paid(acme); got != "2027-03-31 false" || paid(globex) != " true" {
		t.Errorf("paid until %s, the neighbour %s", got, paid(globex))
	}
	if got := w.events(t, acme); got != "payment.recorded" {
		t.Errorf("events %s", got)
	}
	same := pay("INV-1", march(31))
	same.Amount = "120"
	if p := w.pays(t, acme, same); p.ID != ids[0] || p.Amount != "120.00" {
		t.Errorf("%+v", p)
	}
	for _, other := range []billing.Payment{
		{Amount: "121", Currency: "EUR", PeriodEnd: march(31), Reference: "INV-1"},
		{Amount: "120", Currency: "USD", PeriodEnd: march(31), Reference: "INV-1"},
		{Amount: "120", Currency: "EUR", PeriodEnd: march(30), Reference: "INV-1"},
	} {
		if _, err := w.Record(t.Context(), actor, acme, other); fault.From(err).EffectiveCode() != "reference_used" {
			t.Errorf("%+v: %v", other, err)
		}
	}
	w.pays(t, globex, pay("INV-1", march(20))) // another tenant's
	w.pays(t, acme, pay("INV-2", march(10)))
	if got := paid(acme); got != "2027-03-31 false" {
		t.Errorf("a payment has shortened what is paid to %s", got)
	}
	list, next, err := w.List(t.Context(), acme, "", 1)
	if err != nil || len(list) != 1 || list[0].Reference != "INV-2" || next == "" {
		t.Fatalf("%+v %q %v", list, next, err)
	}
	if list, next, err = w.List(t.Context(), acme, next, 1); err != nil || len(list) != 1 || list[0].Reference != "INV-1" || next != "" {
		t.Errorf("%+v %q %v", list, next, err)
	}
	if _, err := w.control.Pool.Exec(t.Context(), "UPDATE control.payments SET amount = 1"); err == nil {
		t.Error("the ledger was rewritten")
	}
}

func TestPaymentsThatAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.tenant(t, "acme")
	for field, p := range map[string]billing.Payment{
		"amount":     {Amount: "-1", Currency: "EUR", PeriodEnd: march(31), Reference: "a"},
		"amount ":    {Amount: "0.00", Currency: "EUR", PeriodEnd: march(31), Reference: "a"},
		"amount  ":   {Amount: "1e9", Currency: "EUR", PeriodEnd: march(31), Reference: "a"},
		"amount   ":  {Amount: "1.23456", Currency: "EUR", PeriodEnd: march(31), Reference: "a"},
		"currency":   {Amount: "1", Currency: "eur", PeriodEnd: march(31), Reference: "a"},
		"period_end": {Amount: "1", Currency: "EUR", PeriodEnd: march(31).AddDate(100, 0, 0), Reference: "a"},
		"reference":  {Amount: "1", Currency: "EUR", PeriodEnd: march(31), Reference: " "},
		"reference ": {Amount: "1", Currency: "EUR", PeriodEnd: march(31), Reference: "a\nb"},
	} {
		_, err := w.Record(t.Context(), actor, acme, p)
		if f := fault.From(err); f == nil || f.Kind != fault.KindInvalid || f.Fields[0].Field != strings.TrimSpace(field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := w.Record(t.Context(), actor, uuid.New(), pay("a", march(31))); !fault.Is(err, fault.KindNotFound) {
		t.Error(err)
	}
	w.exec(t, "UPDATE control.tenants SET status = 'purged' WHERE id = $1", acme)
	if _, err := w.Record(t.Context(), actor, acme, pay("a", march(31))); fault.From(err).EffectiveCode() != "tenant_purged" {
		t.Error(err)
	}
}

// A trial that ends unpaid: warned, then after the grace suspended, each once; a
// payment brings the tenant back. The neighbour pays in time.
func TestALapse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec(t, "UPDATE control.plans SET trial_days = 10, grace_days = 3, lapse_action = 'suspend'")
	acme, globex := w.tenant(t, "acme"), w.tenant(t, "globex")
	w.pays(t, globex, pay("INV-1", march(31)))
	for _, at := range []struct {
		day            int
		status, events string
	}{
		{5, "active", ""},
		{6, "active", "payment.due"},
		{7, "active", "payment.due"},
		{11, "active", "payment.due"}, // the last day of the trial
		{14, "active", "payment.due"}, // the last day of the grace
		{15, "suspended", "payment.due tenant.suspended payment.lapsed"},
		{16, "suspended", "payment.due tenant.suspended payment.lapsed"},
	} {
		w.on(t, at.day)
		w.on(t, at.day)
		if got := w.events(t, acme); w.status(t, acme) != at.status || got != at.events {
			t.Errorf("on March %d: %s, %s", at.day, w.status(t, acme), got)
		}
		if w.status(t, globex) != "active" || w.events(t, globex) != "payment.recorded" {
			t.Errorf("on March %d the neighbour is %s", at.day, w.status(t, globex))
		}
	}
	if reason := one[string](t, w, "SELECT status_reason FROM control.tenants WHERE id = $1", acme); reason != "Not paid since 2027-03-11." {
		t.Errorf("the reason is %q", reason)
	}
	if n := one[int](t, w, "SELECT count(*) FROM river.river_job WHERE kind = 'billing_due_mail'"); n != 1 {
		t.Errorf("%d mails", n)
	}
	w.pays(t, acme, pay("INV-1", march(12))) // too little
	if got := w.status(t, acme); got != "suspended" {
		t.Errorf("resumed by a payment for a time that is over: %s", got)
	}
	w.pays(t, acme, pay("INV-2", march(20)))
	if got := w.status(t, acme); got != "active" {
		t.Errorf("not resumed by a payment: %s", got)
	}
	w.on(t, 17)
	if got := w.events(t, acme); !strings.HasSuffix(got, "payment.recorded payment.lapsed payment.recorded tenant.resumed payment.due") {
		t.Errorf("events %s", got)
	}
}

// People decide: what a person has suspended no payment resumes, and whom a person
// has resumed the same lapse does not suspend again.
func TestALapseGivesWayToPeople(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec(t, "UPDATE control.plans SET trial_days = 10, grace_days = 3, lapse_action = 'suspend'")
	banned, spared, both := w.tenant(t, "banned"), w.tenant(t, "spared"), w.tenant(t, "both")
	if _, err := w.tenants.Suspend(t.Context(), actor, banned, "Abuse."); err != nil {
		t.Fatal(err)
	}
	w.on(t, 15)
	for id, want := range map[uuid.UUID]string{spared: "suspended", both: "suspended"} {
		if got := w.status(t, id); got != want {
			t.Fatalf("%s", got)
		}
	}
	if reason := one[string](t, w, "SELECT status_reason FROM control.tenants WHERE id = $1", banned); reason != "Abuse." {
		t.Errorf("the reason is %q", reason)
	}
	for _, id := range []uuid.UUID{spared, both} {
		if _, err := w.tenants.Resume(t.Context(), actor, id); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.tenants.Suspend(t.Context(), actor, both, "Abuse."); err != nil {
		t.Fatal(err)
	}
	w.on(t, 16)
	for _, id := range []uuid.UUID{banned, both} {
		w.pays(t, id, pay("INV-1", march(31)))
	}
	w.on(t, 17)
	for id, want := range map[uuid.UUID]string{banned: "suspended", both: "suspended", spared: "active"} {
		if got := w.status(t, id); got != want {
			t.Errorf("%s is %s, want %s", id, got, want)
		}
	}
}

// A plan that only tells suspends nobody; without a trial nothing is due before a
// first payment.
func TestAPlanThatOnlyTells(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	told, free := w.tenant(t, "told"), w.tenant(t, "free")
	w.exec(t, `INSERT INTO control.plans (id, code, name, max_connections, statement_timeout_ms, trial_days, lapse_action)
		VALUES ('01900000-0000-7000-8000-000000000002', 'free', 'Free', 1, 1000, 0, 'suspend')`)
	w.exec(t, "UPDATE control.tenants SET plan_id = '01900000-0000-7000-8000-000000000002' WHERE id = $1", free)
	for day := 1; day <= 31; day++ {
		w.on(t, day)
	}
	if got := w.events(t, told); w.status(t, told) != "active" || got != "payment.due payment.lapsed" {
		t.Errorf("%s, %s", w.status(t, told), got)
	}
	if got := w.events(t, free); w.status(t, free) != "active" || got != "" {
		t.Errorf("%s, %s", w.status(t, free), got)
	}
}

// Several workers sweep at once.
func TestManySweepsAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec(t, "UPDATE control.plans SET trial_days = 1, grace_days = 0, lapse_action = 'suspend'")
	ids := []uuid.UUID{}
	for i := range 5 {
		ids = append(ids, w.tenant(t, fmt.Sprintf("tenant-%d", i)))
	}
	w.clock = march(20)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			if err := w.Sweep(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	w.on(t, 20)
	for _, id := range ids {
		if got := w.events(t, id); got != "payment.due tenant.suspended payment.lapsed" {
			t.Errorf("events %s", got)
		}
	}
}
