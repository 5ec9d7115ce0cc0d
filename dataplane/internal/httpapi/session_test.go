package httpapi_test

import (
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/ouvira/ouvira/shared/testdb"
)

func (n *node) refresh(t *testing.T, token string) answer {
	t.Helper()
	return n.ask(t, http.MethodPost, hostOf(n.A), "/auth/token/refresh", object{"refresh": token})
}

func TestSec15ReuseAfterTheGraceEndsTheFamily(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	access, parent := n.login(t, n.A)
	other, _ := n.login(t, n.A)
	child := n.refresh(t, parent).text("refresh")
	exec(t, n.A, "UPDATE public.refresh_tokens SET rotated_at = rotated_at - interval '31 s' WHERE rotated_at IS NOT NULL")
	expect(t, "reuse", n.refresh(t, parent), 401, "invalid_refresh_token")
	expect(t, "the child", n.refresh(t, child), 401)
	expect(t, "the session", n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(access)), 401)
	expect(t, "another session of the user", n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(other)), 200)
	if events := value[int](t, n.A, "SELECT count(*) FROM ledger.security_logs WHERE action = 'refresh_reused' AND user_id = $1", n.A.OwnerID); events != 1 {
		t.Errorf("%d security events", events)
	}
}

func TestSec16ParallelRefreshesGiveOneChild(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	_, parent := n.login(t, n.A)
	children := make([]string, 20)
	// The callers line up at a lock, so that they are under way at once.
	conn := testdb.Connect(t, n.A.AdminURL)
	gate, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gate.Exec(t.Context(), "SELECT FROM public.refresh_tokens FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	var callers sync.WaitGroup
	for i := range children {
		callers.Go(func() {
			for { // the pool is small on purpose: who finds it full comes again
				a := n.refresh(t, parent)
				if a.status == http.StatusTooManyRequests || a.status == http.StatusServiceUnavailable {
					continue
				}
				if a.status != 200 {
					t.Errorf("refresh: %d %s", a.status, a.raw)
				}
				children[i] = a.text("refresh")
				return
			}
		})
	}
	n.lineUp(t, n.A, 5)
	if err := gate.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	callers.Wait()
	slices.Sort(children)
	if distinct := slices.Compact(children); len(distinct) != 1 || distinct[0] == parent {
		t.Fatalf("%d children", len(distinct))
	}
	if tokens := value[int](t, n.A, "SELECT count(*) FROM public.refresh_tokens"); tokens != 2 {
		t.Errorf("%d tokens in the database, want the parent and its child", tokens)
	}
	retry := n.refresh(t, parent)
	if retry.status != 200 || retry.text("refresh") != children[0] {
		t.Errorf("a retry within the grace: %d %s", retry.status, retry.raw)
	}
	expect(t, "the child works", n.refresh(t, children[0]), 200)
}

func TestSec17NextCallIsRefused(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	me := func(token string) answer {
		return n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(token))
	}
	n.member(t, n.A, "second@example.com", "owner", n.A.CompanyID) // the last owner cannot be disabled
	for name, end := range map[string]func(){
		"disabled": func() { exec(t, n.A, "UPDATE public.users SET is_active = false WHERE id = $1", n.A.OwnerID) },
		"deleted":  func() { exec(t, n.A, "UPDATE public.users SET deleted_at = now() WHERE id = $1", n.A.OwnerID) },
		"revoked":  func() { exec(t, n.A, "UPDATE public.sessions SET revoked_at = now()") },
		"expired":  func() { exec(t, n.A, "UPDATE public.sessions SET expires_at = now()") },
	} {
		exec(t, n.A, "UPDATE public.users SET is_active = true, deleted_at = NULL")
		access, refresh := n.login(t, n.A)
		expect(t, name+", before", me(access), 200)
		end()
		expect(t, name, me(access), 401)
		expect(t, name+", refresh", n.refresh(t, refresh), 401)
	}
}

func TestSec18AbsoluteLifetime(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	_, token := n.login(t, n.A)
	exec(t, n.A, "UPDATE public.sessions SET expires_at = now() + interval '1 hour'")
	child := n.refresh(t, token).text("refresh")
	beyond := value[int](t, n.A, "SELECT count(*) FROM public.refresh_tokens r JOIN public.sessions s ON s.id = r.session_id WHERE r.rotated_at IS NULL AND r.expires_at > s.expires_at")
	if beyond != 0 {
		t.Error("a refresh token outlives its session")
	}
	exec(t, n.A, "UPDATE public.sessions SET expires_at = now()")
	expect(t, "after the end", n.refresh(t, child), 401)
}
