package testdb

import (
	"bytes"
	"context"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
)

// Cut is a proxy before a Postgres server that breaks a connection off at the
// moment when its client commits.
type Cut struct {
	target string
	Port   int

	when atomic.Int32
	cuts atomic.Int32
}

// When the next COMMIT breaks off.
const (
	cutNever int32 = iota
	cutBefore
	cutAfter
)

// NewCut makes a proxy before the server of the URL, which passes everything on.
func NewCut(t testing.TB, address string) *Cut {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &Cut{target: u.Host, Port: listener.Addr().(*net.TCPAddr).Port} //nolint:forcetypeassert // of a tcp listener
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { c.serve(ctx, client) })
		}
	})
	t.Cleanup(func() { stop(); _ = listener.Close(); serving.Wait() })
	return c
}

// URL leads a URL of the server through the proxy.
func (c *Cut) URL(t testing.TB, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: c.Port}).String()
	return u.String()
}

// BeforeCommit breaks the next COMMIT off before the server has it.
func (c *Cut) BeforeCommit() { c.when.Store(cutBefore) }

// AfterCommit breaks the next COMMIT off when the server has done it, and before the
// client hears of it.
func (c *Cut) AfterCommit() { c.when.Store(cutAfter) }

// Cuts is how many connections were broken off.
func (c *Cut) Cuts() int { return int(c.cuts.Load()) }

var commit = []byte("commit\x00") // pgx sends it as a simple query

func (c *Cut) serve(ctx context.Context, client net.Conn) {
	server, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.target)
	if err != nil {
		_ = client.Close()
		return
	}
	end := context.AfterFunc(ctx, func() {
		_ = client.Close()
		_ = server.Close()
	})
	defer end()
	var muted atomic.Bool // the client hears nothing more
	var answers sync.WaitGroup
	answers.Go(func() {
		pass(client, server, func([]byte) bool {
			if muted.Load() { // the answer to the COMMIT: the server has done it
				c.cuts.Add(1)
				return false
			}
			return true
		})
	})
	pass(server, client, func(b []byte) bool {
		if !bytes.HasSuffix(b, commit) {
			return true
		}
		if c.when.CompareAndSwap(cutBefore, cutNever) {
			c.cuts.Add(1)
			return false
		}
		if c.when.CompareAndSwap(cutAfter, cutNever) {
			muted.Store(true)
		}
		return true
	})
	answers.Wait()
}

// pass copies until either side ends or keep says so, and then ends both.
func pass(to, from net.Conn, keep func([]byte) bool) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && !keep(buffer[:n]) {
			return
		}
		if _, writeErr := to.Write(buffer[:n]); err != nil || writeErr != nil {
			return
		}
	}
}
