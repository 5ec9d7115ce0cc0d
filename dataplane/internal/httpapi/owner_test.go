package httpapi_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
)

// try runs a statement as superuser and tells whether the last owner stood in
// its way.
func try(t *testing.T, tenant tenanttest.Tenant, sql string, args ...any) string {
	t.Helper()
	conn := testdb.Connect(t, tenant.AdminURL)
	defer conn.Close(t.Context())
	_, err := conn.Exec(t.Context(), sql, args...)
	switch {
	case err == nil:
		return "done"
	case pg.Constraint(err) == "companies_last_owner_check":
		return "refused"
	}
	return err.Error()
}

func TestTheDatabaseKeepsAnOwnerInEachCompany(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	second := n.person(t, n.A, "second")
	const (
		suspend  = "UPDATE public.user_companies SET is_active = false WHERE user_id = $1"
		leave    = "DELETE FROM public.user_companies WHERE user_id = $1"
		move     = "UPDATE public.user_companies SET company_id = (SELECT max(id) FROM public.companies) WHERE user_id = $1"
		strip    = "DELETE FROM public.user_company_roles a USING public.user_companies m WHERE m.id = a.user_company_id AND m.user_id = $1"
		demote   = "UPDATE public.user_company_roles a SET role_id = (SELECT id FROM public.roles WHERE role = 'admin') FROM public.user_companies m WHERE m.id = a.user_company_id AND m.user_id = $1"
		limit    = "UPDATE public.user_company_roles a SET expires_at = now() + interval '1 year' FROM public.user_companies m WHERE m.id = a.user_company_id AND m.user_id = $1"
		disable  = "UPDATE public.users SET is_active = false WHERE id = $1"
		forget   = "UPDATE public.users SET deleted_at = now() WHERE id = $1"
		everyone = "DELETE FROM public.user_companies WHERE company_id = $1"
	)
	exec(t, n.A, "INSERT INTO public.companies (name) VALUES ('elsewhere')")
	all := map[string]string{"suspend": suspend, "leave": leave, "move": move, "strip": strip, "demote": demote, "limit": limit, "disable": disable, "forget": forget}
	for name, sql := range all {
		if got := try(t, n.A, sql, n.A.OwnerID); got != "refused" {
			t.Errorf("%s, the last owner: %s", name, got)
		}
	}
	enlist(t, n.A, second.id, n.A.CompanyID, "owner", "subtree")
	if got := try(t, n.A, everyone, n.A.CompanyID); got != "refused" {
		t.Errorf("both owners in one statement: %s", got)
	}
	for name, sql := range all { // with a second owner each of them does; and is undone
		if got := try(t, n.A, "BEGIN; "+strings.ReplaceAll(sql, "$1", itoa(n.A.OwnerID))+"; ROLLBACK"); got != "done" {
			t.Errorf("%s, with another owner: %s", name, got)
		}
	}
	exec(t, n.A, disable, second.id)
	if got := try(t, n.A, strip, n.A.OwnerID); got != "refused" {
		t.Errorf("the other owner is disabled: %s", got)
	}
	exec(t, n.A, "UPDATE public.companies SET status = 'deleted', deleted_at = now() WHERE id = $1", n.A.CompanyID)
	if got := try(t, n.A, leave, n.A.OwnerID); got != "done" {
		t.Errorf("a company that is deleted needs no owner: %s", got)
	}
	if b := value[int64](t, n.B, "SELECT count(*) FROM public.user_company_roles"); b != 1 {
		t.Errorf("tenant B has %d assignments", b)
	}
}

func TestTwoOwnersRemoveEachOtherAtOnce(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	second := n.person(t, n.A, "second")
	enlist(t, n.A, second.id, n.A.CompanyID, "owner", "subtree")
	ways := []string{
		"UPDATE public.user_companies SET is_active = false WHERE user_id = $1",
		"DELETE FROM public.user_company_roles a USING public.user_companies m WHERE m.id = a.user_company_id AND m.user_id = $1",
		"UPDATE public.users SET is_active = false WHERE id = $1",
	}
	for _, first := range ways {
		for _, other := range ways {
			one, two := testdb.Connect(t, n.A.AdminURL), testdb.Connect(t, n.A.AdminURL)
			run := func(conn *pgx.Conn, sql string, args ...any) error {
				_, err := conn.Exec(t.Context(), sql, args...)
				return err
			}
			// Both have done their part before either commits.
			if err := errors.Join(run(one, "BEGIN"), run(two, "BEGIN"), run(one, first, n.A.OwnerID)); err != nil {
				t.Fatal(err)
			}
			var refusal error
			var waiting sync.WaitGroup
			waiting.Go(func() { refusal = run(two, other, second.id) })
			waitForLock(t, n.A, int64(two.PgConn().PID()))
			if err := run(one, "COMMIT"); err != nil {
				t.Fatal(err)
			}
			waiting.Wait()
			if pg.Constraint(refusal) != "companies_last_owner_check" {
				t.Errorf("%s, then %s: %v", first, other, refusal)
			}
			one.Close(t.Context())
			two.Close(t.Context())
			exec(t, n.A, "UPDATE public.users SET is_active = true")
			exec(t, n.A, "UPDATE public.user_companies SET is_active = true")
			exec(t, n.A, `INSERT INTO public.user_company_roles (user_company_id, role_id)
				SELECT m.id, $1 FROM public.user_companies m WHERE m.user_id = $2 ON CONFLICT DO NOTHING`, seeded(t, n.A, "owner"), n.A.OwnerID)
		}
	}
	if b := value[int64](t, n.B, "SELECT count(*) FROM public.user_company_roles"); b != 1 {
		t.Errorf("tenant B has %d assignments", b)
	}
}
