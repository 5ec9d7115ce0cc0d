package httpapi

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/httpserver"
)

// Whoever terminates TLS for tenants' own domains asks here before it orders a
// certificate, for every name that a stranger may put into a handshake. So a
// question costs one look at two indexes at most, and not too many at once.
const (
	asksAtOnce    = 4               // over all askers; who waits too long hears 503
	asksPerSecond = 20              // of one address, over a longer time
	asksInARow    = 200             // of one address
	askers        = 10_000          // addresses that are remembered
	askPatience   = 2 * time.Second // for one of the places
)

// asking bounds the questions.
type asking struct {
	places chan struct{}

	mu   sync.Mutex
	full *simplelru.LRU[netip.Prefix, time.Time] // when an address may ask asksInARow times again
}

func newAsking() *asking {
	full, _ := simplelru.NewLRU[netip.Prefix, time.Time](askers, nil) // fails for a size below 1
	return &asking{places: make(chan struct{}, asksAtOnce), full: full}
}

// take counts a question (GCRA: one more every asksPerSecond-th of a second) and
// says how long to wait if it is one too many.
func (k *asking) take(client netip.Addr, now time.Time) (wait time.Duration) {
	const step, window = time.Second / asksPerSecond, asksInARow * time.Second / asksPerSecond
	bits := 32
	if client.Is6() {
		bits = 64 // an IPv6 client has as many addresses as it likes
	}
	network, _ := client.Prefix(bits) // the zero one without an address
	k.mu.Lock()
	defer k.mu.Unlock()
	full, known := k.full.Get(network)
	if !known || full.Before(now) {
		full = now
	}
	if wait = full.Add(step).Sub(now) - window; wait > 0 {
		return wait
	}
	k.full.Add(network, full.Add(step))
	return 0
}

type tlsAskInput struct {
	Domain string `query:"domain" required:"true" maxLength:"1024" doc:"The name of the handshake." example:"shop.example.com"`
}

// TLSAnswer says yes; everything else is a refusal.
type TLSAnswer struct {
	Allowed bool `json:"allowed"`
}

func (a *api) tlsAsk(ctx context.Context, in *tlsAskInput) (*body[TLSAnswer], error) {
	if wait := a.asking.take(httpserver.ClientIP(ctx), time.Now()); wait > 0 {
		return nil, fault.RateLimited("Too many names were asked for. Wait for as long as Retry-After says.").RetryAfter(wait)
	}
	waiting, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	select {
	case a.asking.places <- struct{}{}:
		defer func() { <-a.asking.places }()
	case <-waiting.Done():
		return nil, fault.Unavailable("Too many names are asked for at once. Try again in a moment.").RetryAfter(time.Second)
	}
	serves, err := a.Domains.Serves(ctx, in.Domain)
	if err != nil {
		return nil, err
	}
	if !serves {
		return nil, fault.NotFound("No tenant is served under this name.").Code("unknown_domain")
	}
	return &body[TLSAnswer]{TLSAnswer{Allowed: true}}, nil
}
