package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/ouvira/ouvira/deploy/stack"
)

// chaos sets the scale of the tests of docs/reliability.md: not given, their
// short forms run; given, their long ones, of which the soak takes this long.
var chaos = flag.Duration("chaos", 0, "run the long forms of the reliability tests; the soak takes this long, 30m say")

// scaled is the short form's figure, or the long one's.
func scaled[T any](short, long T) T {
	if *chaos > 0 {
		return long
	}
	return short
}

// shared is a stack for the tests that leave it as they found it. One of them
// has it at a time: they stop its parts.
var shared struct {
	mu    sync.Mutex
	stack *stack.Stack
	close func() error
	dir   string
}

// borrow gives the test the shared stack until its end. Each test makes the
// tenants that it works with.
func borrow(t *testing.T) *stack.Stack {
	t.Helper()
	shared.mu.Lock()
	t.Cleanup(shared.mu.Unlock)
	if shared.stack == nil {
		dir, err := os.MkdirTemp("", "ouvira-e2e-shared-")
		must(t, err)
		must(t, passable(dir))
		nodes := map[string]string{"OUVIRA_LINGER": linger.String(), "OUVIRA_AUDIT_SEAL_EVERY": "2s"}
		// Not the test's context: the stack outlives it.
		shared.stack, shared.close, err = up(context.Background(), dir, stack.Options{
			Bin: bin, Disposable: true, Env: map[string]map[string]string{stack.DataNode(0): nodes, stack.DataNode(1): nodes},
		})
		shared.dir = dir
		must(t, err)
		generous(t, shared.stack)
	}
	s := shared.stack
	for node := range 2 {
		settled(t, s, node)
		healed(t, s, node)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(logs(s.State()))
		}
		for _, part := range s.Names() { // whatever a failed test left stopped
			if err := s.Start(context.Background(), part); err != nil {
				t.Errorf("start %s again: %v", part, err)
			}
		}
	})
	return s
}

// closeShared ends the shared stack after the last test.
func closeShared() error {
	if shared.stack == nil {
		return nil
	}
	return errors.Join(shared.close(), os.RemoveAll(shared.dir))
}

// up starts a stack on ports that no other has until it is closed.
func up(ctx context.Context, state string, o stack.Options) (s *stack.Stack, closed func() error, err error) {
	base, release, err := stack.FreePortBase()
	if err != nil {
		return nil, nil, err
	}
	o.State, o.PortBase = state, base
	if s, err = stack.Start(ctx, o); err != nil {
		release()
		return nil, nil, fmt.Errorf("%w\n%s", err, logs(state))
	}
	return s, func() error {
		defer release()
		return s.Close()
	}, nil
}

// generous lets one user ask as often as a test wants.
func generous(t *testing.T, s *stack.Stack) {
	t.Helper()
	operator, err := s.OperatorAPI(t.Context())
	must(t, err)
	const plenty = 1_000_000
	limits := map[string]int{"signed_in_per_user": plenty, "login_per_identifier": plenty}
	must(t, operator.Want(t.Context(), 200, "PATCH", "/v1/plans/standard", map[string]any{"limits": limits}, nil))
}

// ready waits until a node says so of itself.
func ready(t *testing.T, s *stack.Stack, node int) {
	t.Helper()
	eventually(t, time.Minute, func() (bool, string) {
		return isReady(t.Context(), s.InternalURL(stack.DataNode(node))), fmt.Sprintf("node %d is not ready", node)
	})
}

// settled waits until a node is ready and holds connections of both servers: the
// others give some up when they hear of it, which takes the control database.
func settled(t *testing.T, s *stack.Stack, node int) {
	t.Helper()
	ready(t, s, node)
	for _, server := range []string{"a", "b"} {
		eventually(t, time.Minute, func() (bool, string) {
			share := metric(t, s, node, fmt.Sprintf("ouvira_connection_share_limit{server=%q}", server))
			return share > 0, fmt.Sprintf("node %d holds %v connections of server %s", node, share, server)
		})
	}
}

// healed waits until the node has found its way to both tenant servers again: the test
// before may have taken them away.
func healed(t *testing.T, s *stack.Stack, node int) {
	t.Helper()
	for _, slug := range []string{"acme", "globex"} {
		owner := demo(s, slug)
		eventually(t, time.Minute, func() (bool, string) {
			answer, err := s.TenantAPI(node, slug).Call(t.Context(), http.MethodPost, "/auth/login", map[string]string{"identifier": owner.email, "password": owner.password})
			must(t, err)
			return answer.Status < 500, fmt.Sprintf("node %d answers a login at %s with %s", node, slug, answer)
		})
	}
}
