package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ouvira/ouvira/deploy/stack"
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
		rotate(t, operator, "rotated", "--wait")
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

func rotate(t *testing.T, operator stack.API, args ...string) {
	t.Helper()
	cli := exec.CommandContext(t.Context(), filepath.Join(bin, "ouvira"), append([]string{"tenant", "rotate"}, args...)...)
	cli.Env = append(cli.Environ(), "OUVIRA_URL="+operator.Base, "OUVIRA_TOKEN="+operator.Token)
	if out, err := cli.CombinedOutput(); err != nil {
		t.Fatalf("rotate: %v\n%s", err, out)
	}
}

// kid is the name of the key that has signed a token.
func kid(token string) string {
	first, _, _ := strings.Cut(token, ".")
	raw, _ := base64.RawURLEncoding.DecodeString(first)
	var header struct {
		Kid string `json:"kid"`
	}
	_ = json.Unmarshal(raw, &header) // "": no key
	return header.Kid
}

// A tenant's signing key is changed by command while users work at both nodes, and others
// sign in at one and go on at the other, with every LISTEN connection cut again and again:
// nobody is refused, whichever key has signed. The one before ends with its tokens, and one
// that has leaked at once; who has a refresh token goes on.
func TestSec38ASigningKeyIsRotatedByCommandUnderLoad(t *testing.T) {
	t.Parallel()
	s := borrow(t)
	b := newBalancer(t, s)
	owner := demo(s, "acme")
	before := owner.login(t, s, 0)
	refresh := refreshToken(t, s, "acme")
	users, neighbour := work(t, through(b, before), "acme", 4, 0), work(t, through(b, demo(s, "globex").login(t, s, 0)), "globex", 2, 0)
	defer cutListeners(t, s)()
	operator, err := s.OperatorAPI(t.Context())
	must(t, err)
	control := s.Demo().Postgres.Control

	// cross signs in at each node, goes on at the other, and tells which keys have signed.
	cross := func() (kids [2]string, err error) {
		for node := range 2 {
			app := s.TenantAPI(node, "acme")
			var session struct {
				Tokens struct {
					Access string `json:"access"`
				} `json:"tokens"`
			}
			err := app.Want(t.Context(), http.StatusOK, http.MethodPost, "/auth/login", map[string]string{"identifier": owner.email, "password": owner.password}, &session)
			if err != nil {
				return kids, err
			}
			app.Token, kids[node] = session.Tokens.Access, kid(session.Tokens.Access)
			if got := me(t, at(s, 1-node, app, "acme")); got != http.StatusOK {
				return kids, fmt.Errorf("node %d answers a token of node %d with %d", 1-node, node, got)
			}
		}
		return kids, nil
	}
	signed := func() [2]string {
		t.Helper()
		kids, err := cross()
		must(t, err)
		return kids
	}
	old := signed()
	done, crossed := make(chan struct{}), 0
	var crossing sync.WaitGroup
	stop := sync.OnceFunc(func() { close(done); crossing.Wait() })
	defer stop()
	crossing.Go(func() {
		tick := time.NewTicker(pace)
		defer tick.Stop()
		for ; ; crossed++ {
			if _, err := cross(); err != nil {
				t.Error(err)
			}
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	})
	rotate(t, operator, "acme", "--signing-key")
	id := column[string](t, control, "SELECT id::text FROM control.operations WHERE kind = 'tenant.rotate_key' ORDER BY id DESC LIMIT 1")[0]
	waits := func(code string) {
		t.Helper()
		eventually(t, recovery, func() (bool, string) {
			is := column[string](t, control, "SELECT concat_ws(' ', status, error->>'code') FROM control.operations WHERE id = $1", id)[0]
			return is == "queued "+code, "the rotation is " + is
		})
	}
	pass := func(step string) { // an hour
		column[string](t, control, "UPDATE control.operation_steps SET finished_at = finished_at - interval '1 hour' WHERE operation_id = $1 AND name = $2 RETURNING name", id, step)
		column[string](t, control, "UPDATE control.operations SET wake_at = now() WHERE id = $1 RETURNING kind", id)
	}
	waits("keys_kept")
	if now := signed(); now != old {
		t.Errorf("%v have signed, before the new key is known everywhere: %v", now, old)
	}
	pass("announce")
	waits("tokens_live")
	if now := signed(); now[0] == old[0] || now[1] != now[0] {
		t.Errorf("%v have signed, and %v before", now, old)
	}
	users.more(t, 50)
	stop()
	t.Logf("%d times somebody signed in at one node and went on at the other", 2*crossed)
	for _, l := range []*load{users, neighbour} {
		l.stop()
		l.flawless(t)
		address, _ := tenantDatabase(t, s, l.prefix)
		l.replay(t, address)
	}
	pass("sign")
	refused := func(app stack.API) {
		t.Helper()
		for node := range 2 {
			eventually(t, 10*time.Second, func() (bool, string) {
				got := me(t, at(s, node, app, "acme"))
				return got == http.StatusUnauthorized, fmt.Sprintf("node %d answers a token of a key that is gone with %d", node, got)
			})
		}
	}
	idle(t, s)
	refused(before)
	leaked := owner.login(t, s, 1)
	rotate(t, operator, "acme", "--signing-key", "--at-once", "--wait")
	refused(leaked)
	signed()
	eventually(t, recovery, func() (bool, string) { // the seals of the keys that are gone are proven
		var audit struct {
			Valid    bool  `json:"valid"`
			Batches  int   `json:"batches"`
			Problems []any `json:"problems"`
		}
		must(t, owner.login(t, s, 0).Want(t.Context(), http.StatusOK, http.MethodGet, "/audit/verify", nil, &audit))
		return audit.Valid && audit.Batches > 0, fmt.Sprintf("the audit: %+v", audit)
	})
	if got := renew(t, s, 0, refresh); got != http.StatusOK {
		t.Errorf("a refresh token is answered with %d", got)
	}
}
