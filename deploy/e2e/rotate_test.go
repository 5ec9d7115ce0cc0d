package e2e

import (
	"net/http"
	"os/exec"
	"path/filepath"
	"testing"
)

// The password of a tenant's database role is changed by command, again and again,
// while users work at both nodes who never try again: not one request fails. A pool
// belongs to one password, so both nodes make new connections with the new one. A fence
// stays on.
func TestSec38APasswordIsRotatedByCommandUnderLoad(t *testing.T) {
	t.Parallel()
	s := borrow(t)
	b := newBalancer(t, s)
	one, two := work(t, tenant(t, s, b, "rotated"), "rotated", 6, 0), work(t, through(b, demo(s, "acme").login(t, s, 0)), "acme", 2, 0)
	one.more(t, 20)
	operator, err := s.OperatorAPI(t.Context())
	must(t, err)
	address, role := tenantDatabase(t, s, "rotated")
	verifier := func() string {
		return column[string](t, address, "SELECT rolpassword FROM pg_authid WHERE rolname = $1", role)[0]
	}
	seen := map[string]bool{verifier(): true}
	for range scaled(3, 50) {
		cli := exec.CommandContext(t.Context(), filepath.Join(bin, "ouvira"), "tenant", "rotate", "rotated", "--wait")
		cli.Env = append(cli.Environ(), "OUVIRA_URL="+operator.Base, "OUVIRA_TOKEN="+operator.Token)
		if out, err := cli.CombinedOutput(); err != nil {
			t.Fatalf("rotate: %v\n%s", err, out)
		}
		if now := verifier(); seen[now] {
			t.Error("the role has the password that it had before")
		} else {
			seen[now] = true
		}
		one.more(t, 50)
	}
	for _, l := range []*load{one, two} {
		l.stop()
		l.flawless(t)
		address, _ := tenantDatabase(t, s, l.prefix)
		l.replay(t, address)
	}
	must(t, operator.Want(t.Context(), http.StatusOK, http.MethodPost, "/v1/tenants/rotated/suspend", map[string]string{"reason": "unpaid"}, nil))
	idle(t, s)
	must(t, operator.Want(t.Context(), http.StatusAccepted, http.MethodPost, "/v1/tenants/rotated/rotate", nil, nil))
	idle(t, s)
	if fenced := column[bool](t, address, "SELECT NOT pg_has_role($1, 'ouvira_app', 'MEMBER')", role); !fenced[0] {
		t.Error("a rotation took the fence off a suspended tenant")
	}
}
