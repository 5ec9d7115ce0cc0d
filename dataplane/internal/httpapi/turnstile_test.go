package httpapi_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/ouvira/ouvira/dataplane/internal/httpapi"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/turnstile"
)

// withTurnstile is a node whose verification answers what it is told.
func withTurnstile(t *testing.T) (n *node, say func(answer string), asked *atomic.Int64) {
	t.Helper()
	var answer atomic.Value
	answer.Store("")
	asked = &atomic.Int64{}
	verification := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		text, _ := answer.Load().(string)
		if text == "" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprint(w, text)
	}))
	t.Cleanup(verification.Close)
	n = newNode(t, func(o *httpapi.Options) {
		o.Turnstile = turnstile.New(turnstile.Settings{TurnstileSecretKey: "0x4AAAAAAA-of-our-own", TurnstileURL: verification.URL})
	})
	return n, func(text string) { answer.Store(text) }, asked
}

func passed(hostname, action string) string {
	return fmt.Sprintf(`{"success":true,"hostname":%q,"action":%q}`, hostname, action)
}

func TestSec24OnlyPeopleSignUp(t *testing.T) {
	t.Parallel()
	n, say, asked := withTurnstile(t)
	n.Table.Change(n.A.ID, func(r *route.Route) { r.Settings.CORSOrigins = []string{"https://app.example:8443"} })
	counter := 0
	signup := func(edit object) answer {
		counter++
		body := object{"full_name": "Ada", "primary_mobile": mobile, "turnstile_token": fmt.Sprint("token-", counter)}
		maps.Copy(body, edit)
		return n.post(t, n.A, "/auth/signup", body)
	}
	say(passed(hostOf(n.A), "signup"))
	expect(t, "without a token", signup(object{"turnstile_token": ""}), 422, "turnstile_required")
	expect(t, "all is well", signup(nil), 201)
	expect(t, "the same token, though Cloudflare would take it", signup(object{"turnstile_token": "token-2"}), 403, "turnstile_failed")
	say(passed("app.example", "signup"))
	expect(t, "a page of the tenant's own", signup(nil), 201)
	sent := len(messages(t, n, n.A))
	for name, bad := range map[string]string{
		"the other tenant's page": passed(hostOf(n.B), "signup"),
		"a stranger's page":       passed("evil.example", "signup"),
		"no tenant's page":        passed("nobody.localhost", "signup"),
		"another action":          passed(hostOf(n.A), "register"),
		"a refusal":               `{"success":false,"error-codes":["timeout-or-duplicate"]}`,
	} {
		say(bad)
		expect(t, name, signup(nil), 403, "turnstile_failed")
	}
	say("")
	expect(t, "an outage", signup(nil), 503, "turnstile_unavailable")
	if now := len(messages(t, n, n.A)); now != sent {
		t.Errorf("%d messages were sent for refused tokens", now-sent)
	}

	register := object{"full_name": "Ada", "email": "ada@example.com", "password": goodPassword}
	expect(t, "register without a token", n.post(t, n.A, "/account/register", register), 422, "turnstile_required")
	register["turnstile_token"] = "register-1"
	say(passed(hostOf(n.A), "signup"))
	expect(t, "register with a token for signing up", n.post(t, n.A, "/account/register", register), 403, "turnstile_failed")
	say(passed(hostOf(n.A), "register"))
	expect(t, "register", n.post(t, n.A, "/account/register", register), 201)

	before := asked.Load()
	expect(t, "an invitation that is not one", n.post(t, n.A, "/account/register", object{
		"full_name": "Bob", "email": "bob@example.com", "password": goodPassword, "invitation_token": "made-up",
	}), 422)
	if asked.Load() != before {
		t.Error("asked for somebody who says they are invited")
	}
	if kept := value[int](t, n.A, "SELECT count(*) FROM public.turnstile_tokens WHERE length(token_hash) = 32"); kept != 3 {
		t.Errorf("%d tokens are remembered, want 3", kept)
	}
	n.neverLogged(t, "0x4AAAAAAA-of-our-own", "token-2")
}
