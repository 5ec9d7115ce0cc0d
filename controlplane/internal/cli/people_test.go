package cli_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/ouvira/ouvira/controlplane/internal/cli"
)

// atTerminal runs a command line of somebody who answers what is asked.
func (p *person) atTerminal(t *testing.T, answers []string, args ...string) (code int, out, errOut string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = cli.Run(t.Context(), args, cli.Process{
		In: strings.NewReader(""), Out: &stdout, Err: &stderr,
		Getenv: func(name string) string { return p.env[name] }, ConfigDir: func() (string, error) { return p.home, nil },
		ReadSecret: func(prompt string) (string, error) {
			if len(answers) == 0 {
				t.Errorf("asked once more: %s", prompt)
				return "", io.EOF
			}
			var answer string
			answer, answers = answers[0], answers[1:]
			return answer, nil
		},
	})
	if len(answers) > 0 {
		t.Errorf("was not asked for %v", answers)
	}
	return code, stdout.String(), stderr.String()
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"status": status, "code": code, "detail": "Refused: " + code + "."})
}

// A login asks for the code where there is one, and what wants a fresh login asks
// for both once more and goes on.
func TestLoginWithASecondFactor(t *testing.T) {
	t.Parallel()
	fresh := false
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var in map[string]any
		_ = json.NewDecoder(r.Body).Decode(&in)
		switch r.URL.Path {
		case "/v1/auth/login", "/v1/auth/confirm":
			switch {
			case in["password"] != "a secret of mine" || in["otp"] != nil && in["otp"] != "123456":
				refuse(w, 401, "login_refused")
			case in["otp"] == nil:
				refuse(w, 401, "otp_required")
			default:
				fresh = fresh || r.URL.Path == "/v1/auth/confirm"
				_, _ = w.Write([]byte(`{"access_token":"a","refresh_token":"r","expires_in":900}`))
			}
		case "/v1/operators/invitations":
			if !fresh {
				refuse(w, 403, "fresh_login_required")
				return
			}
			w.WriteHeader(201)
			_, _ = w.Write([]byte(`{"id":"i","email":"grace@ouvira.test","role":"support"}`))
		}
	})
	p := newPerson(t)
	p.env["OUVIRA_URL"] = url
	login := []string{"login", "--email", "ada@ouvira.test"}
	if code, _, errOut := p.run(t, "a secret of mine\n", append(login, "--password-stdin")...); code != cli.ExitUsage || !strings.Contains(errOut, "--otp") {
		t.Errorf("without a terminal: exit %d: %s", code, errOut)
	}
	if code, _, _ := p.atTerminal(t, []string{"a secret of mine", "000000"}, login...); code != cli.ExitRefused {
		t.Errorf("a wrong code: exit %d", code)
	}
	if code, _, errOut := p.run(t, "a secret of mine\n", append(login, "--password-stdin", "--otp", "123456")...); code != cli.ExitOK {
		t.Errorf("with --otp: exit %d: %s", code, errOut)
	}
	if code, _, errOut := p.atTerminal(t, []string{"a secret of mine", "123456"}, login...); code != cli.ExitOK {
		t.Errorf("asked: exit %d: %s", code, errOut)
	}
	invite := []string{"operator", "invite", "grace@ouvira.test", "--role", "support"}
	if code, _, errOut := p.run(t, "", invite...); code != cli.ExitRefused || !strings.Contains(errOut, "fresh_login_required") {
		t.Errorf("without a terminal: exit %d: %s", code, errOut)
	}
	code, out, errOut := p.atTerminal(t, []string{"a secret of mine", "123456"}, invite...)
	if code != cli.ExitOK || !strings.Contains(out, "grace@ouvira.test") || strings.Contains(out+errOut, "secret of mine") {
		t.Errorf("asked: exit %d: %s %s", code, out, errOut)
	}
}

