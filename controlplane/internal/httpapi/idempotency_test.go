package httpapi_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ouvira/ouvira/controlplane/internal/controltest"
	"github.com/ouvira/ouvira/controlplane/internal/operator"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
)

const keyHeader = "Idempotency-Key"

// count expects so many rows.
func (w *world) count(t *testing.T, want int, of string) {
	t.Helper()
	if n := one[int](t, w, "SELECT count(*) FROM "+of); n != want {
		t.Errorf("there are %d %s, want %d", n, of, want)
	}
}

// A hundred identical requests at once, and as many of somebody who is not signed
// in, have one effect; another body under the same key is refused.
func TestRel10IdenticalPOSTsHaveOneEffect(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.operator(t, operator.RoleOwner)
	together := func(n, status int, token, path string, body any) {
		t.Helper()
		answers := make([]answer, n)
		var callers sync.WaitGroup
		for i := range answers {
			callers.Go(func() { answers[i] = w.call(t, token, "POST", path, body, keyHeader, "key-1") })
		}
		callers.Wait()
		replays := 0
		for _, a := range answers {
			if a.status != status || a.raw != answers[0].raw {
				t.Fatalf("POST %s: %d %s\nanother one: %d %s", path, answers[0].status, answers[0].raw, a.status, a.raw)
			}
			if a.header.Get("Idempotency-Replayed") == "true" {
				replays++
			}
		}
		if replays != n-1 {
			t.Errorf("%d of %d answers are marked as replays", replays, n)
		}
	}
	together(100, 202, token, "/v1/tenants", newTenant("initech"))
	w.count(t, 1, "control.tenants")
	w.count(t, 1, "control.operations")
	w.count(t, 1, "control.audit_log WHERE action = 'tenant.create'")
	w.count(t, 1, "control.events WHERE type = 'tenant.created'")
	together(20, 201, "", "/v1/signups", form("globex")) // each may hash a password
	w.count(t, 1, "control.signups")
	w.count(t, 1, "river.river_job WHERE kind = 'signup_code_mail'")

	changed := func(token, path string, body any) {
		t.Helper()
		if a := w.want(t, 422, token, "POST", path, body, keyHeader, "key-1"); a.text("code") != "idempotency_mismatch" {
			t.Errorf("POST %s with another body: %s", path, a.raw)
		}
	}
	changed(token, "/v1/tenants", newTenant("initrode"))
	changed(token, "/v1/tenants/initech/suspend", map[string]string{"reason": "unpaid"})
	changed("", "/v1/signups", form("initrode"))
	// The key of one is none of another's.
	w.want(t, 202, w.operator(t, operator.RoleOwner), "POST", "/v1/tenants", newTenant("initrode"), keyHeader, "key-1")
}

// The connection to the control database breaks off around the COMMIT: whoever sends
// the request again has it done once, whether the COMMIT was done or not.
func TestRel07AConnectionResetAroundCOMMIT(t *testing.T) {
	t.Parallel()
	control := controltest.New(t)
	cut := testdb.NewCut(t, control.URL)
	var err error
	if control.Pool, err = pg.Open(t.Context(), cut.URL(t, control.URL), pg.Options{MaxConnections: 4}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(control.Pool.Close)
	w := newWorldOn(t, control)
	token := w.operator(t, operator.RoleOwner)
	w.active(t, "acme")
	requests := map[string]struct {
		token, path string
		body        any
		status      int
		effect      string
	}{
		"a tenant":   {token, "/v1/tenants", newTenant("initech"), 202, "control.tenants WHERE slug = 'initech'"},
		"a sign-up":  {"", "/v1/signups", form("globex"), 201, "control.signups"},
		"a deletion": {token, "/v1/tenants/acme/delete", nil, 202, "control.operations WHERE kind = 'tenant.delete'"},
		"a payment": {
			token, "/v1/tenants/acme/payments",
			map[string]string{"amount": "1.00", "currency": "EUR", "period_end": time.Now().AddDate(0, 1, 0).Format(time.DateOnly), "reference": "INV-1"},
			201, "control.payments",
		},
		"a webhook": {token, "/v1/webhooks", map[string]any{"url": "https://example.com/hook", "events": []string{"tenant.created"}}, 201, "control.webhook_endpoints"},
	}
	for _, name := range []string{"a payment", "a tenant", "a sign-up", "a webhook", "a deletion"} {
		r := requests[name]
		cuts := cut.Cuts()
		cut.BeforeCommit()
		w.want(t, 503, r.token, "POST", r.path, r.body, keyHeader, name)
		w.count(t, 0, r.effect)
		cut.AfterCommit()
		w.want(t, 503, r.token, "POST", r.path, r.body, keyHeader, name)
		if a := w.want(t, r.status, r.token, "POST", r.path, r.body, keyHeader, name); a.header.Get("Idempotency-Replayed") != "true" {
			t.Errorf("%s: the third request was not answered as a replay", name)
		}
		w.count(t, 1, r.effect)
		if n := cut.Cuts() - cuts; n != 2 {
			t.Errorf("%s: %d connections were cut, want 2", name, n)
		}
	}
}

// Keys of requests that were refused stay free, what is no key is refused, and keys
// over their lifetime count no more and are forgotten.
func TestKeysOfRefusalsAndOldKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.operator(t, operator.RoleOwner)
	w.want(t, 422, token, "POST", "/v1/tenants", newTenant("-"), keyHeader, "key-1")
	w.want(t, 404, token, "POST", "/v1/tenants/nobody/resume", nil, keyHeader, "key-1")
	w.want(t, 401, "", "POST", "/v1/auth/login", map[string]string{"email": "nobody@ouvira.test", "password": password}, keyHeader, "key-1")
	w.count(t, 0, "control.idempotency_keys")
	for _, key := range []string{strings.Repeat("k", 256), "käse"} {
		if a := w.want(t, 400, token, "POST", "/v1/tenants", newTenant("initech"), keyHeader, key); a.text("code") != "bad_idempotency_key" {
			t.Errorf("the key %q: %s", key, a.raw)
		}
	}
	w.want(t, 202, token, "POST", "/v1/tenants", newTenant("initech"), keyHeader, "key-1")
	w.exec(t, "UPDATE control.idempotency_keys SET created_at = now() - interval '24 hours'")
	w.want(t, 202, token, "POST", "/v1/tenants", newTenant("initrode"), keyHeader, "key-1")
	w.exec(t, "UPDATE control.idempotency_keys SET created_at = now() - interval '24 hours'")
	w.want(t, 202, token, "POST", "/v1/tenants", newTenant("vandelay"), keyHeader, "key-2")
	w.count(t, 1, "control.idempotency_keys")
}

