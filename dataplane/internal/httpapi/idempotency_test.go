package httpapi_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/testdb"
)

func (n *node) newCompany(t *testing.T, tenant tenanttest.Tenant, token, name string, keys ...string) answer {
	t.Helper()
	edits := []edit{bearer(token)}
	for _, key := range keys {
		edits = append(edits, header("Idempotency-Key", key))
	}
	return n.ask(t, http.MethodPost, hostOf(tenant), "/company", object{"name": name}, edits...)
}

func companies(t *testing.T, tenant tenanttest.Tenant) int {
	t.Helper()
	return value[int](t, tenant, "SELECT count(*) FROM public.companies")
}

func TestTheSameRequestIsDoneOnce(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	token, _ := n.login(t, n.A)
	first := n.newCompany(t, n.A, token, "North", "key-1")
	expect(t, "the first", first, 201)
	again := n.newCompany(t, n.A, token, "North", "key-1")
	if again.status != 201 || again.raw != first.raw || again.header.Get("ETag") != first.header.Get("ETag") ||
		again.header.Get("Idempotency-Replayed") != "true" || first.header.Get("Idempotency-Replayed") != "" {
		t.Errorf("the replay differs: %d %v %s", again.status, again.header, again.raw)
	}
	if made := companies(t, n.A); made != 2 {
		t.Errorf("%d companies, want the first one and the one that was made", made)
	}
	expect(t, "another body", n.newCompany(t, n.A, token, "South", "key-1"), 422, "idempotency_mismatch")
	expect(t, "another path", n.ask(t, http.MethodPost, hostOf(n.A), "/auth/logout", nil, bearer(token), header("Idempotency-Key", "key-1")), 422, "idempotency_mismatch")
	expect(t, "another key", n.newCompany(t, n.A, token, "North", "key-2"), 201)

	foreign, _ := n.login(t, n.B)
	if a := n.newCompany(t, n.B, foreign, "North", "key-1"); a.status != 201 || a.header.Get("Idempotency-Replayed") != "" {
		t.Errorf("the key of A at B: %d %v", a.status, a.header)
	}
	other := n.ask(t, http.MethodPost, hostOf(n.A), "/account/register", object{"full_name": "Ada", "email": "ada@example.com", "password": goodPassword})
	if a := n.newCompany(t, n.A, other.text("tokens", "access"), "North", "key-1"); a.status != 201 || a.header.Get("Idempotency-Replayed") != "" {
		t.Errorf("the same key of another user: %d %v", a.status, a.header)
	}
	exec(t, n.A, "UPDATE public.idempotency_keys SET created_at = created_at - interval '24 hours'")
	if a := n.newCompany(t, n.A, token, "South", "key-1"); a.status != 201 || a.text("name") != "South" {
		t.Errorf("after a day: %d %s", a.status, a.raw)
	}
}

// A hundred identical requests have one effect, whatever each has to wait for.
func TestRel10IdenticalPOSTsHaveOneEffect(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	token, _ := n.login(t, n.A)
	answers := make([]answer, 100)
	var callers sync.WaitGroup
	for i := range answers {
		callers.Go(func() {
			for { // as a client does that is told to try again
				answers[i] = n.newCompany(t, n.A, token, "North", "key-1")
				if answers[i].header.Get("Retry-After") == "" {
					return
				}
			}
		})
	}
	callers.Wait()
	for _, a := range answers {
		if a.status != 201 || a.raw != answers[0].raw {
			t.Fatalf("%d %s\n%d %s", answers[0].status, answers[0].raw, a.status, a.raw)
		}
	}
	if made := companies(t, n.A); made != 2 {
		t.Errorf("%d companies, want 2", made)
	}
	expect(t, "another body", n.newCompany(t, n.A, token, "South", "key-1"), 422, "idempotency_mismatch")
}

// The connection breaks off around the COMMIT: whoever sends the request again has it
// done once, whether the COMMIT was done or not.
func TestRel07AConnectionResetAroundCOMMIT(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	cut := testdb.NewCut(t, n.A.AdminURL)
	n.Table.Change(n.A.ID, func(r *route.Route) {
		server := *r.Server
		server.Host, server.Port = "127.0.0.1", uint16(cut.Port)
		r.Server = &server
	})
	token, _ := n.login(t, n.A)
	cut.BeforeCommit()
	expect(t, "cut before", n.newCompany(t, n.A, token, "North", "key-1"), 503, "database_unavailable")
	if made := companies(t, n.A); made != 1 {
		t.Errorf("%d companies, want the first one", made)
	}
	cut.AfterCommit()
	expect(t, "cut after", n.newCompany(t, n.A, token, "North", "key-1"), 503, "database_unavailable")
	if a := n.newCompany(t, n.A, token, "North", "key-1"); a.status != 201 || a.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("the third request: %d %v %s", a.status, a.header, a.raw)
	}
	if made := companies(t, n.A); made != 2 || cut.Cuts() != 2 {
		t.Errorf("%d companies after %d cuts, want 2 and 2", made, cut.Cuts())
	}
}

func TestARefusalLeavesTheKeyFree(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	token, _ := n.login(t, n.A)
	expect(t, "refused", n.newCompany(t, n.A, token, "   ", "key-1"), 422, "invalid")
	if kept := value[int](t, n.A, "SELECT count(*) FROM public.idempotency_keys"); kept != 0 {
		t.Error("the key of a refusal is kept")
	}
	expect(t, "put right", n.newCompany(t, n.A, token, "North", "key-1"), 201)
}

