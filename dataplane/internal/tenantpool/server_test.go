package tenantpool

import (
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/route"
)

// fakeServer is one whose work is done by the test: it lists what is to be done.
func fakeServer(limit int) *fake {
	f := &fake{}
	f.server = newServer(&route.Server{}, tenanttest.NewBudget(), slog.New(slog.DiscardHandler), works{
		dial: func(e *pool) { f.dials = append(f.dials, e) },
		end:  func(c *conn) { f.ending = append(f.ending, c) },
	})
	f.limit, f.perTenant, f.perServer = limit, 1000, 1000
	return f
}

type fake struct {
	*server

	dials  []*pool
	ending []*conn
}

// pass lets time pass in a bubble, with what it brings.
func (f *fake) pass(d time.Duration) {
	f.mu.Lock()   // what the test has read of the server was read before
	f.mu.Unlock() //nolint:staticcheck // for this order alone
	time.Sleep(d) //nolint:forbidigo // the clock is the bubble's
	synctest.Wait()
}

// tenant is a pool of a tenant of its own.
func (f *fake) tenant(most int) *pool {
	return &pool{owner: &Pools{}, server: f.server, made: &route.Route{TenantID: uuid.New(), MaxConnections: most}}
}

// hold gives the pool n permits.
func (f *fake) hold(e *pool, n int) {
	for range n {
		f.grant(e)
	}
}

// Our end is closed, the server's is not yet: the backend lives, and so does
// the permit.
func TestInvariant01APermitReturnsWhenTheServerHasClosed(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	s := fakeServer(1)
	e := s.tenant(9)
	s.hold(e, 1)
	conn, err := (&permit{pool: e, report: func(error) {}}).dial(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	// Our end has arrived there, and more time than a permit needs has passed.
	if n, err := server.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Fatalf("read %d, %v", n, err)
	}
	select {
	case <-returned(e.owner):
		t.Fatal("the permit came back while the server's end was open")
	case <-time.After(100 * time.Millisecond):
	}
	if _, open, _, _ := s.counts(); open != 1 {
		t.Fatalf("%d permits are out", open)
	}
	_ = server.Close()
	select {
	case <-returned(e.owner):
	case <-time.After(10 * time.Second):
		t.Fatal("the permit did not come back")
	}
	if _, open, _, _ := s.counts(); open != 0 {
		t.Fatalf("%d permits are out", open)
	}
}

// A server that never closes its end costs its permit for a bounded time.
func TestInvariant01AServerThatNeverClosesIsNotWaitedForForEver(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	s := fakeServer(1)
	e := s.tenant(9)
	s.hold(e, 1)
	conn, err := (&permit{pool: e, report: func(error) {}}).dial(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	select {
	case <-returned(e.owner):
	case <-time.After(5 * closeWithin):
		t.Fatal("the permit did not come back")
	}
}

func returned(p *Pools) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		p.open.Wait()
		close(done)
	}()
	return done
}
