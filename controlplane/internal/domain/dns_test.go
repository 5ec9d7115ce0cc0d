package domain_test

import (
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// nameserver is a real DNS server on the loopback, by UDP and TCP.
type nameserver struct {
	address string

	mu      sync.Mutex
	records map[string][]string // TXT, by name without the last dot
	rcode   map[string]int      // what is answered instead
	silent  map[string]bool     // nothing is
	byTCP   int                 // questions
}

func newNameserver(t *testing.T) *nameserver {
	t.Helper()
	n := &nameserver{records: map[string][]string{}, rcode: map[string]int{}, silent: map[string]bool{}}
	// TCP first: its ports are the ones that others take.
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.address = tcp.Addr().String()
	udp, err := net.ListenPacket("udp", n.address)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{PacketConn: udp, Handler: n}, {Listener: tcp, Handler: n}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() { _ = s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return n
}

// ServeDNS implements dns.Handler. By UDP, what does not fit is cut off.
func (n *nameserver) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	n.mu.Lock()
	defer n.mu.Unlock()
	name := strings.ToLower(strings.TrimSuffix(q.Question[0].Name, "."))
	if n.silent[name] {
		return
	}
	_, stream := w.RemoteAddr().(*net.TCPAddr)
	if stream {
		n.byTCP++
	}
	answer := new(dns.Msg).SetReply(q)
	answer.RecursionAvailable = true
	records, known := n.records[name]
	switch rcode := n.rcode[name]; {
	case rcode != 0:
		answer.Rcode = rcode
	case !known:
		answer.Rcode = dns.RcodeNameError
	}
	for _, text := range records {
		answer.Answer = append(answer.Answer, &dns.TXT{
			Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 1}, Txt: []string{text},
		})
	}
	if !stream {
		answer.Truncate(dns.MinMsgSize)
	}
	_ = w.WriteMsg(answer)
}

func (n *nameserver) publish(name string, records ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.records[name] = records
	delete(n.rcode, name)
	delete(n.silent, name)
}

func (n *nameserver) remove(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.records, name)
}

func (n *nameserver) fail(name string, rcode int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rcode[name] = rcode
}

func (n *nameserver) silence(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.silent[name] = true
}

func (n *nameserver) streams() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.byTCP
}
