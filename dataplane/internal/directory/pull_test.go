package directory_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/directory"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/testdb"
)

func TestInvariant11ChangesArriveByNotification(t *testing.T) {
	t.Parallel()
	c := newControl(t)
	acme := c.tenant(t, "acme")
	d := run(t, c.options())
	globex := c.tenant(t, "globex")
	eventually(t, "a new tenant is known", func() bool { return finds(d, "globex.localhost", globex) })
	c.exec(t, "UPDATE control.tenants SET status = 'suspended' WHERE id = $1", acme)
	c.publish(t, acme)
	eventually(t, "a suspension is known", func() bool {
		r, _ := d.ByID(acme)
		return fault.Is(directory.Refusal(r), fault.KindForbidden)
	})
	c.exec(t, "UPDATE control.tenants SET status = 'deleted' WHERE id = $1", acme)
	c.exec(t, "SELECT control.publish_route($1, true)", acme)
	eventually(t, "a deletion is known", func() bool {
		_, err := d.Lookup("acme.localhost")
		return fault.Is(err, fault.KindNotFound)
	})
	if _, ok := d.ByID(acme); ok {
		t.Error("a deleted tenant is found by its id")
	}
	// The slug goes to another tenant.
	c.exec(t, "UPDATE control.tenants SET slug = 'acme-gone' WHERE id = $1", acme)
	heir := c.tenant(t, "acme")
	eventually(t, "the slug leads to its new owner", func() bool { return finds(d, "acme.localhost", heir) })
}

// A server's change has a version of its own and reaches all its routes.
func TestAServersChangeReachesItsRoutes(t *testing.T) {
	t.Parallel()
	c := newControl(t)
	id := c.tenant(t, "acme")
	var events atomic.Int64
	d := run(t, c.options(), func(d *directory.Directory) {
		d.Subscribe(func(e directory.Event) {
			if e.Old != nil && e.New != nil && e.Old.PoolKey() != e.New.PoolKey() {
				events.Add(1)
			}
		})
	})
	c.exec(t, "UPDATE control.servers SET host = '10.0.0.7', max_connections = 80")
	c.exec(t, "SELECT control.publish_server($1)", c.server)
	eventually(t, "the route leads to the server's new address", func() bool {
		r, _ := d.ByID(id)
		return r.Server.Host == "10.0.0.7" && r.Server.MaxConnections == 80
	})
	eventually(t, "the subscriber heard of another pool key", func() bool { return events.Load() == 1 })
}

// 32 writers commit in any order, some roll back: no change is missed.
func TestInvariant11ChangesThatCommitOutOfOrder(t *testing.T) {
	t.Parallel()
	const writers, rounds = 32, 20
	c := newControl(t)
	tenants := make([]uuid.UUID, writers)
	for i := range tenants {
		tenants[i] = c.tenant(t, fmt.Sprintf("tenant-%02d", i))
	}
	var disorder atomic.Int64
	d := run(t, c.options(), func(d *directory.Directory) {
		d.Subscribe(func(e directory.Event) {
			if e.Old != nil && e.New.Version <= e.Old.Version {
				disorder.Add(1)
			}
		})
	})
	var group sync.WaitGroup
	final := make([]int64, writers)
	for i, tenant := range tenants {
		conn := testdb.Connect(t, c.adminURL)
		group.Go(func() {
			for round := range rounds {
				committed, err := write(t.Context(), conn, tenant, int64(round+2))
				if err != nil {
					t.Error(err)
					return
				}
				if committed {
					final[i] = int64(round + 2)
				}
			}
		})
	}
	group.Wait()
	eventually(t, "all committed changes are known", func() bool {
		for i, tenant := range tenants {
			if r, ok := d.ByID(tenant); !ok || (final[i] > 0 && r.TokenEpoch != final[i]) {
				return false
			}
		}
		return true
	})
	if disorder.Load() != 0 {
		t.Errorf("a route was replaced by one that is not newer, %d times", disorder.Load())
	}
}

// write changes one tenant, dawdles, and commits or rolls back.
func write(ctx context.Context, conn *pgx.Conn, tenant uuid.UUID, epoch int64) (committed bool, err error) {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return false, err
	}
	if _, err := tx.Exec(ctx, "UPDATE control.tenants SET token_epoch = $2 WHERE id = $1", tenant, epoch); err != nil {
		return false, err
	}
	if _, err := tx.Exec(ctx, "SELECT control.publish_route($1), pg_sleep($2)", tenant, rand.Float64()/500); err != nil {
		return false, err
	}
	if rand.IntN(3) == 0 {
		return false, tx.Rollback(ctx)
	}
	return true, tx.Commit(ctx)
}

