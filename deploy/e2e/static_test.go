package e2e

import (
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/ouvira/ouvira/deploy/stack"
)

// The control plane, its worker and its database are gone, and both nodes are
// killed and started again: known tenants are served, suspended ones are not,
// and when everything is back nothing else needs a restart.
func TestRel09NodesRestartWithoutTheControlPlane(t *testing.T) {
	t.Parallel()
	s, _ := start(t, stack.Options{})
	operator, err := s.OperatorAPI(t.Context())
	must(t, err)
	must(t, operator.Want(t.Context(), http.StatusOK, http.MethodPost, "/v1/tenants/globex/suspend", map[string]string{"reason": "unpaid"}, nil))
	acme, globex := demo(s, "acme").login(t, s, 0), s.TenantAPI(0, "globex")
	for node := range 2 {
		eventually(t, polling, func() (bool, string) {
			got := me(t, at(s, node, globex, "globex"))
			return got == http.StatusForbidden, fmt.Sprintf("node %d answers the suspended tenant with %d", node, got)
		})
	}

	suspended := time.Now()
	for node := range 2 {
		file := s.Env(stack.DataNode(node))["OUVIRA_SNAPSHOT_FILE"]
		eventually(t, 10*time.Second, func() (bool, string) {
			info, err := os.Stat(file)
			return err == nil && info.ModTime().After(suspended.Add(-polling)), "the snapshot is older than the suspension"
		})
	}

	for _, part := range []string{stack.Control, stack.Worker} {
		must(t, s.Stop(part))
	}
	must(t, s.StopImmediate(stack.PGControl))
	for node := range 2 {
		if got := me(t, at(s, node, acme, "acme")); got != http.StatusOK {
			t.Errorf("node %d, which runs on, answers with %d", node, got)
		}
		must(t, s.Kill9(stack.DataNode(node)))
		must(t, s.Start(t.Context(), stack.DataNode(node)))
	}
	for node := range 2 {
		if got := me(t, at(s, node, acme, "acme")); got != http.StatusOK {
			t.Errorf("node %d, started again, answers with %d", node, got)
		}
		demo(s, "acme").login(t, s, node)
		if got := me(t, at(s, node, globex, "globex")); got != http.StatusForbidden {
			t.Errorf("node %d, started again, answers the suspended tenant with %d", node, got)
		}
	}

	for _, part := range []string{stack.PGControl, stack.Control, stack.Worker} {
		must(t, s.Start(t.Context(), part))
	}
	c := signUp(t, s, "afterwards")
	eventually(t, recovery, func() (bool, string) {
		got := c.state(t.Context(), s)
		return got.Status == "active", got.Status + " " + got.Reason
	})
	for node := range 2 {
		c.login(t, s, node)
	}
	operator, err = s.OperatorAPI(t.Context())
	must(t, err)
	must(t, operator.Want(t.Context(), http.StatusOK, http.MethodPost, "/v1/tenants/globex/resume", map[string]string{}, nil))
	for node := range 2 {
		eventually(t, 10*time.Second, func() (bool, string) {
			answer, err := at(s, node, globex, "globex").Call(t.Context(), http.MethodGet, "/account/me", nil)
			must(t, err)
			return answer.Status == http.StatusUnauthorized, fmt.Sprintf("node %d answers the resumed tenant, without a token, with %s", node, answer)
		})
	}
}
