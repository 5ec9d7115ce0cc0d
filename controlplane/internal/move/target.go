package move

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
)

// makeTarget makes the tenant's next incarnation on the target, like a new
// tenant's database: its role may not connect to it yet.
func (a *attempt) makeTarget(ctx context.Context) error {
	if a.move.switched {
		return nil
	}
	if err := a.makeRole(ctx); err != nil {
		return err
	}
	template, err := a.target.Template(ctx)
	if err != nil {
		return err
	}
	if err := a.target.Create(ctx, a.move.to, template); err != nil {
		return err
	}
	if err := a.target.Lockdown(ctx, a.move.to); err != nil {
		return err
	}
	if err := a.target.Stamp(ctx, a.move.to); err != nil {
		return err
	}
	return a.compareSchemas(ctx)
}

// makeRole gives the role on the target a new password: stored first, sealed so
// that only a node can read it.
func (a *attempt) makeRole(ctx context.Context) error {
	password := pg.NewPassword()
	verifier, err := pg.SCRAMVerifier(password)
	if err != nil {
		return err
	}
	sealed, err := a.s.data.Seal([]byte(password), route.CredentialContext(a.move.to.Tenant, a.move.to.Incarnation))
	if err != nil {
		return fmt.Errorf("seal the role's password: %w", err)
	}
	err = a.run.InTx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE control.moves SET credential = $2 WHERE operation_id = $1", a.run.ID, sealed)
		return err
	})
	if err != nil {
		return fmt.Errorf("store the role's password: %w", err)
	}
	return a.target.Role(ctx, a.move.to, verifier, a.move.maxConnections)
}

// compareSchemas refuses to copy a database whose schema is not what its version
// says: what is in it and not in the template would be lost.
func (a *attempt) compareSchemas(ctx context.Context) error {
	source, err := a.source.Inside(ctx, a.move.from)
	if err != nil {
		return err
	}
	target, err := a.target.Inside(ctx, a.move.to)
	if err != nil {
		return err
	}
	is, err := schemaOf(ctx, source)
	if err != nil {
		return err
	}
	should, err := schemaOf(ctx, target)
	if err != nil {
		return err
	}
	drift := func(what, line string) error {
		return operation.Fail("schema_drift", "The schema of the tenant's database is not what its version says; "+what+": "+line+".",
			"Bring the schema to what the migrations make, then move the tenant.")
	}
	for _, line := range is {
		if _, found := slices.BinarySearch(should, line); !found {
			return drift("it has", line)
		}
	}
	for _, line := range should {
		if _, found := slices.BinarySearch(is, line); !found {
			return drift("it lacks", line)
		}
	}
	return nil
}
