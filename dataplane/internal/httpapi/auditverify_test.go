package httpapi_test

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/migrations"
)

func openPool(t *testing.T, address string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func TestSec42TheVerifierAnswersOverTheAPI(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	host := hostOf(n.A)
	owner, _ := n.login(t, n.A)
	control := n.Control(t, n.A, n.B)
	heads := audit.NewControlHeads(openPool(t, tenanttest.WithRole(control, migrations.NodeRole)))
	n.audit.heads = heads
	sealer := audit.NewSealer(heads, identity.New(n.tokens, n.Key))
	app := openPool(t, appURL(t, n.A))
	tenant := audit.Tenant{Route: n.A.Route, Do: func(_ context.Context, work func(audit.Conn) error) error { return work(app) }}
	verify := func(token, query string) answer {
		t.Helper()
		return n.ask(t, http.MethodGet, host, "/audit/verify"+query, nil, bearer(token))
	}

	expect(t, "create a company", n.ask(t, http.MethodPost, host, "/company", object{"name": "Works"}, bearer(owner)), 201)
	before := verify(owner, "")
	expect(t, "before the first seal", before, 200)
	if before.at("valid") != true || before.number("batches") != 0 || before.number("unsealed") == 0 || before.text("head") != "" || before.text("kept_head") != "" {
		t.Errorf("before the first seal: %s", before.raw)
	}
	if _, err := sealer.Seal(t.Context(), tenant); err != nil {
		t.Fatal(err)
	}
	a := verify(owner, "")
	expect(t, "sealed", a, 200)
	if a.at("valid") != true || a.at("complete") != true || a.at("next") != nil || a.number("rows") == 0 || a.text("head") == "" || a.text("head") != a.text("kept_head") ||
		a.number("head_batch") != a.number("kept_batch") || a.text("checked_at") == "" || a.text("kept_at") == "" {
		t.Errorf("sealed: %s", a.raw)
	}
	if got := value[int64](t, n.A, "SELECT count(*) FROM ledger.activity_logs WHERE action = 'VERIFY' AND user_id = $1", n.A.OwnerID); got != 2 {
		t.Errorf("%d of 2 looks are recorded", got)
	}
	exec(t, n.A, "UPDATE ledger.security_logs SET action = 'NOTHING' WHERE id = 1")
	changed := verify(owner, "")
	expect(t, "changed", changed, 200)
	problems, _ := changed.at("problems").([]any)
	one, _ := problems[0].(map[string]any)
	if changed.at("valid") != false || len(problems) != 1 || one["log"] != "security" || one["row_id"] != 1.0 || one["what"] != "The row was changed." {
		t.Errorf("changed: %s", changed.raw)
	}
	expect(t, "from a later batch", verify(owner, "?from=100"), 200)
	expect(t, "from nowhere", verify(owner, "?from=0"), 422)

	admin, _ := n.member(t, n.A, "a@example.com", "admin", n.A.CompanyID)
	expect(t, "an admin", verify(admin, ""), 403, "permission_denied")
	b, _ := n.login(t, n.B)
	other := n.ask(t, http.MethodGet, hostOf(n.B), "/audit/verify", nil, bearer(b))
	expect(t, "B", other, 200)
	if other.text("kept_head") != "" || other.number("rows") != 0 {
		t.Errorf("B sees %s", other.raw)
	}
	n.audit.heads = brokenHeads{}
	expect(t, "without the control database", verify(owner, ""), 503, "audit_heads_unavailable")
	if n.audit.served.Load() == 0 {
		t.Error("nobody was told that there is something to seal")
	}
}

type brokenHeads struct{ audit.Heads }

func (brokenHeads) Kept(context.Context, uuid.UUID) ([]audit.Head, error) {
	return nil, errors.New("away")
}
