package tenantpool_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/dataplane/internal/tenantpool"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/route"
)

// blackhole is a port that answers a SYN with nothing at all: its queue of
// connections to accept is full, and nobody accepts.
func blackhole(t *testing.T) (port uint16) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	bound, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: bound.(*syscall.SockaddrInet4).Port}
	for range 20 { // until the queue is full
		conn, err := (&net.Dialer{Timeout: 500 * time.Millisecond}).Dial("tcp", address.String())
		if err != nil {
			var timeout net.Error
			if !errors.As(err, &timeout) || !timeout.Timeout() {
				t.Fatal(err)
			}
			return uint16(address.Port)
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	t.Fatal("the queue does not fill")
	return 0
}

// A server to which every packet is lost: its tenants are refused within the
// bounds of the wait, and at once when nobody has heard of it three times; the
// other server's tenant is served all the while.
func TestAdversarial10AServerBehindABlackHole(t *testing.T) {
	t.Parallel()
	n := newNode(t, 20, func(o *tenantpool.Options) { o.Wait, o.ConnectTimeout = 2*time.Second, time.Second })
	port := blackhole(t)
	n.Table.Change(n.A.ID, func(r *route.Route) {
		s := *n.Server
		s.ID, s.Host, s.Port = uuid.New(), "127.0.0.1", port
		r.Server = &s
	})
	refused := func() {
		begun := time.Now()
		_, err := n.pools.Lease(t.Context(), n.A.Route)
		var f *fault.Error
		if !errors.As(err, &f) || f.Kind != fault.KindUnavailable || f.Wait <= 0 || time.Since(begun) > 15*time.Second {
			t.Errorf("after %v: %v", time.Since(begun), err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	var group, well sync.WaitGroup
	well.Go(func() {
		for ctx.Err() == nil {
			if err := n.use(t.Context(), n.B); err != nil {
				t.Errorf("the other server's tenant: %v", err)
			}
		}
	})
	for range 50 {
		group.Go(refused)
	}
	group.Wait()
	for range 100 { // one by one: without the breaker they would take a minute and a half
		refused()
	}
	stop()
	well.Wait()
}
