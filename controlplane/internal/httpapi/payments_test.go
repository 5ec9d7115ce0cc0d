package httpapi_test

import (
	"encoding/json"
	"testing"

	"github.com/ouvira/ouvira/controlplane/internal/operator"
)

func TestPayments(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token, support := w.operator(t, operator.RoleOperator), w.operator(t, operator.RoleSupport)
	w.active(t, "acme")
	payment := map[string]any{"amount": "120.50", "currency": "EUR", "period_end": "2030-01-31", "reference": "INV-1"}
	const path = "/v1/tenants/acme/payments"
	w.want(t, 403, support, "POST", path, payment)
	first := w.want(t, 201, token, "POST", path, payment)
	if first.text("amount") != "120.50" || first.text("period_end") != "2030-01-31" {
		t.Errorf("unexpected answer: %s", first.raw)
	}
	if again := w.want(t, 201, token, "POST", path, payment); again.text("id") != first.text("id") {
		t.Errorf("sent again it is another payment: %s", again.raw)
	}
	if a := w.want(t, 200, token, "GET", "/v1/tenants/acme", nil); a.text("paid_until") != "2030-01-31" || a.field("on_trial") != false {
		t.Errorf("unexpected tenant: %s", a.raw)
	}
	payment["amount"] = "1"
	if a := w.want(t, 409, token, "POST", path, payment); a.text("code") != "reference_used" {
		t.Errorf("unexpected answer: %s", a.raw)
	}
	number := map[string]any{"amount": json.Number("99.50"), "currency": "EUR", "period_end": "2029-01-31", "reference": "INV-number"}
	if a := w.want(t, 201, token, "POST", path, number); a.text("amount") != "99.50" {
		t.Errorf("an amount that is a number: %s", a.raw)
	}
	number["amount"] = "99.5"
	w.want(t, 201, token, "POST", path, number) // the same, in words
	for _, odd := range []any{true, nil, []string{"1"}, json.Number("1e3"), json.Number("-1"), "1.00000"} {
		number["amount"], number["reference"] = odd, "INV-odd"
		if a := w.want(t, 422, token, "POST", path, number); len(a.fields()) != 1 || a.fields()[0] != "amount" {
			t.Errorf("an amount of %v: %s", odd, a.raw)
		}
	}
	for field, value := range map[string]string{"amount": "many", "currency": "€", "period_end": "31.1.2030", "reference": ""} {
		bad := map[string]any{"amount": "1", "currency": "EUR", "period_end": "2030-01-31", "reference": "INV-2", field: value}
		if a := w.want(t, 422, token, "POST", path, bad); len(a.fields()) != 1 || a.fields()[0] != field {
			t.Errorf("%s: %s", field, a.raw)
		}
	}
	if a := w.want(t, 200, support, "GET", path, nil); a.text("items.1.reference") != "INV-1" || a.field("items.2") != nil {
		t.Errorf("unexpected list: %s", a.raw)
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	auditor := w.operator(t, operator.RoleAuditor)
	id := w.active(t, "acme")
	w.active(t, "globex")
	w.exec(t, `INSERT INTO control.usage_hours (tenant_id, hour, database_bytes, connections, requests, errors, logins)
		VALUES ($1, date_trunc('hour', now(), 'UTC'), 9000000, 3, 100, 1, 7)`, id)
	if err := w.rooms.Usage.RollUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, query := range []string{"", "?by=hour", "?by=day&from=2020-01-01&to=2100-01-01", "?by=hour&from=2020-01-01T00:00:00Z"} {
		a := w.want(t, 200, auditor, "GET", "/v1/tenants/acme/usage"+query, nil)
		if a.field("items.0.requests") != 100.0 || a.field("items.0.database_bytes") != 9e6 || a.field("items.1") != nil {
			t.Errorf("%s: %s", query, a.raw)
		}
	}
	if a := w.want(t, 200, auditor, "GET", "/v1/tenants/globex/usage", nil); a.field("items.0") != nil {
		t.Errorf("the neighbour: %s", a.raw)
	}
	for query, field := range map[string]string{"?from=yesterday": "from", "?to=1.2.2030": "to", "?from=2030-01-02&to=2030-01-01": "to"} {
		if a := w.want(t, 422, auditor, "GET", "/v1/tenants/acme/usage"+query, nil); len(a.fields()) != 1 || a.fields()[0] != field {
			t.Errorf("%s: %s", query, a.raw)
		}
	}
}
