//go:build failpoints

package outbox_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
)

// A node stands still between claiming a message and sending it, for longer
// than its lease. Another one sends; when the first goes on, it has nothing to
// send any more.
func TestANodeThatStoodStillSendsNoSMSAgain(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("OUVIRA_FAILPOINT_DIR", dir)
	w := newWorld(t)
	armed := filepath.Join(dir, "outbox.claimed")
	if err := os.WriteFile(armed, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.add(t, w.A, smsTo("+491701234567"))
	w.add(t, w.B, smsTo("+491701234567"))
	slow := w.drainer(t, nil)
	slow.Wake(w.A.ID)
	until(t, "the first node stands still", func() bool {
		_, err := os.Stat(armed + ".hit")
		return err == nil
	})
	exec(t, w.A, "UPDATE public.outbox SET due_at = now()") // its lease ends
	quick := w.drainer(t, nil)
	for _, tenant := range []tenanttest.Tenant{w.A, w.B} {
		quick.Wake(tenant.ID)
		untilStatus(t, tenant, "sent", 1)
	}
	if err := os.Remove(armed + ".hit"); err != nil { // it goes on
		t.Fatal(err)
	}
	slow.stop()
	quick.stop()
	if sent := w.sms.all(); len(sent) != 2 || sent[0].Route.TenantID == sent[1].Route.TenantID {
		t.Errorf("sent: %+v", sent)
	}
	if status := value[string](t, w.A, "SELECT status FROM public.outbox"); status != "sent" {
		t.Errorf("in the end it is %s", status)
	}
}
