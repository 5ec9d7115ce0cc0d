package e2e

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ouvira/ouvira/deploy/stack"
)

const (
	// linger is how long the nodes of the shared stack serve after SIGTERM:
	// many looks of the balancer, on a slow machine too.
	linger = time.Second
	look   = 50 * time.Millisecond
	// pace is a worker's time from one request to the next: a crowd of workers
	// shall load the machine without filling it.
	pace = 10 * time.Millisecond
)

// balancer stands before the nodes as an installation's does: it looks at their
// readiness, and sends new connections to those that are ready.
type balancer struct {
	nodes []string // addresses
	ready []atomic.Bool
	turn  atomic.Int64
}

func newBalancer(t *testing.T, s *stack.Stack) *balancer {
	t.Helper()
	b := &balancer{ready: make([]atomic.Bool, len(s.Ports().Data))}
	ctx, stop := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	for i, port := range s.Ports().Data {
		b.nodes = append(b.nodes, net.JoinHostPort("127.0.0.1", fmt.Sprint(port)))
		internal := s.InternalURL(stack.DataNode(i))
		b.ready[i].Store(isReady(ctx, internal))
		watching.Go(func() {
			tick := time.NewTicker(look)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					b.ready[i].Store(isReady(ctx, internal))
				}
			}
		})
	}
	t.Cleanup(func() { stop(); watching.Wait() })
	return b
}

// sends waits until new connections may lead to the node: whoever stops the other one
// before has none.
func (b *balancer) sends(t *testing.T, node int) {
	t.Helper()
	eventually(t, time.Minute, func() (bool, string) {
		return b.ready[node].Load(), fmt.Sprintf("the balancer sends nobody to node %d", node)
	})
}

func isReady(ctx context.Context, internal string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, internal+"/readyz", http.NoBody)
	if err != nil {
		return false
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// dial is what a client's new connection leads to.
func (b *balancer) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	first := int(b.turn.Add(1))
	for i := range b.nodes {
		node := (first + i) % len(b.nodes)
		if !b.ready[node].Load() {
			continue
		}
		var d net.Dialer
		if conn, err := d.DialContext(ctx, network, b.nodes[node]); err == nil {
			return conn, nil
		}
	}
	return nil, errors.New("no node is ready")
}

// client keeps its connections, as an app does.
func (b *balancer) client() *http.Client {
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DialContext: b.dial, MaxIdleConns: 100, MaxIdleConnsPerHost: 100,
	}}
}

// load is an app's users at work in one tenant: they read, they write, and they
// keep a journal of what was acknowledged.
type load struct {
	app     stack.API
	prefix  string
	retries int // of a request that got no answer, or 5xx, under the same key

	cancel context.CancelFunc
	work   sync.WaitGroup

	mu     sync.Mutex
	acked  []string // names of companies whose creation was answered with 201
	failed []string
	served int
	worst  time.Duration
}

// work starts the workers. retries is 0 for clients to whom every failure
// shows, more for those that try again with the same idempotency key.
func work(t *testing.T, app stack.API, slug string, workers, retries int) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{app: app, prefix: slug, retries: retries, cancel: cancel}
	run := rand.Text()[:8] // several tests may be at work in one tenant, one after the other
	for worker := range workers {
		l.work.Go(func() {
			tick := time.NewTicker(pace)
			defer tick.Stop()
			for n := 0; ctx.Err() == nil; n++ {
				name := fmt.Sprintf("%s %s-%d-%d", slug, run, worker, n)
				if n%2 == 0 {
					l.ask(ctx, http.StatusOK, http.MethodGet, "/account/me", nil, name)
				} else if l.ask(ctx, http.StatusCreated, http.MethodPost, "/company", map[string]string{"name": name}, name) {
					l.mu.Lock()
					l.acked = append(l.acked, name)
					l.mu.Unlock()
				}
				select {
				case <-ctx.Done():
				case <-tick.C:
				}
			}
		})
	}
	t.Cleanup(func() { l.stop() })
	return l
}

