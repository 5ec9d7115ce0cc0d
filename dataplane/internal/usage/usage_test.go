package usage_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/dataplane/internal/usage"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

// flaky loses answers: after the statement has taken effect, or before it was sent.
type flaky struct {
	pg.Querier

	after, before int
}

var errLost = errors.New("the answer is lost")

func (f *flaky) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if f.before > 0 {
		f.before--
		return pgconn.CommandTag{}, errLost
	}
	tag, err := f.Querier.Exec(ctx, sql, args...)
	if f.after > 0 {
		f.after--
		return tag, errLost
	}
	return tag, err
}

// What was counted arrives once, whatever becomes of the reports.
func TestWhatIsCountedArrivesOnce(t *testing.T) {
	t.Parallel()
	f := tenanttest.New(t)
	address := f.Control(t, f.A, f.B)
	control := testdb.Connect(t, address)
	lossy := &flaky{Querier: testdb.Connect(t, tenanttest.WithRole(address, migrations.NodeRole))}
	c := usage.New(lossy, "n-1", slog.New(slog.DiscardHandler))
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 100 {
				c.Add(f.A.ID, usage.Sum{Requests: 1, Errors: 1})
				c.Add(f.B.ID, usage.Sum{Requests: 1, Logins: 1})
			}
		})
	}
	group.Wait()
	lossy.before = 1
	if err := c.Report(t.Context()); !errors.Is(err, errLost) {
		t.Errorf("not sent: %v", err)
	}
	c.Add(f.A.ID, usage.Sum{Requests: 5})
	lossy.after = 2
	for range 2 {
		if err := c.Report(t.Context()); !errors.Is(err, errLost) {
			t.Errorf("sent, and not answered: %v", err)
		}
	}
	for range 2 {
		if err := c.Report(t.Context()); err != nil {
			t.Error(err)
		}
	}
	for id, want := range map[uuid.UUID][3]int64{f.A.ID: {405, 400, 0}, f.B.ID: {400, 0, 400}} {
		var got [3]int64
		err := control.QueryRow(t.Context(), "SELECT sum(requests)::bigint, sum(errors)::bigint, sum(logins)::bigint FROM control.usage_hours WHERE tenant_id = $1", id).Scan(&got[0], &got[1], &got[2])
		if err != nil || got != want {
			t.Errorf("%v, want %v; %v", got, want, err)
		}
	}
	var nobody *usage.Counter
	nobody.Add(f.A.ID, usage.Sum{Requests: 1})
}
