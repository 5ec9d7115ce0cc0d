package move

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/migrations"
)

// preflight refuses what would end badly, before anything is made.
func (a *attempt) preflight(ctx context.Context) error {
	if a.move.switched {
		return nil
	}
	for _, check := range []func(context.Context) error{a.checkTenant, a.checkTarget, a.checkSource, a.checkDatabase} {
		if err := check(ctx); err != nil {
			return err
		}
	}
	return nil
}

// checkTenant: it is still where the move begins.
func (a *attempt) checkTenant(ctx context.Context) error {
	var status, mode string
	var here bool
	err := a.s.db.QueryRow(ctx, `
		SELECT status, route_mode, COALESCE(server_id = $2 AND incarnation = $3, false) FROM control.tenants WHERE id = $1`,
		a.run.TenantID, a.move.sourceID, a.move.from.Incarnation).Scan(&status, &mode, &here)
	switch {
	case err != nil:
		return fmt.Errorf("read the tenant: %w", err)
	case !movable(status):
		return operation.Fail("tenant_"+status, "The tenant is "+status+": it has no database to move.", "Nothing: somebody else has decided about this tenant.")
	case !here:
		return operation.Fail("tenant_elsewhere", "The tenant is no longer where the move was to begin.", "Look where it is, then ask for the move again.")
	case mode != "serve" && !a.move.fenced:
		return operation.Fail("route_mode", "The tenant's route is in the mode "+mode+".", "Wait for the operation that has set it, then ask for the move again.")
	}
	return nil
}

func (a *attempt) checkTarget(ctx context.Context) error {
	target, err := a.s.servers.Get(ctx, a.move.targetID)
	if err != nil {
		return err
	}
	if target.Status != "active" {
		return operation.Fail("server_not_active", "Server "+target.Name+" is "+target.Status+".", "Move the tenant to a server that is active.")
	}
	admin, err := a.target.Admin(ctx)
	if err != nil {
		return err
	}
	missing, err := server.Unprepared(ctx, admin.Conn())
	if err != nil {
		return admin.Explain(err)
	}
	if len(missing) > 0 {
		return operation.Fail("target_not_prepared", "Server "+target.Name+" is not prepared: "+strings.Join(missing, "; ")+".", "Prepare it (ouvira server prepare "+target.Name+"), then move the tenant.")
	}
	return nil
}

func (a *attempt) checkSource(ctx context.Context) error {
	admin, err := a.source.Admin(ctx)
	if err != nil {
		return err
	}
	var level string
	var slots int
	err = admin.Scan(ctx, []any{&level, &slots}, `
		SELECT current_setting('wal_level'), current_setting('max_replication_slots')::int - (SELECT count(*)::int FROM pg_replication_slots)`)
	switch {
	case err != nil:
		return err
	case level != "logical":
		return operation.Fail("wal_level", "Server "+admin.Server()+" has wal_level "+level+", which cannot be replicated from.",
			"Set wal_level = logical there and restart it, then move the tenant.")
	case slots < 1:
		return operation.Later("no_slot", "All replication slots of server "+admin.Server()+" are taken.",
			"It is tried again; raise max_replication_slots there if it stays.")
	}
	// Whether the mover gets in, and into the right server, shows here and not
	// when the copy has begun.
	return a.source.Visit(ctx, server.Target{Mover: true, Database: "postgres"}, func(*tenantdb.Session) error { return nil })
}

// checkDatabase looks into the tenant's database.
func (a *attempt) checkDatabase(ctx context.Context) error {
	latest, err := migrations.Tenant.Latest()
	if err != nil {
		return err
	}
	inside, err := a.source.Inside(ctx, a.move.from)
	if err != nil {
		return err
	}
	var objects, version int64
	var dirty bool
	found := tenantdb.Database{}
	err = inside.Scan(ctx, []any{&found.Tenant, &found.Incarnation, &version, &dirty, &objects}, `
		SELECT m.tenant_id, m.incarnation, v.version, v.dirty, (SELECT count(*) FROM pg_largeobject_metadata)
		FROM ouvira.marker m CROSS JOIN ouvira.schema_migrations v`)
	switch {
	case errors.Is(err, pgx.ErrNoRows), err == nil && found != a.move.from:
		return operation.Fail("marker_foreign", "The database on server "+inside.Server()+" does not carry the tenant's marker.", "Find out whose database it is (ouvira doctor), then move the tenant.")
	case err != nil:
		return err
	case dirty || version != int64(latest):
		return operation.Fail("schema_version", fmt.Sprintf("The tenant's database is at schema version %d, this release makes databases of version %d.", version, latest),
			"Migrate the tenant to this release's version, then move it.")
	case objects > 0:
		return operation.Fail("large_objects", fmt.Sprintf("The tenant's database holds %d large objects, which are not replicated.", objects), "Remove them or store them in tables, then move the tenant.")
	}
	tables, err := tablesOf(ctx, inside)
	if err != nil {
		return err
	}
	var without []string
	for _, t := range tables {
		if len(t.Key) == 0 || t.Identity != "d" {
			without = append(without, t.Name)
		}
	}
	if len(without) > 0 {
		return operation.Fail("no_replica_identity", "Tables without a primary key as their replica identity: "+strings.Join(without, ", ")+".",
			"Give them a primary key (ALTER TABLE … REPLICA IDENTITY DEFAULT), then move the tenant.")
	}
	return nil
}
