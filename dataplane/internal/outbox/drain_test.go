package outbox_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/route"
)

func TestWhatIsWrittenLeavesOnceAndKeepsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const each = 20 // more than a batch
	for i := range each {
		w.add(t, w.A, mailTo(fmt.Sprintf("a%d@acme.example", i)))
	}
	w.add(t, w.B, mailTo("b@globex.example"), smsTo("+491701234567"))
	one, other := w.drainer(t, nil), w.drainer(t, nil)
	for range 3 {
		one.Wake(w.A.ID)
		other.Wake(w.A.ID)
		one.Wake(w.B.ID)
	}
	untilStatus(t, w.A, "sent", each)
	untilStatus(t, w.B, "sent", 2)
	one.stop()
	other.stop()
	seen := map[string]int{}
	for _, m := range w.email.all() {
		seen[m.To]++
		if m.Values["code"] != "424242" {
			t.Errorf("sent with %v", m.Values)
		}
		want := w.A
		if m.To == "b@globex.example" {
			want = w.B
		}
		if m.Route.TenantID != want.ID || m.Company != want.CompanyName {
			t.Errorf("the mail to %s was sent for %s, %q", m.To, m.Route.Slug, m.Company)
		}
	}
	if len(seen) != each+1 || len(w.email.all()) != each+1 || len(w.sms.all()) != 1 {
		t.Errorf("%d mails to %d people, %d SMS", len(w.email.all()), len(seen), len(w.sms.all()))
	}
	for _, tenant := range []tenanttest.Tenant{w.A, w.B} {
		if n := value[int64](t, tenant, "SELECT count(*) FROM public.outbox WHERE payload_sealed IS NOT NULL"); n != 0 {
			t.Errorf("%s still holds what %d messages said", tenant.Route.Slug, n)
		}
	}
}

// An outbox in which nothing waits is looked at when something was written, and
// not again and again.
func TestAnEmptyOutboxIsLeftAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.drainer(t, nil)
	d.Wake(w.A.ID)
	const mails = 20
	for i := range int64(mails) {
		w.add(t, w.B, mailTo("b@globex.example"))
		d.Wake(w.B.ID)
		untilStatus(t, w.B, "sent", i+1)
	}
	d.stop()
	// A mail takes a look for it, one to write down that it left, and one that
	// finds nothing more.
	if looks := d.looks.Load(); looks > 4*mails+1 {
		t.Errorf("%d mails and an empty outbox took %d looks", mails, looks)
	}
}

// TestSec06 what waits in the outbox of a suspended tenant waits on, and leaves when
// the tenant is served again; its neighbour's leaves meanwhile.
func TestSec06TheOutboxOfASuspendedTenantWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Table.Change(w.A.ID, func(r *route.Route) { r.Status = route.StatusSuspended })
	w.add(t, w.A, mailTo("a@acme.example"), smsTo("+491701234567"))
	w.add(t, w.B, mailTo("b@globex.example"))
	d := w.drainer(t, nil)
	for range 3 {
		d.Wake(w.A.ID)
	}
	d.Wake(w.B.ID)
	untilStatus(t, w.B, "sent", 1)
	d.stop() // sends what is due first
	if sent, texts := w.email.all(), w.sms.all(); len(sent) != 1 || len(texts) != 0 {
		t.Errorf("%d mails and %d SMS have left", len(sent), len(texts))
	}
	w.Table.Change(w.A.ID, func(r *route.Route) { r.Status = route.StatusActive })
	d = w.drainer(t, nil)
	d.Wake(w.A.ID)
	untilStatus(t, w.A, "sent", 2)
	d.stop()
}

func TestALaterAttemptWaitsAndIsTheSameMail(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.email.reply = func(_ context.Context, _ outbox.Outgoing, attempt int) error {
		if attempt == 1 {
			return &outbox.Failure{Outcome: outbox.Later, Reason: "busy", After: time.Hour}
		}
		return nil
	}
	w.add(t, w.A, mailTo("a@acme.example"))
	d := w.drainer(t, nil)
	d.Wake(w.A.ID)
	<-w.email.news
	until(t, "the attempt is written down", func() bool {
		return value[string](t, w.A, "SELECT last_error FROM public.outbox") == "busy"
	})
	if early := value[bool](t, w.A, "SELECT due_at < now() + interval '59 min' FROM public.outbox"); early {
		t.Error("it is due before the time that was asked for")
	}
	d.Wake(w.A.ID) // changes nothing: it is not due
	exec(t, w.A, "UPDATE public.outbox SET due_at = now()")
	d.Wake(w.A.ID)
	untilStatus(t, w.A, "sent", 1)
	sent := w.email.all()
	if len(sent) != 2 || sent[0].ID != sent[1].ID || !sent[0].Written.Equal(sent[1].Written) {
		t.Errorf("attempts: %+v", sent)
	}
}

