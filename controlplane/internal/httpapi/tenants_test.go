package httpapi_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/ouvira/ouvira/controlplane/internal/operator"
)

// Suspending and resuming change the route, in the transaction of the change.
func TestSuspendAndResume(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.operator(t, operator.RoleOperator)
	id := w.active(t, "acme")
	before := w.routeVersion(t, id)
	a := w.want(t, 200, token, "POST", "/v1/tenants/acme/suspend", map[string]string{"reason": "Unpaid since June."})
	if a.text("status") != "suspended" || a.text("status_reason") != "Unpaid since June." {
		t.Errorf("unexpected answer: %s", a.raw)
	}
	if got := one[string](t, w, "SELECT status FROM node.routes_v1 WHERE tenant_id = $1 AND version > $2", id, before); got != "suspended" {
		t.Errorf("the route says %q", got)
	}
	if a := w.want(t, 409, token, "POST", "/v1/tenants/acme/suspend", map[string]string{"reason": "Again."}); !strings.Contains(a.text("detail"), "suspended") || !strings.Contains(a.text("detail"), "resume") ||
		!strings.Contains(a.text("detail"), "tenant.suspend by operator-") {
		t.Errorf("the refusal does not name the status, what is allowed, and who was first: %s", a.raw)
	}
	if a := w.want(t, 200, token, "POST", "/v1/tenants/"+id+"/resume", map[string]string{}); a.text("status") != "active" || a.text("status_reason") != "" {
		t.Errorf("unexpected answer: %s", a.raw)
	}
	w.want(t, 200, token, "POST", "/v1/tenants/acme/suspend", map[string]string{"reason": "Unpaid."})
	w.want(t, 200, token, "POST", "/v1/tenants/acme/resume", nil) // without a body
	events := one[[]string](t, w, "SELECT array_agg(type ORDER BY created_at, id) FROM control.events")
	if want := []string{"tenant.suspended", "tenant.resumed", "tenant.suspended", "tenant.resumed"}; !slices.Equal(events, want) {
		t.Errorf("events %v", events)
	}
	log := w.want(t, 200, w.operator(t, operator.RoleAuditor), "GET", "/v1/tenants/acme/audit?limit=4", nil)
	if log.text("items.0.action") != "tenant.resume" || log.text("items.3.detail.reason") != "Unpaid since June." || log.text("items.0.ip_address") != "127.0.0.1" {
		t.Errorf("unexpected audit log: %s", log.raw)
	}
}

