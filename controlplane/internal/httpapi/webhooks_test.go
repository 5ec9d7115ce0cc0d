package httpapi_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/ouvira/ouvira/controlplane/internal/operator"
)

func TestWebhooksOverTheAPI(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token, auditor := w.operator(t, operator.RoleOperator), w.operator(t, operator.RoleAuditor)
	hook := map[string]any{"url": "https://hooks.example.com/x", "events": []string{"tenant.created", "tenant.suspended"}}
	w.want(t, 403, auditor, "POST", "/v1/webhooks", hook)
	w.want(t, 403, w.operator(t, operator.RoleSupport), "GET", "/v1/webhooks", nil)
	made := w.want(t, 201, token, "POST", "/v1/webhooks", hook)
	path := "/v1/webhooks/" + made.text("id")
	if !strings.HasPrefix(made.text("secret"), "whsec_") {
		t.Errorf("made: %s", made.raw)
	}
	for _, address := range []string{path, "/v1/webhooks"} {
		if a := w.want(t, 200, auditor, "GET", address, nil); strings.Contains(a.raw, made.text("secret")) || strings.Contains(a.raw, `"secret"`) {
			t.Errorf("the secret is shown again: %s", a.raw)
		}
	}
	for name, wrong := range map[string]map[string]any{
		"url":    {"url": "https://10.0.0.1/", "events": []string{"tenant.created"}},
		"events": {"url": "https://hooks.example.com", "events": []string{"tenant.flies"}},
	} {
		if a := w.want(t, 422, token, "POST", "/v1/webhooks", wrong); !slices.Contains(a.fields(), name) {
			t.Errorf("%s: %s", name, a.raw)
		}
	}
	for range 3 {
		w.want(t, 202, token, "POST", path+"/test", nil)
	}
	var got []string
	cursor := ""
	for range 3 {
		a := w.want(t, 200, auditor, "GET", path+"/deliveries?limit=2&status=pending&cursor="+cursor, nil)
		for _, item := range a.json["items"].([]any) {
			got = append(got, item.(map[string]any)["id"].(string))
		}
		if cursor = a.text("next_cursor"); cursor == "" {
			break
		}
	}
	if slices.Sort(got); len(slices.Compact(got)) != 3 {
		t.Errorf("the pages have %v", got)
	}
	if a := w.want(t, 202, token, "POST", "/v1/webhooks/deliveries/"+got[0]+"/redeliver", nil); a.text("type") != "webhook.test" || a.text("status") != "pending" {
		t.Errorf("redelivered: %s", a.raw)
	}
	if a := w.want(t, 200, token, "PATCH", path, map[string]any{"active": false}); a.text("status") != "disabled" {
		t.Errorf("disabled: %s", a.raw)
	}
	w.want(t, 409, token, "POST", path+"/test", nil)
	if a := w.want(t, 200, auditor, "GET", "/v1/webhooks/event-types", nil); a.text("items.0") != "signup.created" {
		t.Errorf("event types: %s", a.raw)
	}
	w.want(t, 422, token, "GET", path+"/deliveries?cursor=x", nil)
	w.want(t, 204, token, "DELETE", path, nil)
	w.want(t, 404, token, "GET", path, nil)
}