func TestWhatCannotBeSentIsDeadAndSeen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.email.reply = func(_ context.Context, m outbox.Outgoing, _ int) error {
		if strings.HasPrefix(m.To, "refused") {
			return &outbox.Failure{Outcome: outbox.Dead, Reason: "the mail server refused it: 550 5.1.1"}
		}
		return errors.New("connection refused")
	}
	w.add(t, w.A, mailTo("refused@acme.example"), mailTo("unlucky@acme.example"))
	exec(t, w.A, "UPDATE public.outbox SET attempts = 11 WHERE recipient LIKE 'unlucky%'")
	w.add(t, w.B, mailTo("b@globex.example"))
	d := w.drainer(t, nil)
	d.Wake(w.A.ID)
	d.Wake(w.B.ID)
	untilStatus(t, w.A, "dead", 2)
	until(t, "B's is tried again", func() bool {
		return value[string](t, w.B, "SELECT status || ' ' || last_error FROM public.outbox") == "pending it could not be sent"
	})
	logged := value[int64](t, w.A, `SELECT count(*) FROM ledger.security_logs
		WHERE action = 'message_dead' AND metadata->>'channel' = 'email' AND metadata::text NOT LIKE '%@%'`)
	if logged != 2 {
		t.Errorf("%d entries in the security log", logged)
	}
	if n := value[int64](t, w.B, "SELECT count(*) FROM ledger.security_logs WHERE action LIKE 'message%'"); n != 0 {
		t.Errorf("B's log has %d entries", n)
	}
}

func TestACodeIsNotSentAfterItsLifetime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add(t, w.A, smsTo("+491701234567"))
	w.add(t, w.B, smsTo("+491701234567"))
	exec(t, w.A, "UPDATE public.outbox SET expires_at = now() - interval '1 s'")
	d := w.drainer(t, nil)
	d.Wake(w.A.ID)
	d.Wake(w.B.ID)
	untilStatus(t, w.A, "dead", 1)
	untilStatus(t, w.B, "sent", 1)
	if sent := w.sms.all(); len(sent) != 1 || sent[0].Route.TenantID != w.B.ID {
		t.Errorf("sent: %+v", sent)
	}
}

// A node that dies between taking a message and writing down what became of
// it: another one sends the mail (again, as the same one), and leaves an SMS
// alone that may have been sent.
func TestAnotherNodeTakesOverFromOneThatDied(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	hang := make(chan struct{})
	wakeUp := sync.OnceFunc(func() { close(hang) })
	hold := func(_ context.Context, m outbox.Outgoing, attempt int) error {
		if attempt == 1 && m.Route.TenantID == w.A.ID {
			<-hang
			return errors.New("too late")
		}
		return nil
	}
	w.email.reply, w.sms.reply = hold, hold
	w.add(t, w.A, mailTo("a@acme.example"), smsTo("+491701234567"))
	w.add(t, w.B, smsTo("+491701234567"))
	// Claimed by a node that died before it began to send.
	exec(t, w.B, "UPDATE public.outbox SET attempts = 1, due_at = now() + interval '1 hour'")
	dying := w.drainer(t, nil)
	dying.Wake(w.A.ID)
	<-w.email.news
	<-w.sms.news
	other := w.drainer(t, nil)
	t.Cleanup(wakeUp)
	other.Wake(w.A.ID) // the leases hold
	for _, tenant := range []tenanttest.Tenant{w.A, w.B} {
		exec(t, tenant, "UPDATE public.outbox SET due_at = now()") // they end
		other.Wake(tenant.ID)
	}
	untilStatus(t, w.A, "sent", 1)
	untilStatus(t, w.A, "unknown", 1)
	untilStatus(t, w.B, "sent", 1)
	wakeUp() // the first node wakes up again: what it says counts no more
	dying.stop()
	other.stop()
	if got := value[string](t, w.A, "SELECT string_agg(channel || ' ' || status, ', ' ORDER BY id) FROM public.outbox"); got != "email sent, sms unknown" {
		t.Errorf("A's messages: %s", got)
	}
	if mails := w.email.all(); len(mails) != 2 || mails[0].ID != mails[1].ID {
		t.Errorf("mails: %+v", mails)
	}
	if texts := w.sms.all(); len(texts) != 2 { // one of each tenant
		t.Errorf("SMS: %+v", texts)
	}
}

