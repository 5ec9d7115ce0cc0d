package routingtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/seal"
)

const (
	domain       = "localhost"
	serverBudget = 12 // of each place, for all nodes
	margin       = 1  // of it, which is not given out
	tenantCap    = 10
	mostClients  = 6
	stranger     = "nobody" // an address that never leads anywhere
)

// world is all that a run consists of.
type world struct {
	*history

	name    string // of the run; the nodes' begin with it
	places  []*place
	nodes   []*node
	control *pgxpool.Pool // the control plane's side
	node    string        // URL of the nodes' side
	key     *seal.DataKey
	public  *seal.PublicKey
	slots   []*slot // those of history, in order
	entries atomic.Int64

	mu       sync.Mutex
	failures []string
	sampled  atomic.Int64
}

// newWorld makes so many nodes and tenants; all goes with the test.
func newWorld(t *testing.T, places []*place, nodes, tenants int) *world {
	t.Helper()
	w := &world{history: newHistory(), name: "m" + token()[:8], places: places}
	dir := t.TempDir()
	must(t, seal.GenerateDataKey(filepath.Join(dir, "data.key"), filepath.Join(dir, "data.pub")))
	var err error
	w.key, err = seal.LoadDataKey(filepath.Join(dir, "data.key"))
	must(t, err)
	w.public, err = seal.LoadPublicKey(filepath.Join(dir, "data.pub"))
	must(t, err)
	w.openControl(t)
	for i := range tenants {
		s := &slot{slug: fmt.Sprintf("tenant-%d", i), states: []state{{kind: absent}}}
		w.slots = append(w.slots, s)
		w.history.slots[s.slug] = s
		must(t, w.create(t.Context(), s, newDatabase(places[i%len(places)], newID(t), 1)))
	}
	w.history.slots[stranger] = &slot{slug: stranger, states: []state{{kind: absent}}}
	for i := range nodes {
		w.addNode(t, fmt.Sprintf("%s-%d", w.name, i), filepath.Join(dir, fmt.Sprintf("routes-%d", i)))
	}
	t.Cleanup(func() { w.dropAll(t) })
	return w
}

// openControl makes a control database that knows the places.
func (w *world) openControl(t *testing.T) {
	t.Helper()
	servers := make([]*route.Server, len(w.places))
	for i, p := range w.places {
		servers[i] = &route.Server{ID: p.id, Name: fmt.Sprintf("place-%d", i), Host: p.host, Port: p.port, TLSMode: "disable", MaxConnections: serverBudget}
	}
	fixture := tenanttest.Fixture{Server: servers[0]}
	fixture.A.Route = &route.Route{MaxConnections: tenantCap}
	address := fixture.Control(t)
	w.node = tenanttest.WithRole(address, migrations.NodeRole)
	config, err := pgxpool.ParseConfig(address)
	must(t, err)
	config.MaxConns = 4
	w.control, err = pgxpool.NewWithConfig(context.Background(), config)
	must(t, err)
	t.Cleanup(w.control.Close)
	for i, s := range servers[1:] {
		_, err := w.control.Exec(t.Context(), `INSERT INTO control.servers (id, name, host, port, tls_mode, max_databases, max_connections, system_identifier, postgres_version, provisioner_credential)
			VALUES ($1, $2, $3, $4, 'disable', 1000, $5, $6, 150000, '')`, s.ID, s.Name, s.Host, s.Port, s.MaxConnections, i+2)
		must(t, err)
		_, err = w.control.Exec(t.Context(), "SELECT control.publish_server($1)", s.ID)
		must(t, err)
	}
	_, err = w.control.Exec(t.Context(), `INSERT INTO control.plans (id, code, name, max_connections, statement_timeout_ms)
		SELECT gen_random_uuid(), 'other', 'Other', max_connections, statement_timeout_ms + 1 FROM control.plans WHERE code = 'standard'`)
	must(t, err)
}

func (w *world) addNode(t *testing.T, id, snapshot string) {
	t.Helper()
	u, err := url.Parse(w.node)
	must(t, err)
	n := &node{id: id, key: w.key, snapshot: snapshot, proxy: newProxy(t, u.Host)}
	u.Host = n.proxy.address()
	n.control = u.String()
	must(t, n.start())
	w.nodes = append(w.nodes, n)
	t.Cleanup(n.proxy.close)
	t.Cleanup(func() {
		if err := n.process.stop(); err != nil {
			t.Errorf("node %s does not end: %v", n.id, err)
		}
		for _, p := range w.places {
			err := eventually(context.Background(), 30*time.Second, func(ctx context.Context) error { return p.none(ctx, "ouvira/"+n.id) })
			if err != nil {
				t.Errorf("node %s: %v", n.id, err)
			}
		}
	})
	must(t, w.caughtUp(t.Context(), n))
}