// The LISTEN connection is killed again and again while 100 routes change.
func TestInvariant11AKilledListenMissesNothing(t *testing.T) {
	t.Parallel()
	c := newControl(t)
	tenants := make([]uuid.UUID, 100)
	for i := range tenants {
		tenants[i] = c.tenant(t, fmt.Sprintf("tenant-%03d", i))
	}
	d := run(t, c.options())
	kill := func() (n int) {
		err := c.admin.QueryRow(t.Context(), `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
			WHERE datname = $1 AND query LIKE 'LISTEN%'`, c.database).Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	eventually(t, "there is a LISTEN connection to kill", func() bool { return kill() > 0 })
	for i, tenant := range tenants {
		if i%10 == 0 {
			kill()
		}
		c.exec(t, "UPDATE control.tenants SET token_epoch = 2 WHERE id = $1", tenant)
		c.publish(t, tenant)
	}
	eventually(t, "all 100 changes are known, by the pull after the next LISTEN", func() bool {
		for _, tenant := range tenants {
			if r, _ := d.ByID(tenant); r.TokenEpoch != 2 {
				return false
			}
		}
		return true
	})
}

// Nothing is notified at all: the poll finds the change within its second.
func TestInvariant11ThePollIsTheNet(t *testing.T) {
	t.Parallel()
	c := newControl(t)
	id := c.tenant(t, "acme")
	o := c.options()
	o.PollEvery = time.Second
	d := run(t, o)
	c.silently(t, id, "status = 'suspended'")
	begun := time.Now()
	eventually(t, "the poll finds a change without a notice", func() bool {
		r, _ := d.ByID(id)
		return r.Status == route.StatusSuspended
	})
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
}

// 1,000 changes are not 1,000 pulls.
// A row that cannot be read costs its own tenant the service, and nobody else
// the news.
func TestOneBrokenRouteStopsNoOther(t *testing.T) {
	t.Parallel()
	c := newControl(t)
	broken, other := c.tenant(t, "broken"), c.tenant(t, "other")
	c.publish(t, broken)
	c.publish(t, other)
	d := run(t, c.options())
	c.silently(t, broken, `settings = '"no object"'`)
	c.publish(t, broken)
	c.silently(t, other, "status = 'suspended'")
	c.publish(t, other)
	eventually(t, "the suspension of the other tenant", func() bool {
		r, ok := d.ByID(other)
		return ok && r.Status == route.StatusSuspended
	})
	r, ok := d.ByID(broken)
	if !ok || fault.From(directory.Refusal(r)).Kind != fault.KindUnavailable {
		t.Errorf("the broken route is %+v", r)
	}
}

func TestNotificationsAreCoalesced(t *testing.T) {
	t.Parallel()
	const changes = 1000
	c := newControl(t)
	id := c.tenant(t, "acme")
	d := run(t, c.options())
	before := d.Pulls()
	begun := time.Now()
	c.exec(t, fmt.Sprintf(`DO $$ BEGIN
		FOR i IN 1..%d LOOP
			PERFORM control.publish_route('%s');
			COMMIT;
		END LOOP;
	END $$`, changes, id))
	took := time.Since(begun)
	eventually(t, "the last change is known", func() bool {
		r, _ := d.ByID(id)
		return r.Version == changes+2
	})
	// One for each 25 ms, and some slack for those at the edges.
	if pulls, most := d.Pulls()-before, int64(took/(25*time.Millisecond))+5; pulls > most {
		t.Errorf("%d changes in %v cost %d pulls, at most %d are expected", changes, took, pulls, most)
	}
}

// The control database was restored to an earlier state: everything is pulled
// again, and what is not there any more is dropped.
func TestAClockThatRunsBackIsFollowed(t *testing.T) {
	t.Parallel()
	c := newControl(t)
	kept := c.tenant(t, "acme")
	var gone atomic.Int64
	d := run(t, c.options(), func(d *directory.Directory) {
		d.Subscribe(func(e directory.Event) {
			if e.New == nil {
				gone.Add(1)
			}
		})
	})
	lost := c.tenant(t, "globex")
	eventually(t, "both are known", func() bool { _, ok := d.ByID(lost); return ok })
	c.exec(t, "DELETE FROM control.routes WHERE tenant_id = $1", lost)
	c.exec(t, "UPDATE control.tenants SET token_epoch = 9 WHERE id = $1", kept)
	c.exec(t, "UPDATE control.routes SET version = 1")
	c.exec(t, "UPDATE control.servers SET version = 1")
	c.exec(t, "UPDATE control.route_clock SET version = 1")
	if err := d.Refresh(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if _, ok := d.ByID(lost); ok || gone.Load() != 1 {
		t.Errorf("the lost tenant is still known (%v), %d events", ok, gone.Load())
	}
	if r, _ := d.ByID(kept); r == nil || r.TokenEpoch != 9 || r.Version != 1 || d.Version() != 1 {
		t.Errorf("the kept tenant is %+v at version %d", r, d.Version())
	}
	c.tenant(t, "initech")
	eventually(t, "the new history goes on", func() bool { _, ok := d.BySlug("initech"); return ok })
}

func TestRefreshSeesWhatWasCommittedBefore(t *testing.T) {
	t.Parallel()
	c := newControl(t)
	id := c.tenant(t, "acme")
	d := run(t, c.options())
	for epoch := int64(2); epoch < 20; epoch++ {
		c.silently(t, id, "token_epoch = $2", epoch)
		var group sync.WaitGroup
		for range 20 {
			group.Go(func() {
				if err := d.Refresh(t.Context(), 0); err != nil {
					t.Error(err)
				}
				if r, _ := d.ByID(id); r.TokenEpoch != epoch {
					t.Errorf("after Refresh the epoch is %d, want %d", r.TokenEpoch, epoch)
				}
			})
		}
		group.Wait()
	}
	if err := d.Refresh(t.Context(), d.Version()); err != nil {
		t.Error(err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := d.Refresh(ended, d.Version()+1); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("Refresh with an ended context: %v", err)
	}
}

// A Refresh that comes while a pull is under way waits for the next one: the
// one under way may have read before the change.
func TestRefreshDoesNotTrustAPullThatHasBegun(t *testing.T) {
	t.Parallel()
	c := newControl(t)
	id := c.tenant(t, "acme")
	d := run(t, c.options())
	other := testdb.Connect(t, c.adminURL)
	if _, err := c.admin.Exec(t.Context(), "BEGIN; LOCK TABLE control.route_clock IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { first <- d.Refresh(t.Context(), 0) }()
	eventually(t, "a pull has begun and waits", func() bool {
		var waits bool
		err := other.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock')", c.database).Scan(&waits)
		return err == nil && waits
	})
	c.silently(t, id, "token_epoch = 7")
	go func() { second <- d.Refresh(t.Context(), 0) }()
	select { // it must not be answered yet; and it has the time to queue up
	case err := <-second:
		t.Fatalf("Refresh was answered while the pull waits: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if _, err := c.admin.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(<-first, <-second); err != nil {
		t.Fatal(err)
	}
	if r, _ := d.ByID(id); r.TokenEpoch != 7 {
		t.Errorf("the epoch is %d: the second Refresh was answered by the first one's pull", r.TokenEpoch)
	}
}

// The control database is away: what is known is served, new names are not
// denied for ever, and all is well again when it is back.
func TestInvariant10WithoutTheControlDatabase(t *testing.T) {
	t.Parallel()
	c := newControl(t)
	id := c.tenant(t, "acme")
	o := c.options()
	o.PollEvery, o.MaxAge = 50*time.Millisecond, 2*time.Second
	d := run(t, o)
	if _, err := d.Lookup("globex.localhost"); !fault.Is(err, fault.KindNotFound) {
		t.Errorf("an unknown host while the copy is fresh: %v", err)
	}
	other := testdb.Connect(t, testdb.ServerURL(t))
	away := func(yes bool) {
		if _, err := other.Exec(t.Context(), fmt.Sprintf("ALTER DATABASE %s ALLOW_CONNECTIONS %t", c.database, !yes)); err != nil {
			t.Fatal(err)
		}
	}
	away(true)
	if _, err := other.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND application_name LIKE 'ouvira/%'", c.database); err != nil {
		t.Fatal(err)
	}
	eventually(t, "unknown hosts are no longer denied", func() bool {
		_, err := d.Lookup("globex.localhost")
		return fault.Is(err, fault.KindUnavailable)
	})
	if !finds(d, "acme.localhost", id) || !d.Ready() || d.Age() < 2*time.Second {
		t.Errorf("acme is not served at age %v", d.Age())
	}
	soon, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := d.Refresh(soon, 0); err == nil {
		t.Error("Refresh says that all is known")
	}
	globex := c.tenant(t, "globex")
	away(false)
	eventually(t, "the change made meanwhile is known", func() bool { return finds(d, "globex.localhost", globex) })
}

// A tenant is found from the moment it was committed, before the notification; and
// names that nobody has cost a bounded number of pulls, however many ask.
func TestAHostIsAskedForBeforeItIsUnknown(t *testing.T) {
	t.Parallel()
	c := newControl(t)
	c.tenant(t, "acme")
	id := c.tenant(t, "globex")
	d := run(t, c.options())
	c.silently(t, id, "slug = 'initech'")
	if finds(d, "initech.localhost", id) {
		t.Fatal("there was a notification")
	}
	if r, err := d.Find(t.Context(), "initech.localhost"); err != nil || r.TenantID != id {
		t.Errorf("%v, %v", r, err)
	}
	before, begun := d.Pulls(), time.Now()
	var asking sync.WaitGroup
	for i := range 2000 {
		asking.Go(func() {
			if _, err := d.Find(t.Context(), fmt.Sprintf("nobody-%d.localhost", i)); !fault.Is(err, fault.KindNotFound) {
				t.Error(err)
			}
		})
	}
	asking.Wait()
	if pulls, most := d.Pulls()-before, int64(time.Since(begun)/(25*time.Millisecond))+2; pulls > most {
		t.Errorf("%d pulls, %d are due in the time", pulls, most)
	}
}
