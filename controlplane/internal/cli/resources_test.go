package cli_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/ouvira/ouvira/controlplane/internal/cli"
)

// recorder answers by method and path, and remembers what was asked.
type recorder struct {
	answers map[string]string

	mu    sync.Mutex
	asked []string
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body := new(strings.Builder)
	if q.Body != nil {
		buffer := make([]byte, 4096)
		n, _ := q.Body.Read(buffer)
		body.Write(buffer[:n])
	}
	key := q.Method + " " + q.URL.Path
	r.mu.Lock()
	r.asked = append(r.asked, strings.TrimSpace(key+" "+body.String()))
	r.mu.Unlock()
	answer, known := r.answers[key]
	if !known {
		problem(w, http.StatusNotFound)
		return
	}
	_, _ = w.Write([]byte(answer))
}

// last is what was asked last.
func (r *recorder) last() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked[len(r.asked)-1]
}

func TestDomainCommands(t *testing.T) {
	t.Parallel()
	const d = `{"id":"D1","hostname":"xn--bcher-kva.example","display_name":"bücher.example","status":"verified","is_primary":true,"dns":{"name":"_ouvira.xn--bcher-kva.example","type":"TXT","value":"ouvira-verification=X"}}`
	r := &recorder{answers: map[string]string{
		"GET /v1/tenants/acme/domains":  `{"items":[` + d + `],"next_cursor":null}`,
		"POST /v1/tenants/acme/domains": d, "POST /v1/domains/D1/verify": d, "POST /v1/domains/D1/primary": d,
		"DELETE /v1/domains/D1/primary": d, "DELETE /v1/domains/D1": "", "POST /v1/domains/D1/check": `{"proof":"missing","domain":` + d + `}`,
	}}
	p := newPerson(t)
	p.env["OUVIRA_URL"] = serve(t, r.ServeHTTP)
	for _, c := range []struct{ args, asked, shown string }{
		{"domain add acme bücher.example", `POST /v1/tenants/acme/domains {"hostname":"bücher.example"}`, "ouvira-verification=X"},
		{"domain list acme", "GET /v1/tenants/acme/domains", "bücher.example"},
		{"domain list acme -o wide", "GET /v1/tenants/acme/domains", "D1"},
		{"domain verify acme BÜCHER.example", "POST /v1/domains/D1/verify", "verified"},
		{"domain verify acme xn--bcher-kva.example", "POST /v1/domains/D1/verify", "verified"},
		{"domain primary acme bücher.example", "POST /v1/domains/D1/primary", "primary:"},
		{"domain primary acme bücher.example --unset", "DELETE /v1/domains/D1/primary", "primary:"},
		{"domain check acme bücher.example", "POST /v1/domains/D1/check", "missing"},
		{"domain check acme bücher.example -o yaml", "POST /v1/domains/D1/check", "proof: missing"},
		{"domain remove acme bücher.example", "DELETE /v1/domains/D1", ""},
	} {
		code, out, errOut := p.run(t, "", strings.Fields(c.args)...)
		if code != cli.ExitOK || r.last() != c.asked || !strings.Contains(out, c.shown) {
			t.Errorf("%s: exit %d, asked %q, shown %q %s", c.args, code, r.last(), out, errOut)
		}
	}
	if code, _, errOut := p.run(t, "", "domain", "verify", "acme", "other.example"); code != cli.ExitNotFound || !strings.Contains(errOut, "ouvira domain list acme") {
		t.Errorf("exit %d: %s", code, errOut)
	}
	if code, _, _ := p.run(t, "", "domain", "verify", "acme", "not a name"); code != cli.ExitUsage {
		t.Errorf("exit %d", code)
	}
	if code, _, _ := p.run(t, "", "domain", "verify", "globex", "a.example"); code != cli.ExitNotFound {
		t.Errorf("exit %d", code)
	}
}

func TestPlanCommands(t *testing.T) {
	t.Parallel()
	const team = `{"code":"team","name":"Team","max_connections":20,"statement_timeout_ms":30000,"max_users":50,"grace_days":7,"lapse_action":"suspend","limits":{}}`
	r := &recorder{answers: map[string]string{
		"GET /v1/plans": `{"items":[` + team + `],"next_cursor":null}`, "POST /v1/plans": team, "GET /v1/plans/team": team, "PATCH /v1/plans/team": team, "DELETE /v1/plans/team": "",
	}}
	p := newPerson(t)
	p.env["OUVIRA_URL"] = serve(t, r.ServeHTTP)
	for _, c := range []struct{ args, asked, shown string }{
		{"plan list", "GET /v1/plans", "suspend after 7 d"},
		{"plan show team", "GET /v1/plans/team", "30s"},
		{"plan create team --name Team --users 50 --connections 20", `POST /v1/plans {"code":"team","max_connections":20,"max_users":50,"name":"Team"}`, "team"},
		{"plan update team --users 0 --lapse suspend --limit login_per_address=600 --limit sms_per_day=", `PATCH /v1/plans/team {"lapse_action":"suspend","limits":{"login_per_address":600,"sms_per_day":null},"max_users":0}`, "team"},
		{"plan delete team", "DELETE /v1/plans/team", ""},
	} {
		code, out, errOut := p.run(t, "", strings.Fields(c.args)...)
		if code != cli.ExitOK || r.last() != c.asked || !strings.Contains(out, c.shown) {
			t.Errorf("%s: exit %d, asked %q, shown %q %s", c.args, code, r.last(), out, errOut)
		}
	}
	if code, _, _ := p.run(t, "", "plan", "update", "team", "--limit", "login_per_address"); code != cli.ExitUsage {
		t.Errorf("exit %d", code)
	}
}

