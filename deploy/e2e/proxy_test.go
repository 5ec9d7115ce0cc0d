package e2e

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"github.com/ouvira/ouvira/deploy/stack"
)

// network is the way to one Postgres server, which a test can spoil.
type network struct {
	proxy *toxiproxy.Proxy
}

// newNetwork puts a proxy before an address until the test ends.
func newNetwork(t *testing.T, upstream string) *network {
	t.Helper()
	n := &network{toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), t.Name(), "127.0.0.1:0", upstream)}
	must(t, n.proxy.Start())
	t.Cleanup(n.proxy.Stop)
	return n
}

// delay holds back what the server sends.
func (n *network) delay(t *testing.T, by time.Duration) {
	t.Helper()
	n.hold(t, "downstream", by)
}

// stall lets nothing through, in either direction, and loses nothing: new
// connections are accepted and hear no word.
func (n *network) stall(t *testing.T) {
	t.Helper()
	n.hold(t, "upstream", time.Hour)
	n.hold(t, "downstream", time.Hour)
}

func (n *network) hold(t *testing.T, stream string, by time.Duration) {
	t.Helper()
	toxic := fmt.Sprintf(`{"name": %q, "type": "latency", "stream": %q, "attributes": {"latency": %d}}`, stream, stream, by.Milliseconds())
	_, err := n.proxy.Toxics.AddToxicJson(strings.NewReader(toxic))
	must(t, err)
}

// heal lets through what was held, and everything from now on.
func (n *network) heal() { n.proxy.Toxics.ResetToxics(context.Background()) }

// before puts a network between the nodes and a tenant server, by the route: as
// if the server had moved to another address.
func before(t *testing.T, s *stack.Stack, name string) *network {
	t.Helper()
	for _, server := range s.Demo().Postgres.Servers {
		if server.Name != name {
			continue
		}
		address, err := url.Parse(server.URL)
		must(t, err)
		n := newNetwork(t, address.Host)
		moveServer(t, s, name, n.proxy.Listen)
		t.Cleanup(func() {
			n.heal()
			moveServer(t, s, name, address.Host)
		})
		return n
	}
	t.Fatalf("there is no server %s", name)
	return nil
}

// moveServer tells the nodes another address of a server, and waits until both
// know it.
func moveServer(t *testing.T, s *stack.Stack, name, address string) {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	must(t, err)
	version := column[int64](t, s.Demo().Postgres.Control, `WITH moved AS (
			UPDATE control.servers SET host = $2, port = $3::text::integer WHERE name = $1 RETURNING id)
		SELECT control.publish_server(id) FROM moved`, name, host, port)
	for node := range 2 {
		knows(t, s, node, version[0])
	}
}

// knows waits until a node serves by that version of the routes.
func knows(t *testing.T, s *stack.Stack, node int, version int64) {
	t.Helper()
	eventually(t, 30*time.Second, func() (bool, string) {
		at := metric(t, s, node, "ouvira_routes_version")
		return at >= float64(version), fmt.Sprintf("node %d is at version %v of the routes, not at %d", node, at, version)
	})
}
