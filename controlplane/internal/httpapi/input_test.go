package httpapi_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/ouvira/ouvira/controlplane/internal/operator"
)

func TestBadInput(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	owner := w.operator(t, operator.RoleOwner)
	w.active(t, "acme")
	w.want(t, http.StatusCreated, owner, "POST", "/v1/tenants/acme/domains", map[string]string{"hostname": "shop.acme.example"})
	with := func(field string, value any) map[string]any {
		f := form("initech")
		f[field] = value
		return f
	}
	for name, tc := range map[string]struct {
		path   string
		body   any
		status int
		field  string
		code   string
	}{
		"reserved slug":            {"/v1/signups", with("slug", "www"), 422, "slug", "reserved"},
		"slug too long":            {"/v1/signups", with("slug", strings.Repeat("a", 64)), 422, "slug", "too_long"},
		"slug too short":           {"/v1/signups", with("slug", "ab"), 422, "slug", "too_short"},
		"unicode slug":             {"/v1/signups", with("slug", "gülobex"), 422, "slug", "characters"},
		"long unicode slug":        {"/v1/signups", with("slug", strings.Repeat("ü", 60)), 422, "slug", "too_long"},
		"upper-case slug":          {"/v1/signups", with("slug", "Initech"), 422, "slug", "characters"},
		"slug with a dot":          {"/v1/signups", with("slug", "a.initech"), 422, "slug", "characters"},
		"slug of a digit":          {"/v1/signups", with("slug", "1nitech"), 422, "slug", "characters"},
		"slug ends with a hyphen":  {"/v1/signups", with("slug", "initech-"), 422, "slug", "characters"},
		"punycode slug":            {"/v1/signups", with("slug", "xn--abc"), 422, "slug", "characters"},
		"empty slug":               {"/v1/signups", with("slug", ""), 422, "slug", "required"},
		"slug of a wrong type":     {"/v1/signups", with("slug", 7), 422, "slug", "type"},
		"taken slug":               {"/v1/signups", with("slug", "acme"), 409, "slug", "taken"},
		"no email":                 {"/v1/signups", with("email", "bill"), 422, "email", "email"},
		"email with a line break":  {"/v1/signups", with("email", "bill@initech.example\r\nBcc: all@initech.example"), 422, "email", "email"},
		"quoted email":             {"/v1/signups", with("email", `"bill@evil.example> RCPT TO:<x"@initech.example`), 422, "email", "email"},
		"unicode email":            {"/v1/signups", with("email", "bíll@initech.example"), 422, "email", "email"},
		"email with a name":        {"/v1/signups", with("email", "Bill <bill@initech.example>"), 422, "email", "email"},
		"short password":           {"/v1/signups", with("password", "short"), 422, "password", "too_short"},
		"common password":          {"/v1/signups", with("password", "passwordpassword"), 422, "password", "too_common"},
		"name of two lines":        {"/v1/signups", with("full_name", "Bill\nLumbergh"), 422, "full_name", "characters"},
		"empty company":            {"/v1/signups", with("company_name", "  "), 422, "company_name", "required"},
		"unknown field":            {"/v1/signups", with("admin", true), 422, "admin", "unknown_field"},
		"missing field":            {"/v1/signups", `{"slug":"initech"}`, 422, "password", "required"},
		"malformed JSON":           {"/v1/signups", `{"slug":`, 400, "", "not_json"},
		"no body":                  {"/v1/signups", ``, 400, "", "body_required"},
		"duplicate keys":           {"/v1/signups", `{"slug":"a","slug":"b"}`, 400, "", "duplicate_key"},
		"oversize":                 {"/v1/signups", `{"slug":"` + strings.Repeat("a", 1<<20) + `"}`, 413, "", "too_large"},
		"tenant: reserved slug":    {"/v1/tenants", newTenant("admin"), 422, "slug", "reserved"},
		"tenant: taken slug":       {"/v1/tenants", newTenant("acme"), 409, "slug", "taken"},
		"tenant: no such plan":     {"/v1/tenants", newTenant("initech", "plan", "gold"), 422, "plan", "unknown"},
		"tenant: no such server":   {"/v1/tenants", newTenant("initech", "server", "z"), 422, "server", "unknown"},
		"domain: taken":            {"/v1/tenants/acme/domains", map[string]string{"hostname": "Shop.Acme.Example."}, 409, "hostname", "taken"},
		"domain: ours":             {"/v1/tenants/acme/domains", map[string]string{"hostname": "globex.ouvira.test"}, 422, "hostname", "platform_name"},
		"domain: the base":         {"/v1/tenants/acme/domains", map[string]string{"hostname": "ouvira.test"}, 422, "hostname", "platform_name"},
		"domain: a URL":            {"/v1/tenants/acme/domains", map[string]string{"hostname": "https://acme.example/"}, 422, "hostname", "hostname"},
		"domain: with a port":      {"/v1/tenants/acme/domains", map[string]string{"hostname": "acme.example:80"}, 422, "hostname", "hostname"},
		"domain: an address":       {"/v1/tenants/acme/domains", map[string]string{"hostname": "127.0.0.1"}, 422, "hostname", "hostname"},
		"domain: one label":        {"/v1/tenants/acme/domains", map[string]string{"hostname": "acme"}, 422, "hostname", "hostname"},
		"domain: no such tenant":   {"/v1/tenants/nobody/domains", map[string]string{"hostname": "x.acme.example"}, 404, "", "not_found"},
		"suspend without reason":   {"/v1/tenants/acme/suspend", map[string]string{"reason": ""}, 422, "reason", "length"},
		"resume what is active":    {"/v1/tenants/acme/resume", map[string]string{}, 409, "", "tenant_active"},
		"retry what is active":     {"/v1/tenants/acme/retry", nil, 409, "", "not_failed"},
		"rotate what there is not": {"/v1/tenants/acme/rotate", map[string]string{"what": "token"}, 422, "what", "choice"},
		"rotate at once":           {"/v1/tenants/acme/rotate", map[string]any{"at_once": true}, 422, "at_once", "not_allowed"},
		"server: no capacity":      {"/v1/servers", `{"name":"a","url":"postgres://x@y/z","capacity":{"databases":0,"connections":1}}`, 422, "capacity.databases", "range"},
		"server: no server":        {"/v1/servers", `{"name":"a","url":"postgres://x@127.0.0.1:1/z?sslmode=disable","capacity":{"databases":1,"connections":1}}`, 422, "url", "unreachable"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := w.want(t, tc.status, owner, "POST", tc.path, tc.body)
			if tc.field != "" && !slices.Contains(a.fields(), tc.field) {
				t.Errorf("the field %q is not named: %s", tc.field, a.raw)
			}
			if !strings.Contains(a.raw, `"code":"`+tc.code+`"`) {
				t.Errorf("the code %q is missing: %s", tc.code, a.raw)
			}
			if a.header.Get("Content-Type") != "application/problem+json" || a.text("detail") == "" || a.text("request_id") == "" {
				t.Errorf("not a whole problem document: %s", a.raw)
			}
		})
	}
}

