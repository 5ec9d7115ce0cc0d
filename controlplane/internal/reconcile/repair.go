package reconcile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/seal"
)

// KindRepair is that of the operations that repair what was found of one tenant.
// They are exclusive: nobody moves, restores or deletes the tenant meanwhile.
const KindRepair = "tenant.repair"

const stepRepair = "repair"

// Repairer mends what a look finds, as far as it is provably ours: marked as a
// tenant of this control plane, and in a way that follows from what the control
// database says. The rest stays for people.
type Repairer struct {
	look       *Service
	operations *operation.Store
	fences     Fences
	keys       SigningKeys
	data       *seal.PublicKey
}

// SigningKeys give a tenant another signing key, at once.
type SigningKeys interface {
	ReplaceKey(ctx context.Context, run *operation.Run) error
}

// Fences give a tenant's role what its status asks for, with its row locked: the fence,
// or what it needs to be served.
type Fences interface {
	Mend(ctx context.Context, run *operation.Run) error
}

// NewRepairer makes one that looks with the service. New passwords of roles are sealed
// to the data plane's key.
func NewRepairer(look *Service, operations *operation.Store, fences Fences, keys SigningKeys, data *seal.PublicKey) *Repairer {
	return &Repairer{look: look, operations: operations, fences: fences, keys: keys, data: data}
}

// Repair asks for an operation for each tenant of which something can be mended that
// a look has found. It returns their ids. A tenant at which another operation is at work
// is left alone.
func (r *Repairer) Repair(ctx context.Context, actor *audit.Actor, report Report) ([]uuid.UUID, error) {
	codes := map[uuid.UUID][]string{}
	for _, f := range report.Findings {
		if f.Repairable {
			codes[*f.TenantID] = append(codes[*f.TenantID], f.Code)
		}
	}
	begun := []uuid.UUID{}
	for _, tenant := range slices.SortedFunc(maps.Keys(codes), func(a, b uuid.UUID) int { return strings.Compare(a.String(), b.String()) }) {
		id, err := pg.InTxValue(ctx, r.look.db, func(tx pgx.Tx) (uuid.UUID, error) {
			id, err := r.operations.Enqueue(ctx, tx, operation.Spec{
				Kind: KindRepair, TenantID: tenant, Params: map[string]any{"findings": codes[tenant]},
				Steps: []string{stepRepair}, CreatedBy: actor.String(), Exclusive: true,
			})
			if err != nil {
				return uuid.Nil, err
			}
			return id, audit.Record(ctx, tx, audit.Entry{
				Actor: actor, Action: "tenant.repair", EntityType: "tenant", EntityID: tenant.String(), TenantID: tenant,
				Detail: map[string]any{"findings": codes[tenant], "operation_id": id},
			})
		})
		if fault.Is(err, fault.KindConflict) {
			continue
		}
		if err != nil {
			return nil, err
		}
		begun = append(begun, id)
	}
	return begun, nil
}

// Begin implements operation.Handler.
func (r *Repairer) Begin(run *operation.Run) operation.Attempt {
	return &repair{look: r.look, fences: r.fences, keys: r.keys, data: r.data, run: run}
}

// repair is one attempt. It looks again: what was found when it was asked for may
// be another thing by now.
type repair struct {
	look   *Service
	fences Fences
	keys   SigningKeys
	data   *seal.PublicKey
	run    *operation.Run
}

// rounds bounds how often it looks: mending one thing may bring another to light.
const rounds = 3

// Step implements operation.Attempt.
func (a *repair) Step(ctx context.Context, _ string) error {
	servers, err := a.servers(ctx)
	if err != nil {
		return err
	}
	for range rounds {
		var left []Finding
		for _, srv := range servers {
			found, err := a.mend(ctx, srv)
			if err != nil {
				return err
			}
			left = append(left, found...)
		}
		if len(left) == 0 {
			return nil
		}
	}
	return operation.Fail("not_repaired", "What was found of the tenant comes back after it was mended.", "Run ouvira doctor, and see who changes the server.")
}

// servers on which something of the tenant may be: its own, and all for one that
// should have nothing anywhere.
func (a *repair) servers(ctx context.Context) ([]server.Server, error) {
	var own *uuid.UUID
	err := a.look.db.QueryRow(ctx, "SELECT server_id FROM control.tenants WHERE id = $1", a.run.TenantID).Scan(&own)
	if err != nil {
		return nil, fmt.Errorf("read the tenant's server: %w", err)
	}
	all, err := a.look.servers.List(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(s server.Server) bool {
		return s.Status == "offline" || own != nil && s.ID != *own
	}), nil
}

