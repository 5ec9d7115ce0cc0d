package routingtest

import (
	"net"
	"sync"
	"testing"
)

// proxy is the network between a node and the control database. It lets all
// through, or is cut (connections break, new ones are refused), or stalls
// (nothing breaks, and nothing gets through).
type proxy struct {
	target   string
	listener net.Listener
	pumps    sync.WaitGroup

	mu     sync.Mutex
	broken bool
	open   chan struct{} // closed while all gets through
	links  map[*link]struct{}
}

// link is one connection through the proxy.
type link struct {
	ends [2]net.Conn
	gone chan struct{}
	once sync.Once
}

func (l *link) close() {
	l.once.Do(func() {
		close(l.gone)
		for _, end := range l.ends {
			_ = end.Close()
		}
	})
}

func newProxy(t testing.TB, target string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p := &proxy{target: target, listener: listener, open: make(chan struct{}), links: map[*link]struct{}{}}
	close(p.open)
	p.pumps.Go(p.accept)
	return p
}

func (p *proxy) address() string { return p.listener.Addr().String() }

func (p *proxy) accept() {
	for {
		near, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		far, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = near.Close()
			continue
		}
		l := &link{ends: [2]net.Conn{near, far}, gone: make(chan struct{})}
		p.mu.Lock()
		p.links[l] = struct{}{}
		if p.broken {
			l.close()
		}
		p.mu.Unlock()
		p.pumps.Go(func() { p.pump(l, near, far) })
		p.pumps.Go(func() { p.pump(l, far, near) })
	}
}

func (p *proxy) pump(l *link, from, to net.Conn) {
	defer func() {
		l.close()
		p.mu.Lock()
		delete(p.links, l)
		p.mu.Unlock()
	}()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && !p.pass(l) {
			return
		}
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// pass waits while the proxy stalls.
func (p *proxy) pass(l *link) bool {
	p.mu.Lock()
	open := p.open
	p.mu.Unlock()
	select {
	case <-open:
		return true
	case <-l.gone:
		return false
	}
}

// cut breaks all connections and refuses new ones.
func (p *proxy) cut() {
	p.mu.Lock()
	p.broken = true
	p.mu.Unlock()
	p.breakLinks()
}

// breakLinks breaks all connections.
func (p *proxy) breakLinks() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.close()
	}
}

// stall lets nothing through.
func (p *proxy) stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
		p.open = make(chan struct{})
	default: // it stalls already
	}
}

// mend lets all through again, what was held back first.
func (p *proxy) mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.broken = false
	select {
	case <-p.open:
	default:
		close(p.open)
	}
}

func (p *proxy) close() {
	_ = p.listener.Close()
	p.cut()
	p.pumps.Wait()
}