func newTenant(slug string, more ...string) map[string]any {
	body := map[string]any{
		"slug": slug, "name": "Initech", "owner": map[string]string{"email": "bill@initech.example", "full_name": "Bill"},
	}
	for i := 0; i+1 < len(more); i += 2 {
		body[more[i]] = more[i+1]
	}
	return body
}

func TestAllWrongFieldsAreNamedAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.want(t, 422, "", "POST", "/v1/signups", map[string]string{
		"company_name": "", "slug": "www", "full_name": "", "email": "x", "password": "x",
	})
	if want := []string{"company_name", "slug", "full_name", "email", "password"}; !slices.Equal(a.fields(), want) {
		t.Errorf("named %v, want %v", a.fields(), want)
	}
}

// TestSec33 refuses hostile bodies without repeating anything of them.
func TestSec33HostileBodiesAreRefusedWithoutEcho(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	owner := w.operator(t, operator.RoleOwner)
	const canary = "CANARY-5f2b"
	nested := strings.Repeat(`{"a":`, 40) + `"` + canary + `"` + strings.Repeat("}", 40)
	for name, tc := range map[string]struct {
		body   string
		status int
	}{
		"duplicate keys":         {`{"password":"` + canary + `","password":"` + canary + `2"}`, 400},
		"duplicate keys, nested": {`{"owner":{"email":"` + canary + `","email":"b"}}`, 400},
		"keys that differ in case": {`{"slug":"` + canary + `","Slug":"b","name":"n",
			"owner":{"email":"a@b.example","full_name":"f"}}`, 422},
		"too deep":         {nested, 400},
		"oversize":         {`{"password":"` + canary + strings.Repeat("x", 2<<20) + `"}`, 413},
		"wrong types":      {`{"slug":["` + canary + `"],"password":{"x":"` + canary + `"},"email":7}`, 422},
		"unknown value":    {`{"` + canary + `":"` + canary + `"}`, 422},
		"trailing garbage": {`{"slug":"a"} ` + canary, 400},
		"not UTF-8":        {"{\"slug\":\"" + canary + "\xff\"}", 400},
		"NUL":              {`{"slug":"` + canary + `\u0000"}`, 400},
		"refused values": {`{"company_name":"` + canary + `","slug":"` + canary + `","full_name":"` + canary + `",
			"email":"` + canary + `","password":"` + canary + `","name":"x","owner":{"email":"` + canary + `","full_name":"x"},"cookie":"` + canary + `"}`, 422},
	} {
		for _, path := range []string{"/v1/signups", "/v1/auth/login", "/v1/tenants", "/v1/servers"} {
			t.Run(name+path, func(t *testing.T) {
				t.Parallel()
				a := w.call(t, owner, "POST", path, tc.body)
				if a.status != tc.status {
					t.Errorf("status %d, want %d: %s", a.status, tc.status, a.raw)
				}
				if strings.Contains(strings.ReplaceAll(a.raw, `"field":"`+canary+`"`, ""), canary) {
					t.Errorf("the answer repeats what it refuses: %s", a.raw)
				}
				for _, internal := range []string{"goroutine", "pgx", "SQLSTATE", ".go:", "json:"} {
					if strings.Contains(a.raw, internal) {
						t.Errorf("the answer shows internals (%s): %s", internal, a.raw)
					}
				}
			})
		}
	}
}

