package httpserver

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/ouvira/ouvira/shared/telemetry"
)

// Proxies are the networks whose word about the client is believed.
type Proxies []netip.Prefix

// ParseProxies reads networks ("10.0.0.0/8") and single addresses.
func ParseProxies(list []string) (Proxies, error) {
	var proxies Proxies
	for i, s := range list {
		s = strings.TrimSpace(s)
		if s == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(s)
		if err != nil {
			addr, addrErr := netip.ParseAddr(s)
			if addrErr != nil {
				return nil, fmt.Errorf("entry %d is neither a network like 10.0.0.0/8 nor an address", i+1)
			}
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
		proxies = append(proxies, prefix.Masked())
	}
	return proxies, nil
}

func (p Proxies) trust(addr netip.Addr) bool {
	for _, prefix := range p {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

type clientKey struct{}

type client struct {
	addr    netip.Addr
	trusted bool // the peer is one of the proxies
}

// clientContext is the context of a request with the place for its client,
// which RequestID makes and ClientAddr fills: one copy of the request less.
type clientContext struct {
	context.Context //nolint:containedctx // it is a context

	client client
}

func (c *clientContext) Value(key any) any {
	if key == (clientKey{}) {
		return &c.client
	}
	return c.Context.Value(key)
}

func clientOf(ctx context.Context) client {
	if c, ok := ctx.Value(clientKey{}).(*client); ok {
		return *c
	}
	return client{}
}

// ClientAddr finds out who asks. X-Forwarded-For is read from the right, and
// only past addresses that are trusted: what a client writes into it stands
// left of what the first trusted proxy has seen. It comes after RequestID.
func ClientAddr(proxies Proxies) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, ok := r.Context().Value(clientKey{}).(*client)
			if !ok {
				panic("ClientAddr comes after RequestID")
			}
			*c = proxies.client(r)
			if c.addr.IsValid() {
				telemetry.Add(r.Context(), slog.String("client", c.addr.String()))
			}
			next.ServeHTTP(w, r)
		})
	}
}

func (p Proxies) client(r *http.Request) client {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return client{}
	}
	c := client{addr: peer.Addr().Unmap()}
	c.trusted = p.trust(c.addr)
	if !c.trusted {
		return c
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		addr, err := netip.ParseAddr(strings.TrimSpace(hop))
		if err != nil {
			break
		}
		c.addr = addr.Unmap().WithZone("")
		if !p.trust(c.addr) {
			break
		}
	}
	return c
}

// ClientIP is the address of the client that asks, or the zero Addr.
func ClientIP(ctx context.Context) netip.Addr {
	return clientOf(ctx).addr
}

// ViaTrustedProxy tells whether a trusted proxy handed the request over.
func ViaTrustedProxy(ctx context.Context) bool {
	return clientOf(ctx).trusted
}