// ask makes one request. What is under way when the load stops is finished.
func (l *load) ask(ctx context.Context, want int, method, path string, body any, key string) bool {
	ctx = context.WithoutCancel(ctx)
	app := l.app
	if body != nil && l.retries > 0 {
		app.Header = http.Header{"Idempotency-Key": {key}}
	}
	begun := time.Now()
	var why string
	for try := 0; ; try++ {
		answer, err := app.Call(ctx, method, path, body)
		if err == nil && answer.Status == want {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.served++
			l.worst = max(l.worst, time.Since(begun))
			return true
		}
		if why = answer.String(); err != nil {
			why = err.Error()
		}
		if try == l.retries || (err == nil && answer.Status < http.StatusInternalServerError) {
			break
		}
		time.Sleep(2 * look) //nolint:forbidigo // a client that tries again waits a little
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = append(l.failed, fmt.Sprintf("%s %s after %v: %s", method, path, time.Since(begun).Round(time.Millisecond), why))
	return false
}

func (l *load) stop() {
	l.cancel()
	l.work.Wait()
}

func (l *load) count() (served, failed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.served, len(l.failed)
}

// more waits until that many further requests have been served.
func (l *load) more(t *testing.T, n int) {
	t.Helper()
	before, _ := l.count()
	eventually(t, time.Minute, func() (bool, string) {
		now, failed := l.count()
		return now >= before+n, fmt.Sprintf("%s: %d requests of %d were served, %d have failed: %s", l.prefix, now-before, n, failed, l.last())
	})
}

func (l *load) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.failed[max(0, len(l.failed)-3):], "\n")
}

// flawless fails the test for each request that failed.
func (l *load) flawless(t *testing.T) {
	t.Helper()
	if served, failed := l.count(); failed > 0 || served == 0 {
		t.Errorf("%s: %d requests were served, %d failed, the last of them:\n%s", l.prefix, served, failed, l.last())
	}
}

// replay looks for the journal in the tenant's database: all that was
// acknowledged is there, once, and nothing of another tenant.
func (l *load) replay(t *testing.T, database string) {
	t.Helper()
	l.stop()
	there := map[string]int{}
	for _, name := range column[string](t, database, "SELECT name::text FROM companies") {
		there[name]++
		if strings.Contains(name, " ") && !strings.HasPrefix(name, l.prefix+" ") && !strings.HasPrefix(name, "Company ") {
			t.Errorf("%s has a company of another tenant: %s", l.prefix, name)
		}
	}
	if len(l.acked) == 0 {
		t.Errorf("%s: nothing was acknowledged", l.prefix)
	}
	var lost []string
	for _, name := range l.acked {
		if there[name] == 0 {
			lost = append(lost, name)
		}
		if there[name] > 1 {
			t.Errorf("%s was done %d times", name, there[name])
		}
	}
	if len(lost) > 0 {
		slices.Sort(lost)
		t.Errorf("%s: %d of %d acknowledged writes are lost: %v", l.prefix, len(lost), len(l.acked), lost[:min(10, len(lost))])
	}
	t.Logf("%s: %d requests were served, %d writes acknowledged and found, %d failed, the slowest took %v",
		l.prefix, l.served, len(l.acked), len(l.failed), l.worst.Round(time.Millisecond))
}

// tenant signs a customer up, logs the owner in, and gives the app that works
// for it through the balancer.
func tenant(t *testing.T, s *stack.Stack, b *balancer, slug string) stack.API {
	t.Helper()
	c := signUp(t, s, slug)
	eventually(t, recovery, func() (bool, string) {
		got := c.state(t.Context(), s)
		return got.Status == "active", got.Status + " " + got.Reason
	})
	app := c.login(t, s, 0)
	c.login(t, s, 1)
	return through(b, app)
}

// through sends an app's requests to the balancer.
func through(b *balancer, app stack.API) stack.API {
	app.Base, app.Client = "http://nodes", b.client()
	return app
}
