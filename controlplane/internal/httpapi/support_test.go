package httpapi_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/pquerna/otp/totp"

	"github.com/ouvira/ouvira/controlplane/internal/operator"
	"github.com/ouvira/ouvira/shared/route"
)

// Who asks gets a code that a node redeems once, and both are in the audit. Whether
// the tenant lets support in, and who is told, is the node's (its TestSupport…).
func TestSupportCodes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := uuid.MustParse(w.active(t, "acme"))
	const path = "/v1/tenants/acme/support-sessions"
	ticket := map[string]any{"reason": "Ticket 4711", "minutes": 15, "write": true}
	token := w.operator(t, operator.RoleSupport)
	w.want(t, 403, w.operator(t, operator.RoleAuditor), "POST", path, ticket)
	made := w.want(t, 201, token, "POST", path, ticket)
	if made.text("redeem_url") != "https://acme.ouvira.test/auth/support-session" {
		t.Errorf("made: %s", made.raw)
	}
	hash, ok := route.SupportCodeHash(id, made.text("code"))
	if !ok {
		t.Fatalf("the code is none of the tenant: %s", made.raw)
	}
	node, err := pgx.Connect(t.Context(), w.control.NodeURL)
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close(t.Context())
	var reason string
	var minutes int
	var write bool
	redeem := func() error {
		return node.QueryRow(t.Context(), "SELECT reason, minutes, write FROM node.redeem_support_code($1, $2)", id, hash).Scan(&reason, &minutes, &write)
	}
	if err := redeem(); err != nil || reason != "Ticket 4711" || minutes != 15 || !write {
		t.Errorf("redeemed: %q, %d, %v, %v", reason, minutes, write, err)
	}
	if err := redeem(); err != pgx.ErrNoRows {
		t.Errorf("redeemed twice: %v", err)
	}
	actions := one[[]string](t, w, "SELECT array_agg(action ORDER BY id) FROM control.audit_log WHERE tenant_id = $1", id)
	if !slices.Equal(actions, []string{"support.request", "support.enter"}) {
		t.Errorf("the audit has %v", actions)
	}
	w.want(t, 201, w.key(t, token, "support.enter"), "POST", path, ticket)
	for name, wrong := range map[string]map[string]any{
		"reason":  {"reason": " ", "minutes": 15},
		"minutes": {"reason": "Ticket", "minutes": 61},
		"write":   {"reason": "Ticket", "minutes": 1, "write": true, "break_glass": true},
	} {
		if a := w.want(t, 422, token, "POST", path, wrong); !slices.Contains(a.fields(), name) {
			t.Errorf("%s: %s", name, a.raw)
		}
	}
	w.exec(t, "UPDATE control.tenants SET status = 'suspended'")
	if a := w.want(t, 409, token, "POST", path, ticket); !strings.Contains(a.text("detail"), "suspended") {
		t.Errorf("a suspended tenant: %s", a.raw)
	}
}

// TestSec56 breaking the glass takes an owner, in person, with a second factor that
// was shown within the last 15 minutes.
func TestSec56BreakGlassWantsAFreshSecondFactor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.active(t, "acme")
	const path = "/v1/tenants/acme/support-sessions"
	emergency := map[string]any{"reason": "The owners are locked out", "minutes": 15, "break_glass": true}
	owner := w.operator(t, operator.RoleOwner)
	refused := func(what, token, code string) {
		t.Helper()
		if a := w.want(t, 403, token, "POST", path, emergency); a.text("code") != code {
			t.Errorf("%s: %s", what, a.raw)
		}
	}
	refused("an operator", w.operator(t, operator.RoleOperator), "permission_denied")
	refused("without a second factor", owner, "second_factor_required")
	enrolled := w.want(t, 201, owner, "POST", "/v1/auth/2fa", nil)
	refused("with one that is not confirmed", owner, "second_factor_required")
	code, err := totp.GenerateCode(enrolled.text("secret"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	w.want(t, 204, owner, "POST", "/v1/auth/2fa/confirm", map[string]string{"code": code})
	w.want(t, 201, owner, "POST", path, emergency)
	refused("a key", w.key(t, owner, "support.enter", "support.breakglass"), "not_for_api_keys")
	w.exec(t, "UPDATE control.operator_sessions SET second_factor_at = now() - interval '16 min'")
	refused("after 16 minutes", owner, "second_factor_required")
	w.want(t, 204, owner, "POST", "/v1/auth/confirm", map[string]string{"password": password, "otp": enrolled.text("backup_codes.0")})
	w.want(t, 201, owner, "POST", path, emergency)
}