// mend looks at what the server holds of the tenant, mends it, and tells what it
// has mended.
func (a *repair) mend(ctx context.Context, srv server.Server) ([]Finding, error) {
	c := comparison{server: srv}
	var err error
	if c.tenants, err = a.look.tenants(ctx, srv.ID); err != nil {
		return nil, err
	}
	if err := a.look.visit(ctx, srv, &c, a.run.TenantID); err != nil {
		return nil, operation.Later("server_unreachable", "Server "+srv.Name+" could not be looked at: "+pg.Explain(err)+".", "It is tried again; start the server.").Because(err)
	}
	c.compare()
	found := slices.DeleteFunc(c.findings, func(f Finding) bool { return !f.Repairable || *f.TenantID != a.run.TenantID })
	if len(found) == 0 {
		return nil, nil
	}
	// Before this run takes connections of its own: fences take theirs, and so do keys.
	if slices.ContainsFunc(found, ofFence) {
		if err := a.fences.Mend(ctx, a.run); err != nil {
			return nil, err
		}
	}
	if slices.ContainsFunc(found, ofSigningKey) {
		if err := a.keys.ReplaceKey(ctx, a.run); err != nil {
			return nil, err
		}
	}
	work := tenantdb.On(a.look.servers, srv.ID, a.run)
	defer work.Close()
	for _, f := range found {
		if ofFence(f) || ofSigningKey(f) {
			continue
		}
		if err := a.apply(ctx, work, f, &c); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// ofFence tells whether the finding is about what a fence takes away.
func ofFence(f Finding) bool {
	return slices.Contains([]string{codeFenceMissing, codeFenceLeft, codeNoLogin, codeRoleLimit, codeMembershipMissing}, f.Code)
}

// ofSigningKey tells whether the tenant needs another signing key: nobody can bring back
// the private half of the one that it had.
func ofSigningKey(f Finding) bool { return f.Code == codeSigningKey }

// apply mends one finding.
func (a *repair) apply(ctx context.Context, work *tenantdb.Work, f Finding, c *comparison) error {
	if f.orphan != (tenantdb.Database{}) {
		return work.Drop(ctx, f.orphan)
	}
	i := slices.IndexFunc(c.tenants, func(t tenant) bool { return t.ID == a.run.TenantID })
	if i < 0 {
		return errors.New("the tenant is not on this server")
	}
	t := c.tenants[i]
	d := tenantdb.Database{Tenant: t.ID, Incarnation: t.Incarnation}
	admin, err := work.Admin(ctx)
	if err != nil {
		return err
	}
	switch f.Code {
	case codeClosed, codePublic:
		return work.Lockdown(ctx, d)
	case codeConnectMissing:
		return work.Admit(ctx, d)
	case codeConnectForeign:
		return admin.Exec(ctx, "REVOKE CONNECT ON DATABASE "+d.Quoted()+" FROM "+pgx.Identifier{f.Object}.Sanitize())
	case codeRoleSettings:
		return work.Bound(ctx, d)
	case codeMembershipForeign:
		for _, group := range c.roles[d.Name()].Memberships {
			if group != migrations.AppRole {
				if err := admin.Exec(ctx, "REVOKE "+pgx.Identifier{group}.Sanitize()+" FROM "+d.Quoted()); err != nil {
					return err
				}
			}
		}
		return nil
	case codeDirty, codeVersion:
		return a.migrate(ctx, work, d)
	case codePassword:
		return a.password(ctx, work, d)
	}
	return fmt.Errorf("nobody knows how to mend %s", f.Code)
}

// password gives the role a new one, which nodes have first.
func (a *repair) password(ctx context.Context, work *tenantdb.Work, d tenantdb.Database) error {
	credential, err := tenantdb.NewCredential(a.data, d)
	if err != nil {
		return err
	}
	err = a.run.InTx(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, "UPDATE control.tenants SET credential = $3, updated_at = now() WHERE id = $1 AND incarnation = $2", d.Tenant, d.Incarnation, credential.Sealed)
		if err != nil || tag.RowsAffected() != 1 {
			return errors.Join(errors.New("the tenant is not what was looked at"), err)
		}
		return publish(ctx, tx, d.Tenant)
	})
	if err != nil {
		return fmt.Errorf("store the role's password: %w", err)
	}
	return work.Password(ctx, d, credential.Verifier)
}

// publish comes last in a transaction: it holds the route clock until the commit.
func publish(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) error {
	if _, err := tx.Exec(ctx, "SELECT control.publish_route($1) FROM control.routes WHERE tenant_id = $1 AND NOT deleted", tenant); err != nil {
		return fmt.Errorf("publish the route: %w", err)
	}
	return nil
}

// migrate brings the database to this release's version and says so.
func (a *repair) migrate(ctx context.Context, work *tenantdb.Work, d tenantdb.Database) error {
	version, err := work.CatchUp(ctx, d)
	if err != nil {
		return err
	}
	return a.run.InTx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE control.tenants SET schema_version = $2, updated_at = now() WHERE id = $1", d.Tenant, version)
		if err != nil {
			return fmt.Errorf("write the tenant's schema version: %w", err)
		}
		return publish(ctx, tx, d.Tenant)
	})
}

// Undo implements operation.Attempt: what was mended stays mended.
func (a *repair) Undo(context.Context) error { return nil }

// Failed implements operation.Attempt.
func (a *repair) Failed(ctx context.Context, tx pgx.Tx, why operation.Problem) error {
	return audit.Record(ctx, tx, audit.Entry{
		Actor: audit.Worker(a.run.ID.String()), Action: "tenant.repair_failed", EntityType: "tenant", EntityID: a.run.TenantID.String(),
		TenantID: a.run.TenantID, Detail: map[string]any{"code": why.Code, "params": a.run.Params},
	})
}

// Close implements operation.Attempt.
func (a *repair) Close() {}