func TestAtTheEndWhatIsDueStillLeaves(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.drainer(t, nil)
	for _, tenant := range []tenanttest.Tenant{w.A, w.B} {
		w.add(t, tenant, mailTo("x@example.com"))
		d.Wake(tenant.ID)
	}
	d.stop()
	if n := len(w.email.all()); n != 2 {
		t.Errorf("%d of 2 mails have left", n)
	}
	untilStatus(t, w.A, "sent", 1)
	untilStatus(t, w.B, "sent", 1)
}

func TestAPanicCostsNoMoreThanItsAttempt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.sms.reply = func(context.Context, outbox.Outgoing, int) error { panic("a bug") }
	w.add(t, w.A, smsTo("+491701234567"), mailTo("a@acme.example"))
	w.add(t, w.B, mailTo("b@globex.example"))
	d := w.drainer(t, nil)
	d.Wake(w.A.ID)
	d.Wake(w.B.ID)
	untilStatus(t, w.A, "unknown", 1)
	untilStatus(t, w.A, "sent", 1)
	untilStatus(t, w.B, "sent", 1)
}

// What a message says stands nowhere but in the message: neither in a dump,
// while it waits and afterwards, nor in the logs, sent or refused.
func TestSec39TheOutboxKeepsNoSecret(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const canary = "canary-7f3a9"
	reset := outbox.Message{Channel: outbox.Email, To: "a@acme.example", Template: outbox.TemplatePasswordReset, Values: map[string]string{"link": "https://acme.example/reset?token=" + canary, "minutes": "60"}}
	code := smsTo("+491701234567")
	code.Values["code"] = canary
	w.sms.reply = func(context.Context, outbox.Outgoing, int) error {
		return &outbox.Failure{Outcome: outbox.Dead, Reason: "Twilio answered 400"}
	}
	for _, tenant := range []tenanttest.Tenant{w.A, w.B} {
		w.add(t, tenant, reset, code)
		absent(t, tenant, canary)
	}
	d := w.drainer(t, nil)
	d.Wake(w.A.ID)
	d.Wake(w.B.ID)
	for _, tenant := range []tenanttest.Tenant{w.A, w.B} {
		untilStatus(t, tenant, "sent", 1)
		untilStatus(t, tenant, "dead", 1)
		absent(t, tenant, canary)
	}
	d.stop()
	if sent := w.email.all(); len(sent) != 2 || !strings.Contains(sent[0].Values["link"], canary) {
		t.Fatalf("sent: %+v", sent)
	}
	if log := w.log.String(); !strings.Contains(log, "Twilio answered 400") || strings.Contains(log, canary) || strings.Contains(log, "a@acme.example") || strings.Contains(log, "4917") {
		t.Errorf("the log: %s", log)
	}
}

// absent looks through every row that has to do with messages, as text and as
// bytes.
func absent(t *testing.T, tenant tenanttest.Tenant, secret string) {
	t.Helper()
	dump := value[string](t, tenant, `SELECT (SELECT string_agg(o::text, '') FROM public.outbox o) ||
		COALESCE((SELECT string_agg(s::text, '') FROM ledger.security_logs s), '') || COALESCE((SELECT string_agg(a::text, '') FROM ledger.activity_logs a), '')`)
	if !strings.Contains(dump, "a@acme.example") {
		t.Fatal("the dump is not what it should be")
	}
	if strings.Contains(dump, secret) || strings.Contains(dump, hex.EncodeToString([]byte(secret))) {
		t.Errorf("a dump of %s shows it: %s", tenant.Route.Slug, dump)
	}
}
