package tenantpool_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ouvira/ouvira/dataplane/internal/tenantpool"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/budget"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
)

// fleet is several nodes that lease their shares of one server's budget in one
// control database.
type fleet struct {
	*tenanttest.Fixture

	name    string // begins the names of all its nodes
	admin   *pgx.Conn
	control *pgxpool.Pool // as a node
	tenants []tenanttest.Tenant
}

func newFleet(t *testing.T, size int) *fleet {
	t.Helper()
	f := &fleet{Fixture: tenanttest.New(t), name: "f" + uuid.NewString()[:8]}
	f.Server.MaxConnections = size // nobody has seen it yet
	f.tenants = []tenanttest.Tenant{f.A, f.B}
	address := f.Control(t, f.tenants...)
	f.admin = testdb.Connect(t, address)
	var err error
	f.control, err = pgxpool.New(t.Context(), tenanttest.WithRole(address, migrations.NodeRole))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.control.Close)
	return f
}

// wire is a node's way to the control database, which can be cut.
type wire struct {
	pg.Querier

	cut atomic.Bool
}

var errCut = errors.New("the control database is away")

type noRow struct{}

func (noRow) Scan(...any) error { return errCut }

func (w *wire) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if w.cut.Load() {
		return pgconn.CommandTag{}, errCut
	}
	return w.Querier.Exec(ctx, sql, args...)
}

func (w *wire) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if w.cut.Load() {
		return noRow{}
	}
	return w.Querier.QueryRow(ctx, sql, args...)
}

// process is a node of the fleet.
type process struct {
	fleet *fleet
	wire  *wire
	lease *budget.Lease
	pools *tenantpool.Pools

	served atomic.Int64
	silent atomic.Int64 // ns by which it was not heard of for longer than it was

	stop  func() // leasing
	ended sync.Once
}

// turned is the lease of a process whose clock the test turns on.
type turned struct {
	*budget.Lease

	by *atomic.Int64
}

func (l turned) Age() time.Duration { return l.Lease.Age() + time.Duration(l.by.Load()) }

// unheard has the process not heard of for 20 s more, as both sides see it.
func (p *process) unheard(t *testing.T) {
	t.Helper()
	p.silent.Add(int64(20 * time.Second))
	p.fleet.exec(t, "UPDATE control.instances SET last_seen_at = clock_timestamp() - interval '20 s' WHERE id = $1", p.lease.Instance())
}

func (f *fleet) start(t *testing.T, name string, adjust ...func(*budget.Options, *wire)) *process {
	t.Helper()
	p := &process{fleet: f, wire: &wire{Querier: f.control}}
	o := budget.Options{DB: p.wire, Member: f.name + "-" + name, Kind: budget.Node, Share: 1, Every: 100 * time.Millisecond}
	for _, fn := range adjust {
		fn(&o, p.wire)
	}
	var err error
	if p.lease, err = budget.New(o); err != nil {
		t.Fatal(err)
	}
	p.pools, err = tenantpool.New(tenantpool.Options{NodeID: o.Member, Budget: turned{p.lease, &p.silent}, Routes: f.Table, Key: f.Key, Wait: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	p.lease.Attach(p.pools)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { p.lease.Run(ctx); close(done) }()
	p.stop = func() { cancel(); <-done }
	t.Cleanup(func() { p.end(t, false) })
	return p
}

// end closes the process's connections, as its death does; in order, it also
// gives its share back.
func (p *process) end(t *testing.T, inOrder bool) {
	t.Helper()
	p.ended.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if !inOrder {
			p.stop()
		}
		if err := p.pools.Close(ctx); err != nil {
			t.Errorf("the pools do not close: %v", err)
		}
		if inOrder {
			p.stop()
			if err := p.lease.Close(ctx); err != nil {
				t.Error(err)
			}
		}
	})
}

func (p *process) limit() int { return p.lease.Limit(p.fleet.Server.ID, 1000) }

// use is one request.
func (p *process) use(ctx context.Context, tenant tenanttest.Tenant) error {
	l, err := p.pools.Lease(ctx, tenant.Route)
	if err != nil {
		return err
	}
	defer l.Release()
	_, err = l.Exec(ctx, "SELECT pg_sleep(0.005)")
	return err
}

// work keeps the process busy until the returned function is called.
func (p *process) work(workers int) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for ctx.Err() == nil {
				if p.use(ctx, p.fleet.tenants[rand.IntN(len(p.fleet.tenants))]) == nil {
					p.served.Add(1)
				}
			}
		})
	}
	return func() {
		cancel()
		group.Wait()
	}
}

