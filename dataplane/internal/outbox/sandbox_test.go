package outbox_test

import (
	"testing"

	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/route"
)

// A sandbox is full of addresses of people who know nothing of it: nothing that it
// writes leaves. Its neighbour's mail does.
func TestASandboxSendsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Table.Change(w.A.ID, func(r *route.Route) { r.Settings.Sandbox = true })
	w.add(t, w.A, mailTo("a@acme.example"), smsTo("+491701234567"))
	w.add(t, w.B, mailTo("b@globex.example"))
	d := w.drainer(t, nil)
	d.Wake(w.A.ID)
	d.Wake(w.B.ID)
	untilStatus(t, w.A, "sent", 2)
	untilStatus(t, w.B, "sent", 1)
	d.stop()
	if sent := w.email.all(); len(sent) != 1 || sent[0].To != "b@globex.example" || len(w.sms.all()) != 0 {
		t.Errorf("sent: %+v, and %d SMS", sent, len(w.sms.all()))
	}
	for of, want := range map[string]tenanttest.Tenant{"not sent: this workspace is a sandbox": w.A, "": w.B} {
		if said := value[string](t, want, "SELECT min(last_error) FROM public.outbox"); said != of {
			t.Errorf("%s says %q", want.Route.Slug, said)
		}
	}
	if n := value[int64](t, w.A, "SELECT count(*) FROM public.outbox WHERE payload_sealed IS NOT NULL"); n != 0 {
		t.Errorf("%d messages still hold what they said", n)
	}
}
