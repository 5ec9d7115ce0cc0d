package provision_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"

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
	pgServer := tenantServer(t, testdb.System)
	w.addServer(t, "a", pgServer.provisionerURL, 100)
	admin := testdb.Connect(t, pgServer.URL())
	woken := func(op uuid.UUID) int {
		w.waker.Lock()
		defer w.waker.Unlock()
		return w.waker.woken[op]
	}
	standing, goOn := make(chan struct{}, 1), make(chan struct{})
	stands := false
	w.provision.RunBy(w.spied(&spy{before: func(ctx context.Context, step string) error {
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

	first, op := w.tenant(t, "acme", provision.Params{SignupID: w.signup(t, "acme")})
	if !w.provision.Hasten(t.Context(), w.get(t, op)) {
		t.Fatal("it is left to a worker")
	}
	// Building the template takes longer than the asker waits.
	for deadline := time.Now().Add(30 * time.Second); w.get(t, op).Status == operation.Running && time.Now().Before(deadline); {
		<-time.After(10 * time.Millisecond)
	}
	if o := w.get(t, op); o.Status != operation.Succeeded || woken(op) != 0 {
		t.Fatalf("not made here: %+v, woken %d times", o, woken(op))
	}
	w.checkTenant(t, admin, first)

	stands = true
	second, standsOp := w.tenant(t, "globex", provision.Params{SignupID: w.signup(t, "globex")})
	third, overOp := w.tenant(t, "initech", provision.Params{SignupID: w.signup(t, "initech")})
	o := w.get(t, standsOp)
	waited := make(chan bool, 1)
	go func() { waited <- w.provision.Hasten(context.Background(), o) }()
	<-standing
	if w.provision.Hasten(t.Context(), w.get(t, overOp)) || woken(overOp) != 1 {
		t.Errorf("one too many: woken %d times", woken(overOp))
	}
	if !<-waited || w.get(t, standsOp).Status != operation.Running {
		t.Errorf("who waits too long is answered %+v", w.get(t, standsOp))
	}
	w.provision.Close()
	if o := w.get(t, standsOp); o.Status != operation.Queued || woken(standsOp) != 1 {
		t.Errorf("the process ends, and the operation is %s, woken %d times", o.Status, woken(standsOp))
	}
	close(goOn)
	w.mustRun(t, overOp)
	w.mustRun(t, standsOp)
	w.checkTenant(t, admin, second)
	w.checkTenant(t, admin, third)
}