// reclaim does what a worker of the control plane does with an instance that is
// not heard of any more.
func (f *fleet) reclaim(t *testing.T, instance string) {
	t.Helper()
	conn := testdb.Connect(t, f.SuperuserDB)
	f.exec(t, "UPDATE control.instances SET expelled_at = clock_timestamp() WHERE id = $1", instance)
	if err := budget.Expel(t.Context(), conn, instance); err != nil {
		t.Fatal(err)
	}
	for empty := 0; empty < 2; empty++ {
		found, err := budget.Terminate(t.Context(), conn, instance)
		if err != nil {
			t.Fatal(err)
		}
		if found > 0 {
			empty = -1
		}
	}
	f.exec(t, "DELETE FROM control.shares WHERE instance_id = $1", instance)
	_ = conn.Close(t.Context())
}

func (f *fleet) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := f.admin.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// watch samples the backends of all nodes until the returned function is called.
func (f *fleet) watch(t *testing.T) (highest func() (most, samples int)) {
	t.Helper()
	conn := testdb.Connect(t, f.SuperuserDB)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var most, samples int
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			var count int
			err := conn.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE starts_with(application_name, $1)", "ouvira/"+f.name).Scan(&count)
			if err != nil {
				if ctx.Err() == nil {
					t.Errorf("count backends: %v", err)
				}
				return
			}
			most = max(most, count)
			samples++
		}
	}()
	return func() (int, int) {
		cancel()
		<-done
		return most, samples
	}
}

// Nodes join, leave, die, are cut off, stand still and are expelled, all under
// load: at no sample are there more backends than the budget, and whoever is in
// the fleet is served.
func TestInvariant01AFleetKeepsToTheBudget(t *testing.T) {
	t.Parallel()
	const size = 12 // 11 are given out
	f := newFleet(t, size)
	highest := f.watch(t)
	stop := map[string]func(){}
	join := func(name string) *process {
		p := f.start(t, name)
		stop[name] = p.work(6)
		return p
	}
	one := join("one")
	eventually(t, "the only node has all", func() bool { return one.limit() == 11 })
	two, three := join("two"), join("three")
	even := func(all ...*process) func() bool {
		return func() bool {
			for _, p := range all {
				if p.limit() < 11/len(all) || p.lease.Nodes() != len(all) {
					return false
				}
			}
			return true
		}
	}
	eventually(t, "three nodes that want more than there is share evenly", even(one, two, three))

	eventually(t, "each of them serves", func() bool { return one.served.Load() > 0 && two.served.Load() > 0 && three.served.Load() > 0 })
	stop["three"]()
	three.end(t, true)
	eventually(t, "the others have what was given back in order", even(one, two))

	// A death: nobody has what it held until it is taken back.
	stop["two"]()
	was := two.lease.Instance()
	two.end(t, false)
	again := join("two again")
	eventually(t, "the next one gets its part of what is left", func() bool { return again.limit() > 0 })
	var dead int // what it held in the end: without work it had begun to give some up
	if err := f.admin.QueryRow(t.Context(), "SELECT granted FROM control.shares WHERE instance_id = $1", was).Scan(&dead); err != nil || dead == 0 {
		t.Fatalf("a dead node holds %d: %v", dead, err)
	}
	if one.limit()+again.limit() > 11-dead {
		t.Errorf("%d and %d, while a dead node's %d are not taken back", one.limit(), again.limit(), dead)
	}
	two.unheard(t)
	f.reclaim(t, was)
	eventually(t, "the others have what was taken back", even(one, again))

	// Cut off, and at work all the same, until its share is taken back.
	one.wire.cut.Store(true)
	was = one.lease.Instance()
	kept := one.limit()
	for range 5 {
		if err := one.use(t.Context(), f.A); err != nil {
			t.Errorf("a node that is cut off: %v", err)
		}
	}
	if one.limit() != kept {
		t.Errorf("a node that is cut off has %d, had %d", one.limit(), kept)
	}
	one.unheard(t)
	f.reclaim(t, was)
	eventually(t, "the other has all", func() bool { return again.limit() == 11 })
	eventually(t, "the expelled one knows it", func() bool { return one.limit() == 0 })
	one.wire.cut.Store(false)
	one.silent.Store(0)
	eventually(t, "it comes back as another", func() bool { return one.lease.Instance() != was && one.limit() >= 5 })

	before := one.served.Load()
	eventually(t, "and serves", func() bool { return one.served.Load() > before })
	stop["one"]()
	stop["two again"]()
	if most, samples := highest(); most > size || most == 0 {
		t.Errorf("%d backends were open, the budget is %d", most, size)
	} else {
		t.Logf("at most %d backends in %d samples", most, samples)
	}
}

