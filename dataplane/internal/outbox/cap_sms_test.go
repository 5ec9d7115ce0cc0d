package outbox_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/testdb"
)

// flood asks for an SMS to each number, over several connections as several
// nodes would, and counts what is taken.
func flood(t *testing.T, w *world, tenant tenanttest.Tenant, r *route.Route, numbers []string) (taken int) {
	t.Helper()
	const nodes = 4
	var mu sync.Mutex
	var wait sync.WaitGroup
	for node := range nodes {
		conn := testdb.Connect(t, tenant.AdminURL)
		wait.Go(func() {
			defer conn.Close(t.Context())
			for i := node; i < len(numbers); i += nodes {
				err := pg.InTx(t.Context(), conn, func(tx pgx.Tx) error {
					return outbox.NewQueue(r, w.Key).Add(t.Context(), tx, smsTo(numbers[i]))
				})
				var refused *fault.Error
				switch {
				case err == nil:
					mu.Lock()
					taken++
					mu.Unlock()
				case !errors.As(err, &refused) || refused.Kind != fault.KindRateLimited || refused.EffectiveCode() != "sms_cap" || refused.Wait <= 0:
					t.Errorf("refused by %v", err)
				}
			}
		})
	}
	wait.Wait()
	return taken
}

func TestSec25RotatingNumbersStayWithinTheCaps(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := *w.A.Route
	r.Settings.Limits = nil // as by default
	var near, far []string
	for i := range 500 {
		near = append(near, fmt.Sprintf("+4917%07d", i))               // one prefix
		far = append(far, fmt.Sprintf("+%d2%03d55501", 44+i%2, 100+i)) // many
	}
	if taken := flood(t, w, w.A, &r, near); taken != route.LimitSMSPerPrefix.Count {
		t.Errorf("%d SMS to one prefix", taken)
	}
	left := route.LimitSMSPerDay.Count - route.LimitSMSPerPrefix.Count
	if taken := flood(t, w, w.A, &r, far); taken != left {
		t.Errorf("%d more SMS of the tenant, want %d", taken, left)
	}
	if n := value[int64](t, w.A, "SELECT count(*) FROM public.outbox"); n != int64(route.LimitSMSPerDay.Count) {
		t.Errorf("%d SMS wait to be sent", n)
	}
	// Another day, and another tenant with a plan of its own.
	exec(t, w.A, "UPDATE public.sms_counts SET day = day - 1")
	if taken := flood(t, w, w.A, &r, near[:4]); taken != 4 {
		t.Errorf("%d SMS on the next day", taken)
	}
	b := *w.B.Route
	b.Settings.Limits = map[string]int{route.LimitSMSPerDay.Name: 7, route.LimitSMSPerPrefix.Name: 3}
	if taken := flood(t, w, w.B, &b, near[:20]); taken != 3 {
		t.Errorf("%d SMS of B to one prefix", taken)
	}
	if taken := flood(t, w, w.B, &b, far[:20]); taken != 4 {
		t.Errorf("%d more SMS of B", taken)
	}
}
