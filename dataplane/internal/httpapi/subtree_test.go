package httpapi_test

import (
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
)

// TestSec29 the database refuses a company's role outside of its subtree,
// whichever row is written to get there.
func TestSec29ACompanysRoleOutsideItsSubtree(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	parent := companyUnder(t, n.A, "Parent", 0)
	child := companyUnder(t, n.A, "Child", parent)
	sibling := companyUnder(t, n.A, "Sibling", 0)
	role := roleOf(t, n.A, parent, "clerk", "company.read")
	user := n.person(t, n.A, "ada")
	inside, outside := member(t, n.A, user.id, child), member(t, n.A, user.id, sibling)

	conn := testdb.Connect(t, n.A.AdminURL)
	defer conn.Close(t.Context())
	refused := func(what, constraint, sql string, args ...any) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql, args...); pg.Constraint(err) != constraint {
			t.Errorf("%s: %v, want %s", what, err, constraint)
		}
	}
	assignment := hold(t, n.A, inside, role, "subtree")
	const given, moved = "user_company_roles_subtree_check", "companies_roles_subtree_check"
	refused("given elsewhere", given, "INSERT INTO public.user_company_roles (user_company_id, role_id) VALUES ($1, $2)", outside, role)
	refused("handed on", given, "UPDATE public.user_company_roles SET user_company_id = $2 WHERE id = $1", assignment, outside)
	refused("the company moves away", moved, "UPDATE public.companies SET parent_company_id = NULL WHERE id = $1", child)
	refused("the company moves elsewhere", moved, "UPDATE public.companies SET parent_company_id = $2 WHERE id = $1", child, sibling)
	exec(t, n.A, "DELETE FROM public.user_companies WHERE id = $1", outside)
	refused("the membership moves", moved, "UPDATE public.user_companies SET company_id = $2 WHERE id = $1", inside, sibling)
	refused("the role moves", moved, "UPDATE public.roles SET company_id = $2 WHERE id = $1", role, sibling)

	exec(t, n.A, "UPDATE public.companies SET parent_company_id = $2 WHERE id = $1", parent, sibling) // with all that is below it
	exec(t, n.A, "UPDATE public.roles SET company_id = $2 WHERE id = $1", role, sibling)              // further up
	exec(t, n.A, "UPDATE public.roles SET company_id = NULL WHERE id = $1", role)
	exec(t, n.A, "UPDATE public.companies SET parent_company_id = NULL WHERE id = $1", child)
}

// TestSec29 of an assignment and a move that cannot both stand, one is refused,
// in either order and also when neither has committed.
func TestSec29AnAssignmentMeetsAMove(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	user := n.person(t, n.A, "ada")
	for round := range 6 {
		parent := companyUnder(t, n.A, "Parent", 0)
		child := companyUnder(t, n.A, "Child", parent)
		role := roleOf(t, n.A, parent, "clerk", "company.read")
		membership := member(t, n.A, user.id, child)
		statements := []struct {
			sql  string
			args []any
		}{
			{"INSERT INTO public.user_company_roles (user_company_id, role_id) VALUES ($1, $2)", []any{membership, role}},
			{"UPDATE public.companies SET parent_company_id = NULL WHERE id = $1", []any{child}},
		}
		first, second := statements[round%2], statements[1-round%2]
		one, other := testdb.Connect(t, n.A.AdminURL), testdb.Connect(t, n.A.AdminURL)
		tx, err := one.BeginTx(t.Context(), pgx.TxOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), first.sql, first.args...); err != nil {
			t.Fatal(err)
		}
		pid := int64(other.PgConn().PID())
		var met error
		var wg sync.WaitGroup
		wg.Go(func() { _, met = other.Exec(t.Context(), second.sql, second.args...) })
		// The second waits for the row of the epoch: only then does the first end.
		waitForLock(t, n.A, pid)
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if pg.Constraint(met) == "" {
			t.Errorf("round %d: both stood (%v)", round, met)
		}
		_ = one.Close(t.Context())
		_ = other.Close(t.Context())
	}
}