// A wrong code under a key is counted like any other: the request is undone, the
// attempt is not.
func TestGuessesUnderAKeyAreCounted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.want(t, 201, "", "POST", "/v1/signups", form("initech"), keyHeader, "key-1").text("id")
	for range 5 {
		w.want(t, 422, "", "POST", "/v1/signups/"+id+"/verify", map[string]string{"code": "000000"}, keyHeader, "key-2")
	}
	if a := w.want(t, 409, "", "POST", "/v1/signups/"+id+"/verify", map[string]string{"code": "000000"}, keyHeader, "key-2"); a.text("code") != "code_exhausted" {
		t.Errorf("the sixth guess: %s", a.raw)
	}
}

// Secrets are shown once: a replay has them empty and says which, and they are not in
// the table.
func TestSec40SecretsAreNotRemembered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.operator(t, operator.RoleOwner)
	email := one[string](t, w, "SELECT email FROM control.operators")
	w.active(t, "acme")
	for _, r := range []struct {
		token, path string
		body        any
		secrets     string
	}{
		{"", "/v1/auth/login", map[string]any{"email": email, "password": password}, "access_token, refresh_token"},
		{"", "/v1/auth/login", map[string]any{"email": email, "password": password, "cookie": true}, "Set-Cookie"},
		{token, "/v1/api-keys", map[string]any{"name": "ci", "scopes": []string{"tenant.read"}}, "key"},
		{token, "/v1/webhooks", map[string]any{"url": "https://example.com/hook", "events": []string{"tenant.created"}}, "secret"},
		{token, "/v1/tenants/acme/support-sessions", map[string]any{"reason": "Ticket 4711", "minutes": 5}, "code"},
		{token, "/v1/auth/2fa", nil, "backup_codes, secret, url"},
	} {
		first := w.call(t, r.token, "POST", r.path, r.body, keyHeader, r.path+r.secrets)
		again := w.call(t, r.token, "POST", r.path, r.body, keyHeader, r.path+r.secrets)
		if first.status >= http.StatusBadRequest || again.status != first.status || again.header.Get("Idempotency-Omitted") != r.secrets {
			t.Errorf("POST %s: %d %s\nthe replay: %d %v %s", r.path, first.status, first.raw, again.status, again.header, again.raw)
		}
		for name := range strings.SplitSeq(r.secrets, ", ") {
			secret := first.text(name)
			switch name {
			case "Set-Cookie":
				secret, _, _ = strings.Cut(first.header.Get(name), ";")
				_, secret, _ = strings.Cut(secret, "=")
			case "backup_codes":
				secret = first.text("backup_codes.0")
			}
			if secret == "" || strings.Contains(again.raw, secret) || again.header.Get("Set-Cookie") != "" {
				t.Errorf("POST %s: %s is %q, and the replay %v %s", r.path, name, secret, again.header, again.raw)
			}
			if kept := one[string](t, w, "SELECT string_agg(k::text, ' ') FROM control.idempotency_keys k"); strings.Contains(kept, secret) {
				t.Errorf("POST %s: %s is kept", r.path, name)
			}
		}
	}
}

// Every POST says in the document that it takes a key.
func TestEveryPOSTNamesTheKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for path, operations := range w.document(t) {
		for method, o := range operations {
			named := false
			for _, p := range o.Parameters {
				named = named || p.Name == keyHeader && p.In == "header"
			}
			if named != (method == "post") {
				t.Errorf("%s %s: the document names the key: %v", method, path, named)
			}
		}
	}
}