// none fails while the application has a backend.
func (p *place) none(ctx context.Context, application string) error {
	var count int
	err := p.admin.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE starts_with(application_name, $1)", application).Scan(&count)
	if err == nil && count > 0 {
		err = fmt.Errorf("%d backends are left", count)
	}
	return err
}

// caughtUp waits until the node knows what was committed before the call, and
// has a part of each budget.
func (w *world) caughtUp(ctx context.Context, n *node) error {
	err := eventually(ctx, patience, func(ctx context.Context) error {
		for _, p := range w.places {
			if n.process.lease.Limit(p.id, serverBudget) == 0 {
				return errors.New("it has leased nothing")
			}
		}
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		return n.process.dir.Refresh(ctx, 0)
	})
	if err != nil {
		return fmt.Errorf("node %s does not catch up: %w", n.id, err)
	}
	return nil
}

// dropAll drops the tenants' databases that are left.
func (w *world) dropAll(t *testing.T) {
	ctx := context.Background()
	for _, s := range w.slots {
		if db := s.states[len(s.states)-1].db; db != nil {
			if err := db.drop(ctx); err != nil {
				t.Errorf("clean up: %v", err)
			}
		}
	}
}

// fail keeps what broke a promise; there may be many of one cause.
func (w *world) fail(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failures = append(w.failures, fmt.Sprintf(format, args...))
}

func (w *world) failed() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failures
}

// serve lets clients ask until the tokens end; each token is a request.
func (w *world) serve(seed uint64, tokens <-chan struct{}) (wait func()) {
	var clients sync.WaitGroup
	for i := range mostClients {
		c := &client{random: rand.New(rand.NewPCG(seed, uint64(i+1))), history: w.history, entries: &w.entries, wrote: map[uuid.UUID]int64{}}
		clients.Go(func() {
			for range tokens {
				slug := stranger
				if at := c.random.IntN(10*len(w.slots) + 1); at < 10*len(w.slots) {
					slug = w.slots[at/10].slug
				}
				a := c.ask(w.nodes[c.random.IntN(len(w.nodes))], slug)
				if what := w.wrong(a); what != "" {
					w.fail("%s at %s, from %d to %d: %q (%v): %s", a.slug, a.node, a.from, a.to, a.code, a.err, what)
				}
			}
		})
	}
	return clients.Wait
}

// watch samples the backends of all nodes until the returned function is
// called.
func (w *world) watch(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	for i, p := range w.places {
		conn, err := pgx.Connect(ctx, p.url)
		must(t, err)
		watching.Go(func() {
			defer conn.Close(context.Background())
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				count, err := crowd(ctx, conn, "ouvira/"+w.name)
				if err != nil {
					if ctx.Err() == nil {
						w.fail("count the backends of place %d: %v", i, err)
					}
					return
				}
				w.sampled.Add(1)
				if count > serverBudget-margin {
					w.fail("the nodes have %d backends at place %d, of whose budget %d are given out", count, i, serverBudget-margin)
				}
			}
		})
	}
	return func() {
		cancel()
		watching.Wait()
	}
}

// mended tries each tenant at each node until it is served.
func (w *world) mended(ctx context.Context) error {
	for _, n := range w.nodes {
		for _, s := range w.slots {
			want := w.last(s).db
			err := eventually(ctx, patience, func(ctx context.Context) error {
				c := &client{history: w.history, wrote: map[uuid.UUID]int64{}}
				var a answer
				a.slug = s.slug
				var reached uuid.UUID
				code, err := c.work(ctx, n.process, &a, 0, &reached)
				if code != served {
					return fmt.Errorf("%s at %s: %s: %w", s.slug, n.id, code, err)
				}
				if a.tenant != want.tenant || a.incarnation != want.incarnation {
					return fmt.Errorf("%s at %s: served from incarnation %d of %s, want %d of %s", s.slug, n.id, a.incarnation, a.tenant, want.incarnation, want.tenant)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// report fails the test with what was found, and what led there.
func (w *world) report(t *testing.T) {
	t.Helper()
	failures := w.failed()
	if len(failures) == 0 {
		return
	}
	t.Errorf("%d promises were broken, the first of them:\n%s\n\nwhat the operator did:\n%s",
		len(failures), strings.Join(failures[:min(10, len(failures))], "\n"), w.recent(40))
}

func newID(t testing.TB) uuid.UUID {
	t.Helper()
	id, err := uuid.NewV7()
	must(t, err)
	return id
}
