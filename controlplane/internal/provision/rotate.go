package provision

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/failpoint"
)

// KindRotate are the operations that give a tenant's role another password.
const KindRotate = "tenant.rotate"

const (
	stepPassword      = "password"
	failpointPassword = "rotate/password"
)

// Rotate asks for another password of the tenant's role. Errors: fault.Conflict names
// the operation that is in the way.
func (s *Service) Rotate(ctx context.Context, tx pgx.Tx, tenantID uuid.UUID, createdBy string) (uuid.UUID, error) {
	return s.operations.Enqueue(ctx, tx, operation.Spec{
		Kind: KindRotate, TenantID: tenantID, Steps: []string{stepPassword}, CreatedBy: createdBy, Exclusive: true,
	})
}

// Rotations runs the operations of the kind KindRotate.
func (s *Service) Rotations() operation.Handler { return rotations{s} }

type rotations struct{ s *Service }

// Begin implements operation.Handler.
func (r rotations) Begin(run *operation.Run) operation.Attempt { return &rotation{s: r.s, run: run} }

type rotation struct {
	s    *Service
	run  *operation.Run
	work *tenantdb.Work
}

// Step implements operation.Attempt. The server has the new password a moment before
// the route does: a node that is refused meanwhile asks for the route and tries again,
// and connections that are open go on. A run that dies in between is followed by one
// that makes another password.
func (r *rotation) Step(ctx context.Context, name string) error {
	if name != stepPassword {
		return unknownStep()
	}
	return r.run.InTx(ctx, func(tx pgx.Tx) error {
		d := tenantdb.Database{Tenant: r.run.TenantID}
		var status string
		var server *uuid.UUID
		err := tx.QueryRow(ctx, "SELECT status, incarnation, server_id FROM control.tenants WHERE id = $1 FOR UPDATE", d.Tenant).
			Scan(&status, &d.Incarnation, &server)
		if err != nil {
			return fmt.Errorf("lock the tenant: %w", err)
		}
		if server == nil || status != "active" && status != "suspended" {
			return operation.Fail("not_served", "The tenant is "+status+": only one that is active or suspended has a password to change.",
				"Nothing: somebody else has decided about this tenant.")
		}
		credential, err := tenantdb.NewCredential(r.s.data, d)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "UPDATE control.tenants SET credential = $2, updated_at = now() WHERE id = $1", d.Tenant, credential.Sealed); err != nil {
			return fmt.Errorf("store the role's password: %w", err)
		}
		if r.work == nil {
			r.work = tenantdb.On(r.s.servers, *server, r.run)
		}
		if err := r.work.Password(ctx, d, credential.Verifier); err != nil {
			return err
		}
		failpoint.Hit(ctx, failpointPassword)
		// Last, and after the server was spoken to: it holds the route clock until the
		// commit.
		if _, err := tx.Exec(ctx, "SELECT control.publish_route($1)", d.Tenant); err != nil {
			return fmt.Errorf("publish the route: %w", err)
		}
		return nil
	})
}

// Undo implements operation.Attempt: the password that counts is the last one that was
// stored, or the operation has not failed.
func (r *rotation) Undo(context.Context) error { return nil }

// Failed implements operation.Attempt.
func (r *rotation) Failed(context.Context, pgx.Tx, operation.Problem) error { return nil }

// Close implements operation.Attempt.
func (r *rotation) Close() {
	if r.work != nil {
		r.work.Close()
	}
}
