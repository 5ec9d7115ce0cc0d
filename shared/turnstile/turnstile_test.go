package turnstile_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ouvira/ouvira/shared/config"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/turnstile"
)

// verification is a server in Cloudflare's place.
func verification(t *testing.T, answer http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(answer)
	t.Cleanup(s.Close)
	return s.URL
}

func says(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}
}

const secret = "0x4AAAAAAA-of-our-own"

func verifier(address string) *turnstile.Verifier {
	return turnstile.New(turnstile.Settings{TurnstileSecretKey: secret, TurnstileURL: address})
}

func claim(token string) turnstile.Claim {
	return turnstile.Claim{
		Token: token, Action: "signup", ClientIP: netip.MustParseAddr("198.51.100.7"),
		Hostname: func(name string) bool { return name == "acme.example" },
	}
}

// codeOf is the code of a fault, "" for none.
func codeOf(t *testing.T, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	if strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "the-token") {
		t.Errorf("the error repeats a secret: %v", err)
	}
	return fault.From(err).EffectiveCode()
}

func TestSec24OnlyATokenOfOursPasses(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"all is well":             {says(200, `{"success":true,"hostname":"acme.example","action":"signup"}`), ""},
		"another host":            {says(200, `{"success":true,"hostname":"evil.example","action":"signup"}`), "turnstile_failed"},
		"no host":                 {says(200, `{"success":true,"action":"signup"}`), "turnstile_failed"},
		"another action":          {says(200, `{"success":true,"hostname":"acme.example","action":"login"}`), "turnstile_failed"},
		"no action":               {says(200, `{"success":true,"hostname":"acme.example"}`), "turnstile_failed"},
		"used before":             {says(200, `{"success":false,"error-codes":["timeout-or-duplicate"]}`), "turnstile_failed"},
		"made up":                 {says(200, `{"success":false,"error-codes":["invalid-input-response"]}`), "turnstile_failed"},
		"our secret is refused":   {says(200, `{"success":false,"error-codes":["invalid-input-secret"]}`), "turnstile_unavailable"},
		"an outage":               {says(503, ``), "turnstile_unavailable"},
		"an outage that says yes": {says(500, `{"success":true,"hostname":"acme.example","action":"signup"}`), "turnstile_unavailable"},
		"a refusal that says yes": {says(403, `{"success":true,"hostname":"acme.example","action":"signup"}`), "turnstile_unavailable"},
		"another page in between": {says(200, `<html>`), "turnstile_unavailable"},
		"a redirect":              {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) }, "turnstile_unavailable"},
		"an answer without an end": {func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, strings.Repeat(" ", 1<<20), `{"success":true}`)
		}, "turnstile_unavailable"},
		"a connection that breaks": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "turnstile_unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := codeOf(t, verifier(verification(t, tt.answer)).Verify(t.Context(), claim("the-token"))); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	if got := codeOf(t, verifier("http://127.0.0.1:1").Verify(t.Context(), claim("the-token"))); got != "turnstile_unavailable" {
		t.Errorf("nobody there: %q", got)
	}
	if got := codeOf(t, verifier("http://127.0.0.1:1").Verify(t.Context(), claim(" "))); got != "turnstile_required" {
		t.Errorf("without a token: %q", got)
	}
}

func TestSec24AStalledVerificationIsARefusal(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	over := make(chan struct{})
	address := verification(t, func(_ http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		select {
		case <-over:
		case <-r.Context().Done():
		}
	})
	t.Cleanup(func() { close(over) }) // before the server is closed
	if got := codeOf(t, verifier(address).Verify(t.Context(), claim("the-token"))); got != "turnstile_unavailable" {
		t.Errorf("got %q", got)
	}
	if asked.Load() != 2 {
		t.Errorf("asked %d times, want twice", asked.Load())
	}
}

// One failure is not the end: the question is repeated, as the same question.
func TestAQuestionIsRepeatedOnce(t *testing.T) {
	t.Parallel()
	var keys []string
	address := verification(t, func(w http.ResponseWriter, r *http.Request) {
		keys = append(keys, r.FormValue("idempotency_key"))
		if r.FormValue("secret") != secret || r.FormValue("response") != "the-token" || r.FormValue("remoteip") != "198.51.100.7" || r.URL.RawQuery != "" {
			t.Errorf("asked with %v", r.Form)
		}
		if len(keys) == 1 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		says(200, `{"success":true,"hostname":"acme.example","action":"signup"}`)(w, r)
	})
	if got := codeOf(t, verifier(address).Verify(t.Context(), claim("the-token"))); got != "" {
		t.Errorf("got %q", got)
	}
	if len(keys) != 2 || keys[0] == "" || keys[0] != keys[1] {
		t.Errorf("asked with the keys %q", keys)
	}
}

func TestSec24TestKeysWorkAnywhereButInProduction(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]string{
		"1x0000000000000000000000000000000AA": "",
		"2x0000000000000000000000000000000AA": "turnstile_failed",
		"3x0000000000000000000000000000000AA": "turnstile_failed",
	} {
		s := turnstile.Settings{TurnstileSecretKey: key}
		if got := codeOf(t, turnstile.New(s).Verify(t.Context(), claim("XXXX.DUMMY.TOKEN.XXXX"))); got != want {
			t.Errorf("%.2s: got %q, want %q", key, got, want)
		}
		if len(s.WrongTurnstile(config.Local)) != 0 || len(s.WrongTurnstile(config.Production)) != 1 || s.TurnstileNote() == "" {
			t.Errorf("%.2s: %v, %v, %q", key, s.WrongTurnstile(config.Local), s.WrongTurnstile(config.Production), s.TurnstileNote())
		}
		// With a verification of our own it is asked like any other key.
		s.TurnstileURL = verification(t, says(200, `{"success":true,"hostname":"evil.example","action":"signup"}`))
		if got := codeOf(t, turnstile.New(s).Verify(t.Context(), claim("the-token"))); got != "turnstile_failed" {
			t.Errorf("%.2s with an address: got %q", key, got)
		}
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	off := turnstile.Settings{}
	if turnstile.New(off) != nil || len(off.WrongTurnstile(config.Production)) != 0 || !strings.Contains(off.TurnstileNote(), "TURNSTILE_SECRET_KEY") {
		t.Errorf("without a key: %v, %q", off.WrongTurnstile(config.Production), off.TurnstileNote())
	}
	if err := turnstile.New(off).Verify(t.Context(), claim("")); err != nil {
		t.Errorf("without a key: %v", err)
	}
	for address, wrong := range map[string][2]int{ // local, production
		"https://challenges.example/verify": {0, 0},
		"http://127.0.0.1:9999":             {0, 1},
		"challenges.example":                {1, 2},
		"ftp://challenges.example":          {1, 2},
	} {
		s := turnstile.Settings{TurnstileSecretKey: secret, TurnstileURL: address}
		if l, p := len(s.WrongTurnstile(config.Local)), len(s.WrongTurnstile(config.Production)); l != wrong[0] || p != wrong[1] {
			t.Errorf("%s: %d and %d things wrong, want %v", address, l, p, wrong)
		}
		if s.TurnstileNote() != "" {
			t.Errorf("note: %q", s.TurnstileNote())
		}
	}
}