func TestSettingsReachTheRoute(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.operator(t, operator.RoleOperator)
	id := w.active(t, "acme")
	before := w.routeVersion(t, id)
	w.want(t, 200, token, "PATCH", "/v1/tenants/acme", map[string]any{"name": "Acme Corporation"})
	if w.routeVersion(t, id) != before {
		t.Error("a new name, which no route carries, published the route")
	}
	a := w.want(t, 200, token, "PATCH", "/v1/tenants/acme", map[string]any{"settings": map[string]any{
		"self_registration": false, "cors_origins": []string{"https://app.acme.example"}, "locale": "pt-BR",
	}})
	if a.text("name") != "Acme Corporation" || a.field("settings.self_registration") != false || a.text("settings.cors_origins.0") != "https://app.acme.example" {
		t.Errorf("unexpected answer: %s", a.raw)
	}
	if w.routeVersion(t, id) != before+1 {
		t.Error("the settings were not published")
	}
	a = w.want(t, 200, token, "PATCH", "/v1/tenants/acme", map[string]any{"settings": map[string]any{"cors_origins": []string{}, "require_2fa": true}})
	if a.field("settings.self_registration") != false || a.text("settings.locale") != "pt-BR" || a.field("settings.require_2fa") != true {
		t.Errorf("a patch touches what it does not name: %s", a.raw)
	}
	bad := w.want(t, 422, token, "PATCH", "/v1/tenants/acme", map[string]any{"settings": map[string]any{
		"cors_origins": []string{"https://ok.example", "*", "null"}, "reset_url": "javascript:alert(1)", "invite_url": "http://acme.example", "locale": "english",
	}})
	want := []string{"settings.locale", "settings.reset_url", "settings.invite_url", "settings.cors_origins[1]", "settings.cors_origins[2]"}
	if !slices.Equal(bad.fields(), want) {
		t.Errorf("named %v", bad.fields())
	}
	branding := map[string]any{"name": "Acme", "logo_url": "https://acme.example/logo.png", "color": "#1A73e8", "from_name": "Acme support"}
	a = w.want(t, 200, token, "PATCH", "/v1/tenants/acme", map[string]any{"settings": map[string]any{"branding": branding}})
	if a.text("settings.branding.color") != "#1A73e8" || a.text("settings.branding.from_name") != "Acme support" || a.field("settings.require_2fa") != true {
		t.Errorf("the branding: %s", a.raw)
	}
	bad = w.want(t, 422, token, "PATCH", "/v1/tenants/acme", map[string]any{"settings": map[string]any{"branding": map[string]any{
		"name": "Acme\r\nBcc: x@example.com", "logo_url": "javascript:alert(1)", "color": "red;x:url(//y)", "from_name": "\"Acme\" <x@example.com>",
	}}})
	if want := []string{"settings.branding.name", "settings.branding.from_name", "settings.branding.logo_url", "settings.branding.color"}; !slices.Equal(bad.fields(), want) {
		t.Errorf("named %v", bad.fields())
	}
	a = w.want(t, 200, token, "PATCH", "/v1/tenants/acme", map[string]any{"settings": map[string]any{"branding": map[string]any{}}})
	if a.text("settings.branding.name") != "" {
		t.Errorf("the branding was not taken back: %s", a.raw)
	}
}

// The limits of a plan reach the routes of its tenants.
func TestLimitsOfAPlanReachTheRoutes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.operator(t, operator.RoleOperator)
	first, second := w.active(t, "acme"), w.active(t, "globex")
	before := w.routeVersion(t, first)
	w.want(t, 403, w.operator(t, operator.RoleSupport), "PATCH", "/v1/plans/standard", map[string]any{"limits": map[string]any{}})
	w.want(t, 404, token, "PATCH", "/v1/plans/none", map[string]any{"limits": map[string]any{}})
	a := w.want(t, 200, token, "PATCH", "/v1/plans/standard", map[string]any{"limits": map[string]any{"login_per_address": 600, "login_per_identifier": 7}})
	if a.field("limits.login_per_address") != 600.0 || a.text("code") != "standard" {
		t.Errorf("unexpected answer: %s", a.raw)
	}
	for _, id := range []string{first, second} {
		if got := one[string](t, w, "SELECT settings ->> 'limits' FROM node.routes_v1 WHERE tenant_id = $1 AND version > $2", id, before); got != `{"login_per_address": 600, "login_per_identifier": 7}` {
			t.Errorf("the route carries %s", got)
		}
	}
	w.want(t, 200, token, "PATCH", "/v1/plans/standard", map[string]any{"limits": map[string]any{"login_per_identifier": nil}})
	if list := w.want(t, 200, token, "GET", "/v1/plans", nil); !strings.Contains(list.raw, `"limits":{"login_per_address":600}`) {
		t.Errorf("the plans are %s", list.raw)
	}
	for name, count := range map[string]int{"login_per_moon": 5, "login_per_address": 0} {
		a := w.want(t, 422, token, "PATCH", "/v1/plans/standard", map[string]any{"limits": map[string]any{name: count}})
		if strings.Contains(a.raw, "moon") || name == "login_per_moon" && !strings.Contains(a.raw, "otp_send_per_number") {
			t.Errorf("the refusal is %s", a.raw)
		}
	}
	if got := one[string](t, w, "SELECT settings::text FROM control.tenants WHERE id = $1", first); strings.Contains(got, "limits") {
		t.Errorf("the tenant's own settings are %s", got)
	}
}