func TestUnknownPathsAndMethods(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want(t, 404, "", "GET", "/v1/nothing", nil)
	w.want(t, 405, "", "DELETE", "/v1/signups", nil)
	token := w.operator(t, operator.RoleOwner)
	for _, path := range []string{"/v1/tenants?q=%ff", "/v1/tenants?q=a%00", "/v1/tenants/%ff", "/v1/tenants/a%00", "/v1/audit?action=%c3%28", "/v1/tenants?x=%zz&q=%ff"} {
		w.want(t, 400, token, "GET", path, nil)
	}
	w.want(t, 404, "", "GET", "/v1/signups/01900000-0000-7000-8000-000000000001", nil)
	w.want(t, 422, "", "GET", "/v1/signups/abc", nil)
	w.want(t, 200, "", "GET", "/v1/signups/availability/?slug=initech", nil) // with a trailing slash
	for _, path := range []string{"/openapi.json", "/openapi.yaml", "/swagger/"} {
		w.want(t, 200, "", "GET", path, nil)
	}
}

func TestListsArePaged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	owner := w.operator(t, operator.RoleOwner)
	var want []string
	for i := range 7 {
		slug := fmt.Sprintf("tenant-%d", i)
		w.active(t, slug)
		want = append(want, slug)
	}
	for _, sort := range []string{"slug", "-slug", "name", "-name", "created_at", "-created_at", ""} {
		var got []string
		cursor := ""
		for range 10 {
			a := w.want(t, 200, owner, "GET", "/v1/tenants?limit=3&q=TENANT-&sort="+sort+"&cursor="+cursor, nil)
			for _, item := range a.json["items"].([]any) {
				got = append(got, item.(map[string]any)["slug"].(string))
			}
			if cursor = a.text("next_cursor"); cursor == "" {
				break
			}
		}
		expected := slices.Clone(want)
		if sort == "" || sort[0] == '-' {
			slices.Reverse(expected)
		}
		if !slices.Equal(got, expected) {
			t.Errorf("sort=%s: %v", sort, got)
		}
	}
	if a := w.want(t, 200, owner, "GET", "/v1/tenants?q=%25", nil); len(a.json["items"].([]any)) != 0 {
		t.Error("a % in the search is not taken literally")
	}
	first := w.want(t, 200, owner, "GET", "/v1/tenants?limit=3&sort=slug", nil).text("next_cursor")
	w.want(t, 422, owner, "GET", "/v1/tenants?sort=created_at&cursor="+first, nil)
	w.want(t, 422, owner, "GET", "/v1/tenants?sort=password_hash", nil)
	w.want(t, 422, owner, "GET", "/v1/tenants?limit=101", nil)
	// A forged cursor is a wrong value, not a fault of ours.
	for _, forged := range []string{"x", "eyJzIjoiLWlkIiwidiI6IngiLCJpIjoieCJ9", "eyJzIjoiY3JlYXRlZF9hdCIsInYiOiJ4IiwiaSI6IjAxOTAwMDAwLTAwMDAtNzAwMC04MDAwLTAwMDAwMDAwMDAwMSJ9"} {
		for _, path := range []string{"/v1/tenants?sort=created_at", "/v1/operations?x=1", "/v1/audit?x=1", "/v1/signups?x=1"} {
			if a := w.call(t, owner, "GET", path+"&cursor="+forged, nil); a.status != 422 {
				t.Errorf("%s: a forged cursor gives %d", path, a.status)
			}
		}
	}
	for _, path := range []string{"/v1/operations", "/v1/audit", "/v1/signups", "/v1/servers", "/v1/plans", "/v1/operators", "/v1/tenants/tenant-1/domains", "/v1/tenants/tenant-1/operations", "/v1/tenants/tenant-1/audit"} {
		if a := w.want(t, 200, owner, "GET", path, nil); a.json["items"] == nil {
			t.Errorf("%s: items is not a list: %s", path, a.raw)
		}
	}
}