// What each command asks of the API, and what it prints.
func TestPeopleKeysSupportAndWebhooks(t *testing.T) {
	t.Parallel()
	const people = `{"items":[{"id":"1","email":"ada@ouvira.test","role":"owner","is_active":true},{"id":"2","email":"grace@ouvira.test","role":"support","is_active":false}],"next_cursor":null}`
	for name, tc := range map[string]struct {
		args    []string
		request string // method, path, body
		answer  string
		prints  []string
		code    int
	}{
		"list":       {[]string{"operator", "list"}, "", people, []string{"EMAIL", "ada@ouvira.test", "no"}, 0},
		"invited":    {[]string{"operator", "list", "--invited"}, "", `{"items":[{"email":"joe@ouvira.test","role":"auditor","invited_by":"ada@ouvira.test"}]}`, []string{"INVITED BY", "joe@ouvira.test"}, 0},
		"role":       {[]string{"operator", "role", "Grace@ouvira.test", "operator"}, `PATCH /v1/operators/2 {"role":"operator"}`, `{"email":"grace@ouvira.test","role":"operator"}`, []string{"operator"}, 0},
		"deactivate": {[]string{"operator", "deactivate", "grace@ouvira.test"}, `PATCH /v1/operators/2 {"is_active":false}`, `{"email":"grace@ouvira.test"}`, nil, 0},
		"activate":   {[]string{"operator", "activate", "2"}, `PATCH /v1/operators/2 {"is_active":true}`, `{"email":"grace@ouvira.test"}`, nil, 0},
		"nobody":     {[]string{"operator", "deactivate", "nobody@ouvira.test"}, "", "", nil, cli.ExitNotFound},
		"key": {
			[]string{"apikey", "create", "ci", "--scope", "tenant.read,tenant.backup"},
			`POST /v1/api-keys {"name":"ci","scopes":["tenant.read","tenant.backup"]}`,
			`{"id":"k","name":"ci","key":"ovok_x","prefix":"ovok_","scopes":["tenant.read"]}`,
			[]string{"ovok_x"},
			0,
		},
		"keys":   {[]string{"apikey", "list"}, "", `{"items":[{"id":"k","name":"ci","prefix":"ovok_abc"}]}`, []string{"PREFIX", "ovok_abc"}, 0},
		"revoke": {[]string{"apikey", "revoke", "k"}, `DELETE /v1/api-keys/k `, ``, nil, 0},
		"enable": {[]string{"2fa", "enable"}, `POST /v1/auth/2fa `, `{"secret":"JBSW","url":"otpauth://x","backup_codes":["AAAA-BBBB"]}`, []string{"JBSW", "AAAA-BBBB"}, 0},
		"enter": {
			[]string{"support", "enter", "acme", "--reason", "Ticket 4711", "--minutes", "5"},
			`POST /v1/tenants/acme/support-sessions {"break_glass":false,"minutes":5,"reason":"Ticket 4711","write":false}`,
			`{"code":"ous_x","redeem_url":"http://acme.localhost/auth/support-session"}`,
			[]string{"ous_x", "http://acme.localhost/auth/support-session"},
			0,
		},
		"add": {
			[]string{"webhook", "add", "https://hooks.example.com", "--event", "tenant.created,tenant.deleted"},
			`POST /v1/webhooks {"description":"","events":["tenant.created","tenant.deleted"],"url":"https://hooks.example.com"}`,
			`{"id":"w","url":"https://hooks.example.com","secret":"whsec_x","status":"active"}`,
			[]string{"whsec_x"},
			0,
		},
		"webhooks":   {[]string{"webhook", "list"}, "", `{"items":[{"id":"w","url":"https://hooks.example.com","status":"disabled"}]}`, []string{"URL", "disabled"}, 0},
		"remove":     {[]string{"webhook", "remove", "w"}, `DELETE /v1/webhooks/w `, "", nil, 0},
		"test":       {[]string{"webhook", "test", "w"}, `POST /v1/webhooks/w/test `, `{"id":"d","type":"webhook.test","status":"pending"}`, []string{"webhook.test"}, 0},
		"deliveries": {[]string{"webhook", "deliveries", "w", "--status", "dead"}, "", `{"items":[{"id":"d","type":"tenant.created","last_error":"answered 500","attempts":11}]}`, []string{"ATTEMPTS", "answered 500"}, 0},
		"redeliver":  {[]string{"webhook", "redeliver", "d"}, `POST /v1/webhooks/deliveries/d/redeliver `, `{"id":"d","status":"pending"}`, []string{"pending"}, 0},
		"reset 2fa":  {[]string{"operator", "reset-2fa", "grace@ouvira.test"}, `POST /v1/operators/2/reset-2fa `, "", nil, 0},
		"uninvite":   {[]string{"operator", "uninvite", "Joe@ouvira.test"}, `DELETE /v1/operators/invitations/i `, `{"items":[{"id":"i","email":"joe@ouvira.test"}]}`, nil, 0},
		"uninvited":  {[]string{"operator", "uninvite", "eve@ouvira.test"}, "", `{"items":[{"id":"i","email":"joe@ouvira.test"}]}`, nil, cli.ExitNotFound},
		"disable":    {[]string{"webhook", "disable", "w"}, `PATCH /v1/webhooks/w {"active":false}`, `{"id":"w","status":"disabled"}`, []string{"disabled"}, 0},
		"wake":       {[]string{"webhook", "activate", "w"}, `PATCH /v1/webhooks/w {"active":true}`, `{"id":"w","status":"active"}`, []string{"active"}, 0},
		"audit":      {[]string{"audit", "list", "--limit", "5"}, "", `{"items":[{"id":7,"actor_name":"ada@ouvira.test","action":"tenant.suspend","entity_type":"tenant","entity_id":"t","detail":{"reason":"Unpaid."}}]}`, []string{"WHO", "ada@ouvira.test", "tenant.suspend", "Unpaid."}, 0},
		"audit of":   {[]string{"audit", "list", "--tenant", "acme"}, "", `{"items":[{"id":7,"actor_kind":"worker","actor_id":"w-1","action":"tenant.purge","detail":{}}]}`, []string{"worker:w-1", "tenant.purge"}, 0},
		"no reason":  {[]string{"support", "enter", "acme"}, "", "", nil, cli.ExitUsage},
		"no scope":   {[]string{"apikey", "create", "ci"}, "", "", nil, cli.ExitUsage},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked string
			p := newPerson(t)
			p.env["OUVIRA_URL"] = serve(t, func(w http.ResponseWriter, r *http.Request) {
				raw, _ := io.ReadAll(r.Body)
				answer := tc.answer
				if r.Method != http.MethodGet {
					asked = r.Method + " " + r.URL.Path + " " + string(raw)
				} else if r.URL.Path == "/v1/operators" {
					answer = people
				}
				_, _ = w.Write([]byte(answer))
			})
			code, out, errOut := p.run(t, "", tc.args...)
			if code != tc.code || asked != tc.request {
				t.Errorf("exit %d, asked %q: %s", code, asked, errOut)
			}
			for _, want := range tc.prints {
				if !strings.Contains(out, want) {
					t.Errorf("%q is not in\n%s", want, out)
				}
			}
		})
	}
}
