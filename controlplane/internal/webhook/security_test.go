package webhook_test

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"

	"github.com/ouvira/ouvira/controlplane/internal/event"
	"github.com/ouvira/ouvira/controlplane/internal/webhook"
	"github.com/ouvira/ouvira/shared/fault"
)

// TestSec35 nothing connects to a private address: not by a name that led elsewhere
// before, not by one that always led here, and not by a redirect.
func TestSec35PrivateAddressesAreBlockedAtDial(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	trap, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = trap.Close() })
	var caught atomic.Int32
	go func() {
		for {
			conn, err := trap.Accept()
			if err != nil {
				return
			}
			caught.Add(1)
			_ = conn.Close()
		}
	}()
	_, port, err := net.SplitHostPort(trap.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	resolver, asked := rebinding(t)
	var endpoints []webhook.Endpoint
	for _, host := range []string{"rebind.example.com", "localhost", "127.0.0.1", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433"} {
		w, _ := f.endpoint(t, "http://"+host+":"+port+"/", "tenant.created") // as if it had once been allowed
		endpoints = append(endpoints, w)
	}
	// The name leads to the internet when somebody looks, and to us when it is dialled.
	if ips, err := resolver.LookupNetIP(t.Context(), "ip4", "rebind.example.com"); err != nil || !webhook.Public(ips[0]) {
		t.Fatalf("at first it leads to %v (%v)", ips, err)
	}
	f.happen(t, event.TenantCreated, 1)
	o := soon()
	o.AllowPrivate, o.Resolver = false, resolver
	f.courier(t, o)
	for i, w := range endpoints {
		eventually(t, "a dead letter", func() bool { return len(f.deliveries(t, w, webhook.DeliveryDead)) == 1 })
		d := f.deliveries(t, w, webhook.DeliveryDead)[0]
		if i < 5 && !strings.Contains(d.LastError, "private network") {
			t.Errorf("%s: %s", w.URL, d.LastError)
		}
	}
	if caught.Load() != 0 {
		t.Errorf("%d connections were made to a private address", caught.Load())
	}
	if asked.Load() < 4 { // once here, and at each attempt
		t.Errorf("the name was resolved %d times", asked.Load())
	}
}

// rebinding resolves every name: to the internet the first time, then to this
// machine.
func rebinding(t *testing.T) (*net.Resolver, *atomic.Int32) {
	t.Helper()
	var asked atomic.Int32
	socket, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: socket, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		answer := new(dns.Msg)
		answer.SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			ip := "93.184.215.14"
			if asked.Add(1) > 1 {
				ip = "127.0.0.1"
			}
			answer.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.ParseIP(ip)}}
		}
		_ = w.WriteMsg(answer)
	})}
	go func() { _ = server.ActivateAndServe() }()
	t.Cleanup(func() { _ = server.ShutdownContext(context.Background()) })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", socket.LocalAddr().String())
	}}, &asked
}

func TestSec35RedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	inside := newReceiver(t, nil)
	for _, status := range []int{301, 302, 307, 308} {
		outside := newReceiver(t, func(_ int, w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, inside.URL, status) })
		f.endpoint(t, outside.URL, "tenant.created")
	}
	f.happen(t, event.TenantCreated, 1)
	f.courier(t, soon())
	list, err := f.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range list {
		eventually(t, "a dead letter", func() bool { return len(f.deliveries(t, w, webhook.DeliveryDead)) == 1 })
		if d := f.deliveries(t, w, webhook.DeliveryDead)[0]; !strings.Contains(d.LastError, "redirects are not followed") {
			t.Errorf("%s", d.LastError)
		}
	}
	if n := len(inside.all()); n != 0 {
		t.Errorf("%d redirects were followed", n)
	}
}

func TestSec35WhatIsPrivate(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]bool{
		"93.184.215.14": true, "8.8.8.8": true, "2606:4700::1111": true, "172.32.0.1": true,
		"127.0.0.1": false, "127.8.8.8": false, "10.0.0.1": false, "172.16.0.1": false, "172.31.255.255": false, "192.168.1.1": false,
		"169.254.169.254": false, "100.64.0.1": false, "0.0.0.0": false, "0.1.2.3": false, "224.0.0.1": false, "255.255.255.255": false, "240.0.0.1": false,
		"198.18.0.1": false, "192.0.0.192": false, "::1": false, "::": false, "fe80::1": false, "fe80::1%eth0": false, "fd00::1": false, "fec0::1": false,
		"::ffff:127.0.0.1": false, "::ffff:10.0.0.1": false, "64:ff9b::7f00:1": false, "2002:7f00:1::": false, "ff02::1": false, "2001:db8::1": false,
	} {
		if got := webhook.Public(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: public %v", address, got)
		}
	}
}

func FuzzSec34WebhookURL(f *testing.F) {
	for _, seed := range []string{"https://example.com/hooks", "http://127.0.0.1", "https://[::1%25eth0]/", "https://a:b@c/#d", "//x", "https://\x00", "HTTPS://EXAMPLE.com:99999/", "https:opaque"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		err := webhook.CheckURL(text, false)
		if err == nil && !strings.HasPrefix(strings.ToLower(text), "https://") {
			t.Errorf("%q was taken", text)
		}
		if err != nil && !fault.Is(err, fault.KindInvalid) {
			t.Errorf("%q: %v", text, err)
		}
	})
}
