package provision_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/shared/testdb"
)

// The tenant of a sign-up is made by the process that was asked, whether a database is
// kept ready or not; one too many is a worker's; and a process that ends gives up what
// it has not done.
func TestTenantsOfSignUpsAreMadeWhereTheyAreAskedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pgServer := fleettest.TenantServer(t, testdb.System)
	w.AddServer(t, "a", pgServer.ProvisionerURL, 100)
	admin := testdb.Connect(t, pgServer.URL())
	woken := func(op uuid.UUID) int {
		w.Waker.Lock()
		defer w.Waker.Unlock()
		return w.Waker.Woken[op]
	}
	standing, goOn := make(chan struct{}, 1), make(chan struct{})
	stands := false
	w.Provision.RunBy(w.spied(&fleettest.Spy{Before: func(ctx context.Context, step string) error {
		if !stands || step != provision.StepLockdown {
			return nil
		}
		standing <- struct{}{}
		select {
		case <-goOn:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}), 1)

	first, op := w.Ask(t, "acme", provision.Params{SignupID: w.signup(t, "acme")})
	if !w.Provision.Hasten(t.Context(), w.Get(t, op)) {
		t.Fatal("it is left to a worker")
	}
	// Building the template takes longer than the asker waits.
	for deadline := time.Now().Add(30 * time.Second); w.Get(t, op).Status == operation.Running && time.Now().Before(deadline); {
		<-time.After(10 * time.Millisecond)
	}
	if o := w.Get(t, op); o.Status != operation.Succeeded || woken(op) != 0 {
		t.Fatalf("not made here: %+v, woken %d times", o, woken(op))
	}
	w.checkTenant(t, admin, first)

	stands = true
	second, standsOp := w.Ask(t, "globex", provision.Params{SignupID: w.signup(t, "globex")})
	third, overOp := w.Ask(t, "initech", provision.Params{SignupID: w.signup(t, "initech")})
	o := w.Get(t, standsOp)
	waited := make(chan bool, 1)
	go func() { waited <- w.Provision.Hasten(context.Background(), o) }()
	<-standing
	if w.Provision.Hasten(t.Context(), w.Get(t, overOp)) || woken(overOp) != 1 {
		t.Errorf("one too many: woken %d times", woken(overOp))
	}
	if !<-waited || w.Get(t, standsOp).Status != operation.Running {
		t.Errorf("who waits too long is answered %+v", w.Get(t, standsOp))
	}
	w.Provision.Close()
	if o := w.Get(t, standsOp); o.Status != operation.Queued || woken(standsOp) != 1 {
		t.Errorf("the process ends, and the operation is %s, woken %d times", o.Status, woken(standsOp))
	}
	close(goOn)
	w.mustRun(t, overOp)
	w.mustRun(t, standsOp)
	w.checkTenant(t, admin, second)
	w.checkTenant(t, admin, third)
}
