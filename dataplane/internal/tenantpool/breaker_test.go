package tenantpool_test

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/dataplane/internal/tenantpool"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/route"
)

// front stands before a Postgres server: it passes on, or accepts and says
// nothing.
type front struct {
	net.Listener

	silent   atomic.Bool
	accepted atomic.Int64
	work     sync.WaitGroup
	mu       sync.Mutex
	conns    []net.Conn
}

func newFront(t *testing.T, to string) *front {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &front{Listener: listener}
	f.work.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			f.accepted.Add(1)
			f.keep(conn)
			if !f.silent.Load() {
				f.pass(conn, to)
			}
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		f.mu.Lock()
		for _, conn := range f.conns {
			_ = conn.Close()
		}
		f.mu.Unlock()
		f.work.Wait()
	})
	return f
}

func (f *front) keep(conn net.Conn) {
	f.mu.Lock()
	f.conns = append(f.conns, conn)
	f.mu.Unlock()
}

func (f *front) pass(from net.Conn, to string) {
	server, err := net.Dial("tcp", to)
	if err != nil {
		_ = from.Close()
		return
	}
	f.keep(server)
	for _, pair := range [][2]net.Conn{{from, server}, {server, from}} {
		f.work.Go(func() {
			_, _ = io.Copy(pair[0], pair[1])
			_ = pair[0].Close()
		})
	}
}

// A server that accepts and then says nothing is dialled a few times and then
// left alone, also by pools that are new; the other server's tenant does not
// notice. When it speaks again, so do we.
func TestInvariant08ASilentServerIsLeftAlone(t *testing.T) {
	t.Parallel()
	n := newNode(t, 20, func(o *tenantpool.Options) {
		o.ConnectTimeout, o.Wait, o.MaxPools = time.Second, 10*time.Second, 1
	})
	f := newFront(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), n.Server.Port).String())
	behind := *n.Server
	behind.ID, behind.Version = uuid.New(), behind.Version+1
	address := netip.MustParseAddrPort(f.Addr().String())
	behind.Host, behind.Port = "127.0.0.1", address.Port()
	n.A.Route = n.Table.Change(n.A.ID, func(r *route.Route) { r.Server = &behind })

	f.silent.Store(true)
	for range 3 { // one dial each: nobody retries what does not answer
		_, err := n.pools.Lease(t.Context(), n.A.Route)
		wantFault(t, err, fault.KindUnavailable, "database_unavailable")
	}
	dials := f.accepted.Load()
	for range 60 {
		_, err := n.pools.Lease(t.Context(), n.A.Route)
		refused := wantFault(t, err, fault.KindUnavailable, "database_unavailable")
		if refused.Wait <= 0 {
			t.Fatal("the refusal does not say when to come again")
		}
		if err := n.use(t.Context(), n.B); err != nil { // also pushes A's pool out
			t.Fatalf("the tenant of the other server: %v", err)
		}
	}
	// Without the breaker each of them dials; with it, one every other second.
	if more := f.accepted.Load() - dials; more > 30 {
		t.Errorf("the silent server was dialled %d times more", more)
	}
	f.silent.Store(false)
	eventually(t, "the server is used again", func() bool { return n.use(t.Context(), n.A) == nil })
}