// Shares follow demand: the busy node has nearly all within a few seconds, and
// gives way as fast.
func TestInvariant01SharesFollowTheLoad(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 22) // 20 are given out
	one, two := f.start(t, "one"), f.start(t, "two")
	eventually(t, "idle nodes share evenly", func() bool { return one.limit() == 10 && two.limit() == 10 })
	stop := one.work(30) // 5 for each tenant: the caps are 10, of two nodes
	eventually(t, "the busy one has more", func() bool { return one.limit() > 12 || one.pools.Demands()[f.Server.ID].Wanted <= 10 })
	stop()
	stop = two.work(30)
	eventually(t, "the other has its part", func() bool { return two.limit() >= 10 })
	stop()
	eventually(t, "idle nodes share evenly again", func() bool { return one.limit()+two.limit() == 20 && one.limit() >= 5 && two.limit() >= 5 })
}

// Without the control database a node keeps its share over a restart, and what
// it was is still it when the control database is back.
func TestInvariant10AShareOutlivesTheNode(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 22)
	file := filepath.Join(t.TempDir(), "shares")
	away := func(o *budget.Options, w *wire) { o.File, o.Sealer = file, f.Key; w.cut.Store(true) }
	there := func(o *budget.Options, _ *wire) { o.File, o.Sealer = file, f.Key }

	first := f.start(t, "one", there)
	eventually(t, "it has all", func() bool { return first.limit() == 20 })
	other := f.start(t, "two")
	eventually(t, "it has half", func() bool { return first.limit() == 10 && other.limit() == 10 })
	instance := first.lease.Instance()
	first.end(t, false) // killed; but for its lock, which this process still holds
	left, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "shares")
	if err := os.WriteFile(file, left, 0o600); err != nil {
		t.Fatal(err)
	}

	other.wire.cut.Store(true)
	second := f.start(t, "one", away)
	eventually(t, "the next one has the same", func() bool { return second.limit() == 10 })
	if second.lease.Instance() != instance || second.lease.Nodes() != 2 {
		t.Errorf("instance %s, want %s; %d nodes", second.lease.Instance(), instance, second.lease.Nodes())
	}
	for _, tenant := range f.tenants {
		if err := second.use(t.Context(), tenant); err != nil {
			t.Error(err)
		}
	}
	second.end(t, true) // in order, and nobody hears it

	begun := time.Now()
	third := f.start(t, "one", away)
	eventually(t, "one that follows an end in order need not wait", func() bool { return third.limit() == 10 })
	t.Logf("after %v", time.Since(begun))
	third.wire.cut.Store(false)
	other.wire.cut.Store(false)
	eventually(t, "the control database hears of it again", func() bool { return third.lease.Age() < time.Second })
	if third.lease.Instance() != instance {
		t.Error("it is another instance")
	}
	third.end(t, true)
	eventually(t, "what it gave back in order is the other's", func() bool { return other.limit() == 20 })
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was given back can be come back with: %v", err)
	}
}

// Two processes never are one instance, and a limit that the file still says is
// not given up.
func TestInvariant10TheFileBindsItsProcess(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 22)
	dir := filepath.Join(t.TempDir(), "state")
	with := func(o *budget.Options, _ *wire) { o.File, o.Sealer = filepath.Join(dir, "shares"), f.Key }
	first := f.start(t, "one", with)
	eventually(t, "it has all", func() bool { return first.limit() == 20 })
	second := f.start(t, "one", with)
	eventually(t, "a second process of the name has its own part", func() bool { return first.limit() == 10 && second.limit() == 10 })
	if first.lease.Instance() == second.lease.Instance() {
		t.Error("two processes are one instance")
	}
	second.end(t, true)
	eventually(t, "the first has all again", func() bool { return first.limit() == 20 })
	reports := func() (sequence int) {
		if err := f.admin.QueryRow(t.Context(), "SELECT sequence FROM control.instances WHERE id = $1", first.lease.Instance()).Scan(&sequence); err != nil {
			t.Fatal(err)
		}
		return sequence
	}
	reported := func() {
		t.Helper()
		was := reports()
		eventually(t, "another report", func() bool { return reports() > was })
	}
	reported() // a limit is in the file before the next report is made

	// The disk takes nothing any more: the file says 20 whatever comes.
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	third := f.start(t, "three")
	eventually(t, "the first keeps to less", func() bool { return first.limit() == 10 })
	var granted int
	for range 5 {
		reported()
		if err := f.admin.QueryRow(t.Context(), "SELECT granted FROM control.shares WHERE instance_id = $1", first.lease.Instance()).Scan(&granted); err != nil || granted != 20 {
			t.Fatalf("%d are reserved, the file says 20: %v", granted, err)
		}
	}
	if third.limit() != 0 {
		t.Errorf("another was given %d of what a restart may come back with", third.limit())
	}
	if err := errors.Join(os.Remove(dir), os.Rename(dir+".away", dir)); err != nil {
		t.Fatal(err)
	}
	first.work(1)()
	f.exec(t, "UPDATE control.servers SET max_connections = 20 WHERE id = $1", f.Server.ID) // anything that changes a limit
	eventually(t, "it is given up when the file says so", func() bool { return third.limit() > 0 })
}
