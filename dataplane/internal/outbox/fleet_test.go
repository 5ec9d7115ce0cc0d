package outbox_test

import (
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/testdb"
)

// fleetOf is a control database that routes to the tenants; node is its
// connection as a node has one.
func fleetOf(t *testing.T, w *world) (control *pgx.Conn, node func() *pgx.Conn) {
	t.Helper()
	address := w.Control(t, w.A, w.B)
	return testdb.Connect(t, address), func() *pgx.Conn {
		return testdb.Connect(t, tenanttest.WithRole(address, migrations.NodeRole))
	}
}

func TestANodeThatDiedIsSweptByTheOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	control, node := fleetOf(t, w)
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := control.Exec(t.Context(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	exec("SELECT node.heartbeat(id, 'node', 0.1, NULL, NULL, 1) FROM unnest('{dead,alive,sweeper}'::text[]) id")
	exec("INSERT INTO control.sweeps (tenant_id) SELECT id FROM control.tenants") // the slow sweep is not what is tested
	report := func(id string, tenants ...uuid.UUID) {
		t.Helper()
		if err := outbox.NewControlFleet(node(), id).ReportServed(t.Context(), tenants); err != nil {
			t.Fatal(err)
		}
	}
	report("dead", w.A.ID, uuid.New()) // one that has gone meanwhile
	report("alive", w.B.ID)
	w.add(t, w.A, mailTo("a@acme.example"))
	w.add(t, w.B, mailTo("b@globex.example"))
	sweeper := outbox.NewControlFleet(node(), "sweeper")
	if orphans, err := sweeper.Orphaned(t.Context(), 10); err != nil || len(orphans) != 0 {
		t.Fatalf("while all are alive: %v, %v", orphans, err)
	}
	exec("UPDATE control.members SET last_seen_at = now() - interval '31 s' WHERE id = 'dead'")
	d := w.drainer(t, sweeper)
	untilStatus(t, w.A, "sent", 1)
	d.stop()
	if sent := w.email.all(); len(sent) != 1 || sent[0].Route.TenantID != w.A.ID {
		t.Errorf("sent: %+v", sent)
	}
	// It is the sweeper's now, and orphaned again if that dies too.
	exec("UPDATE control.members SET last_seen_at = now() - interval '31 s' WHERE id = 'sweeper'")
	orphans, err := outbox.NewControlFleet(node(), "alive").Orphaned(t.Context(), 10)
	if err != nil || !slices.Equal(orphans, []uuid.UUID{w.A.ID}) {
		t.Errorf("of the sweeper: %v, %v", orphans, err)
	}
}

// A node that was killed and is back looks itself after what it had to send: it lives,
// so no other does.
func TestANodeThatIsBackSendsWhatItHasLeft(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	control, node := fleetOf(t, w)
	if _, err := control.Exec(t.Context(), "INSERT INTO control.sweeps (tenant_id) SELECT id FROM control.tenants"); err != nil {
		t.Fatal(err)
	}
	fleet := outbox.NewControlFleet(node(), "killed")
	if err := fleet.ReportServed(t.Context(), []uuid.UUID{w.A.ID}); err != nil {
		t.Fatal(err)
	}
	w.add(t, w.A, mailTo("a@acme.example"))
	d := w.drainer(t, fleet)
	untilStatus(t, w.A, "sent", 1)
	d.stop()
}

func TestTheSlowSweepFindsWhatNobodyReported(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	control, node := fleetOf(t, w)
	w.add(t, w.A, mailTo("a@acme.example"))
	w.add(t, w.B, mailTo("b@globex.example"))
	exec(t, w.B, `INSERT INTO public.outbox (channel, recipient, template, status, finished_at) VALUES
		('email', 'old@globex.example', 'security', 'sent', now() - interval '31 days'),
		('email', 'new@globex.example', 'security', 'dead', now() - interval '29 days')`)
	d := w.drainer(t, outbox.NewControlFleet(node(), "one"))
	untilStatus(t, w.A, "sent", 1)
	until(t, "B is swept and tidied", func() bool {
		return value[string](t, w.B, "SELECT string_agg(recipient || ' ' || status, ', ' ORDER BY recipient) FROM public.outbox") ==
			"b@globex.example sent, new@globex.example dead"
	})
	d.stop()
	if unswept, err := outbox.NewControlFleet(node(), "two").Unswept(t.Context(), 10); err != nil || len(unswept) != 0 {
		t.Errorf("looked at twice within the hour: %v, %v", unswept, err)
	}
	if _, err := control.Exec(t.Context(), "UPDATE control.sweeps SET swept_at = now() - interval '61 min'; UPDATE control.tenants SET status = 'suspended' WHERE slug = 'globex'"); err != nil {
		t.Fatal(err)
	}
	if unswept, err := outbox.NewControlFleet(node(), "two").Unswept(t.Context(), 10); err != nil || !slices.Equal(unswept, []uuid.UUID{w.A.ID}) {
		t.Errorf("an hour later: %v, %v", unswept, err)
	}
}
