package outbox_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/dataplane/internal/tenantpool"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/telemetry"
	"github.com/ouvira/ouvira/shared/testdb"
)

func TestMain(m *testing.M) {
	// The guardian of the test server lives as long as the process.
	testdb.Main(m, func() error {
		return goleak.Find(goleak.IgnoreAnyFunction("github.com/ouvira/ouvira/shared/testdb/guardian.(*guardian).start.func1"))
	})
}

// patience of these tests: what takes longer has failed.
const patience = 15 * time.Second

// channel is a way out that the test holds.
type channel struct {
	mu    sync.Mutex
	sent  []outbox.Outgoing
	reply func(ctx context.Context, m outbox.Outgoing, attempt int) error // nil: everything is taken
	tries map[uuid.UUID]int
	news  chan struct{} // of size 1
}

func newChannel() *channel { return &channel{tries: map[uuid.UUID]int{}, news: make(chan struct{}, 1)} }

func (c *channel) Send(ctx context.Context, m outbox.Outgoing) error {
	c.mu.Lock()
	c.tries[m.ID]++
	attempt := c.tries[m.ID]
	c.sent = append(c.sent, m)
	reply := c.reply
	c.mu.Unlock()
	select {
	case c.news <- struct{}{}:
	default:
	}
	if reply == nil {
		return nil
	}
	return reply(ctx, m, attempt)
}

func (c *channel) all() []outbox.Outgoing {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]outbox.Outgoing(nil), c.sent...)
}

// world is two tenants, and the ways out of their messages.
type world struct {
	*tenanttest.Fixture

	email, sms *channel
	log        *lines
}

// lines is a log that can be read while it is written.
type lines struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{Fixture: tenanttest.New(t), email: newChannel(), sms: newChannel(), log: &lines{}}
}

// drainer is one node's; it runs until stop, or the end of the test.
type drainer struct {
	*outbox.Drainer

	looks *atomic.Int64 // leases it has taken
	stop  func()        // returns when it has ended
}

func (w *world) drainer(t *testing.T, fleet outbox.Fleet) drainer {
	t.Helper()
	pools, err := tenantpool.New(tenantpool.Options{NodeID: "test", Budget: tenanttest.NewBudget(), Routes: w.Table, Key: w.Key})
	if err != nil {
		t.Fatal(err)
	}
	w.Table.Subscribe(pools.RouteChanged)
	var looks atomic.Int64
	d, err := outbox.New(outbox.Options{
		Routes: w.Table, Key: w.Key, Fleet: fleet, SweepEvery: 20 * time.Millisecond, Grace: 5 * time.Second,
		Log:     telemetry.NewLogger(w.log, slog.LevelDebug, "test"),
		Senders: map[outbox.Channel]outbox.Sender{outbox.Email: w.email, outbox.SMS: w.sms},
		Lease: func(ctx context.Context, r *route.Route) (outbox.Lease, error) {
			looks.Add(1)
			lease, err := pools.Background(ctx, r)
			if err != nil {
				return nil, err
			}
			return lease, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		d.Run(ctx)
		close(ended)
	}()
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			<-ended
			if err := pools.Close(context.Background()); err != nil {
				t.Errorf("close the pools: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return drainer{d, &looks, stop}
}

func mailTo(to string) outbox.Message {
	return outbox.Message{Channel: outbox.Email, To: to, Template: outbox.TemplateEmailCode, Values: map[string]string{"code": "424242", "minutes": "30"}}
}

func smsTo(to string) outbox.Message {
	return outbox.Message{Channel: outbox.SMS, To: to, Template: outbox.TemplateOTP, Values: map[string]string{"code": "424242", "minutes": "5"}}
}

// add writes messages as a request would, and commits.
func (w *world) add(t *testing.T, tenant tenanttest.Tenant, messages ...outbox.Message) {
	t.Helper()
	conn := testdb.Connect(t, tenant.AdminURL)
	defer conn.Close(t.Context())
	queue := outbox.NewQueue(tenant.Route, w.Key)
	for _, m := range messages {
		if err := queue.Add(t.Context(), conn, m); err != nil {
			t.Fatal(err)
		}
	}
}

func exec(t *testing.T, tenant tenanttest.Tenant, sql string, args ...any) {
	t.Helper()
	conn := testdb.Connect(t, tenant.AdminURL)
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func value[T any](t *testing.T, tenant tenanttest.Tenant, sql string, args ...any) T {
	t.Helper()
	conn := testdb.Connect(t, tenant.AdminURL)
	defer conn.Close(t.Context())
	var v T
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// until waits for what a drainer does in the background.
func until(t *testing.T, what string, reached func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for !reached() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// untilStatus waits until as many messages of the tenant have the status.
func untilStatus(t *testing.T, tenant tenanttest.Tenant, status string, count int64) {
	t.Helper()
	conn := testdb.Connect(t, tenant.AdminURL)
	defer conn.Close(t.Context())
	until(t, status, func() bool {
		var n int64
		if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM public.outbox WHERE status = $1", status).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n == count
	})
}