func TestPaymentCommands(t *testing.T) {
	t.Parallel()
	const p1 = `{"amount":"120.00","currency":"EUR","period_end":"2027-01-31","reference":"INV-1"}`
	r := &recorder{answers: map[string]string{
		"GET /v1/tenants/acme/payments": `{"items":[` + p1 + `],"next_cursor":null}`, "POST /v1/tenants/acme/payments": p1,
	}}
	p := newPerson(t)
	p.env["OUVIRA_URL"] = serve(t, r.ServeHTTP)
	for _, c := range []struct{ args, asked, shown string }{
		{"tenant payments acme", "GET /v1/tenants/acme/payments", "INV-1"},
		{"tenant pay acme --amount 120.00 --currency EUR --period-end 2027-01-31 --reference INV-1", "POST /v1/tenants/acme/payments " + `{"amount":"120.00","currency":"EUR","period_end":"2027-01-31","reference":"INV-1"}`, "2027-01-31"},
	} {
		code, out, errOut := p.run(t, "", strings.Fields(c.args)...)
		if code != cli.ExitOK || r.last() != c.asked || !strings.Contains(out, c.shown) {
			t.Errorf("%s: exit %d, asked %q, shown %q %s", c.args, code, r.last(), out, errOut)
		}
	}
	if code, _, _ := p.run(t, "", "tenant", "pay", "acme", "--amount", "1"); code != cli.ExitUsage {
		t.Errorf("exit %d", code)
	}
}

func TestSignupCommands(t *testing.T) {
	t.Parallel()
	r := &recorder{answers: map[string]string{
		"GET /v1/signups":             `{"items":[{"id":"S1","slug":"initech","status":"pending_approval"}],"next_cursor":null}`,
		"POST /v1/signups/S1/approve": `{"status":"provisioning","tenant":{"id":"T1","slug":"initech","status":"provisioning"},"operation":{"id":"O1"}}`,
		"POST /v1/signups/S1/reject":  `{"status":"rejected"}`,
	}}
	p := newPerson(t)
	p.env["OUVIRA_URL"] = serve(t, r.ServeHTTP)
	for _, c := range []struct{ args, asked, shown string }{
		{"signup list --status pending_approval", "GET /v1/signups", "pending_approval"},
		{"signup approve S1", `POST /v1/signups/S1/approve {"reason":""}`, "initech"},
		{"signup reject S1 --reason No", `POST /v1/signups/S1/reject {"reason":"No"}`, ""},
	} {
		code, out, errOut := p.run(t, "", strings.Fields(c.args)...)
		if code != cli.ExitOK || r.last() != c.asked || !strings.Contains(out, c.shown) {
			t.Errorf("%s: exit %d, asked %q, shown %q %s", c.args, code, r.last(), out, errOut)
		}
	}
	if code, _, _ := p.run(t, "", "signup", "reject", "S1"); code != cli.ExitUsage {
		t.Errorf("exit %d", code)
	}
}

func TestTenantSettings(t *testing.T) {
	t.Parallel()
	r := &recorder{answers: map[string]string{"PATCH /v1/tenants/acme": `{"slug":"acme"}`}}
	p := newPerson(t)
	p.env["OUVIRA_URL"] = serve(t, r.ServeHTTP)
	code, _, errOut := p.run(t, "", "tenant", "set", "acme", "--name", "Acme", "--setting", "require_2fa=true",
		"--setting", "cors_origins=https://a.example,https://b.example", "--setting", "locale=")
	want := `PATCH /v1/tenants/acme {"name":"Acme","settings":{"cors_origins":["https://a.example","https://b.example"],"locale":"","require_2fa":true}}`
	if code != cli.ExitOK || r.last() != want {
		t.Errorf("exit %d, asked %s: %s", code, r.last(), errOut)
	}
	for _, odd := range []string{"require_2fa=perhaps", "locale", "sandbox=true", "="} {
		if code, _, errOut := p.run(t, "", "tenant", "set", "acme", "--setting", odd); code != cli.ExitUsage || !strings.Contains(errOut, "--setting") {
			t.Errorf("%s: exit %d: %s", odd, code, errOut)
		}
	}
}

func TestUsageCommand(t *testing.T) {
	t.Parallel()
	r := &recorder{answers: map[string]string{
		"GET /v1/tenants/acme/usage": `{"items":[{"from":"2027-01-31T00:00:00Z","database_bytes":10485760,"connections":3,"requests":100}],"next_cursor":null}`,
	}}
	p := newPerson(t)
	p.env["OUVIRA_URL"] = serve(t, r.ServeHTTP)
	code, out, errOut := p.run(t, "", "tenant", "usage", "acme", "--from", "2027-01-31", "--by", "day")
	if code != cli.ExitOK || !strings.Contains(out, "10.0 MiB") || !strings.Contains(out, "2027-01-31") {
		t.Errorf("exit %d: %s %s", code, out, errOut)
	}
}
