package operation

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// Two operators, one tenant: one of them wins, the other hears who it was. When
// the work is done the next one may begin.
func TestExclusiveOperationsDoNotMeet(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	ada, tenant, other := uuid.Must(uuid.NewV7()), uuid.Must(uuid.NewV7()), uuid.Must(uuid.NewV7())
	e.exec(t, "INSERT INTO control.operators (id, email, role, password_hash) VALUES ($1, 'ada@ouvira.example', 'owner', '-')", ada)
	for slug, id := range map[string]uuid.UUID{"acme": tenant, "globex": other} {
		e.exec(t, `INSERT INTO control.tenants (id, slug, name, status, plan_id) SELECT $1, $2, $2, 'active', id FROM control.plans`, id, slug)
	}
	ask := func(tenant uuid.UUID, exclusive bool) (uuid.UUID, error) {
		return pg.InTxValue(t.Context(), e.db, func(tx pgx.Tx) (uuid.UUID, error) {
			return e.Enqueue(t.Context(), tx, Spec{
				Kind: "test", TenantID: tenant, Steps: []string{"one"}, CreatedBy: "operator:" + ada.String(), Exclusive: exclusive,
			})
		})
	}
	var mu sync.Mutex
	var won []uuid.UUID
	var racing sync.WaitGroup
	for range 4 {
		racing.Go(func() {
			id, err := ask(tenant, true)
			mu.Lock()
			defer mu.Unlock()
			refused, ok := errors.AsType[*fault.Error](err)
			switch {
			case err == nil:
				won = append(won, id)
			case !ok || refused.EffectiveCode() != "operation_in_progress" || !strings.Contains(refused.Error(), "ada@ouvira.example"):
				t.Errorf("refused by %v", err)
			}
		})
	}
	racing.Wait()
	if len(won) != 1 {
		t.Fatalf("%d of 4 exclusive operations were begun", len(won))
	}
	if _, err := ask(other, true); err != nil {
		t.Errorf("the other tenant's: %v", err)
	}
	if _, err := ask(tenant, false); err != nil {
		t.Errorf("one that shares: %v", err)
	}
	if o := e.run(t, won[0]); o.Status != Succeeded {
		t.Fatalf("%+v", o)
	}
	if _, err := ask(tenant, true); err != nil {
		t.Errorf("after the end: %v", err)
	}
}

// A step that hangs is tried again; a run is not ended by the time of all its
// steps together.
func TestStepsAreBoundedOneByOne(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.script.timeout = 300 * time.Millisecond
	id := e.enqueue(t)
	hung := false
	e.script.step = func(ctx context.Context, _ *Run, name string) error {
		if name == "two" && !hung {
			hung = true
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	if o := e.run(t, id); o.Status != Queued || o.Error == nil || o.Error.Code != "step_timeout" {
		t.Fatalf("%+v %+v", o, o.Error)
	}
	if o := e.run(t, id); o.Status != Succeeded {
		t.Fatalf("%+v %+v", o, o.Error)
	}
}