func TestTheSameRequestAtOnceIsDoneOnce(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	token, _ := n.login(t, n.A)
	conn := testdb.Connect(t, n.A.AdminURL)
	gate, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gate.Exec(t.Context(), "LOCK TABLE public.companies IN EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	answers := make([]answer, 2)
	var callers sync.WaitGroup
	for i := range answers {
		callers.Go(func() { answers[i] = n.newCompany(t, n.A, token, "North", "key-1") })
	}
	n.lineUp(t, n.A, len(answers))
	if err := gate.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	callers.Wait()
	if answers[0].status != 201 || answers[0].raw != answers[1].raw {
		t.Errorf("%d %s\n%d %s", answers[0].status, answers[0].raw, answers[1].status, answers[1].raw)
	}
	if made := companies(t, n.A); made != 2 {
		t.Errorf("%d companies, want 2", made)
	}
}

func TestKeysThatAreNone(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	token, _ := n.login(t, n.A)
	for _, key := range []string{"", strings.Repeat("k", 256), "käse", "a\tb"} {
		expect(t, "key "+key, n.newCompany(t, n.A, token, "North", key), 400, "bad_idempotency_key")
	}
	expect(t, "two keys", n.newCompany(t, n.A, token, "North", "a", "b"), 400, "bad_idempotency_key")
	expect(t, "the longest", n.newCompany(t, n.A, token, "North", strings.Repeat("k", 255)), 201)
	if made := companies(t, n.A); made != 2 {
		t.Errorf("%d companies, want 2", made)
	}
}

func TestOldKeysAreSwept(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	token, _ := n.login(t, n.A)
	exec(t, n.A, `INSERT INTO public.idempotency_keys (user_id, key_hash, request, created_at)
		SELECT $1, sha256(g::text::bytea), '', now() - interval '25 hours' FROM generate_series(1, 3) g`, n.A.OwnerID)
	n.newCompany(t, n.A, token, "North", "key-1")
	n.newCompany(t, n.A, token, "South", "key-2")
	if kept := value[int](t, n.A, "SELECT count(*) FROM public.idempotency_keys"); kept != 2 {
		t.Errorf("%d keys are kept, want 2", kept)
	}
}

func TestSecretsAreNotRemembered(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	token, _ := n.login(t, n.A)
	ask := func() answer {
		return n.ask(t, http.MethodPost, hostOf(n.A), "/account/api-keys", object{"name": "Export", "permissions": []string{"company.create"}},
			bearer(token), header("Idempotency-Key", "key-1"))
	}
	made := ask()
	expect(t, "the first", made, 201)
	again := ask()
	expect(t, "the replay", again, 201)
	if again.header.Get("Idempotency-Omitted") != "key" || again.text("key") != "" || again.number("id") != made.number("id") || again.text("prefix") != made.text("prefix") {
		t.Errorf("the replay is %v %s", again.header, again.raw)
	}
	key := made.text("key")
	if kept := value[string](t, n.A, "SELECT string_agg(k::text, ' ') FROM public.idempotency_keys k"); strings.Contains(kept, key) || strings.Contains(kept, key[len(key)-20:]) {
		t.Errorf("the secret is in the database: %s", kept)
	}
	if keys := value[int](t, n.A, "SELECT count(*) FROM public.api_keys"); keys != 1 {
		t.Errorf("%d API keys", keys)
	}
	// The keys of an API key are apart from its user's.
	if a := n.newCompany(t, n.A, key, "North", "key-1"); a.header.Get("Idempotency-Replayed") != "" || a.text("code") == "idempotency_mismatch" {
		t.Errorf("the same key with another credential: %d %v %s", a.status, a.header, a.raw)
	}
}

// Operations that have transactions of their own take the key as well.
func TestWorkOfSeveralTransactionsIsDoneOnce(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	token, _ := n.login(t, n.A)
	ask := func(path string, body object, key string) answer {
		return n.ask(t, http.MethodPost, hostOf(n.A), path, body, bearer(token), header("Idempotency-Key", key))
	}
	wrong := object{"current_password": "wrong", "new_password": goodPassword}
	if a := ask("/account/change-password", wrong, "key-1"); a.status < 400 || a.status > 499 {
		t.Errorf("a wrong password: %d %s", a.status, a.raw)
	}
	right := object{"current_password": tenanttest.OwnerPassword, "new_password": goodPassword}
	expect(t, "the key of a refusal is free", ask("/account/change-password", right, "key-1"), 200)
	if again := ask("/account/change-password", right, "key-1"); again.status != 200 || again.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("sent again: %d %s", again.status, again.raw)
	}
	expect(t, "another body", ask("/account/change-password", wrong, "key-1"), 422, "idempotency_mismatch")
	if stored := value[string](t, n.A, "SELECT string_agg(k::text, ' ') FROM public.idempotency_keys k"); strings.Contains(stored, goodPassword) {
		t.Error("a password is in the database")
	}

	enabled := ask("/auth/settings_enable-2fa", object{"method": "totp", "password": goodPassword}, "key-2")
	expect(t, "a second factor", enabled, 200)
	again := ask("/auth/settings_enable-2fa", object{"method": "totp", "password": goodPassword}, "key-2")
	if again.status != 200 || again.text("secret") != "" || again.text("qr_code") != "" || again.header.Get("Idempotency-Omitted") != "backup_codes, qr_code, secret" {
		t.Errorf("sent again: %d %v %s", again.status, again.header, again.raw)
	}

	// The node died in between: nobody knows.
	exec(t, n.A, "UPDATE public.idempotency_keys SET answer = NULL")
	expect(t, "under way, or broken off", ask("/account/change-password", right, "key-1"), 409, "idempotency_unfinished")
}
