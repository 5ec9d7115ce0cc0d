package reconcile

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/event"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	tenants "github.com/ouvira/ouvira/controlplane/internal/tenant"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/fault"
)

// Begin implements operation.Handler.
func (s *Adopter) Begin(run *operation.Run) operation.Attempt { return &adopting{s: s, run: run} }

// adopting is one attempt.
type adopting struct {
	s      *Adopter
	run    *operation.Run
	params adoptParams
}

// claimed is a database that says that it is the tenant's.
type claimed struct {
	tenantdb.Database

	role       bool // there is its role
	fenced     bool // … which may not log in
	replicates bool // a move had not come to its end
}

// Step implements operation.Attempt.
func (a *adopting) Step(ctx context.Context, _ string) error {
	if err := json.Unmarshal(a.run.Params, &a.params); err != nil {
		return operation.Fail("bad_parameters", "The operation's parameters cannot be read.", "Start it anew.").Because(err)
	}
	work := tenantdb.On(a.s.look.servers, a.params.ServerID, a.run)
	defer work.Close()
	found, err := a.find(ctx, work)
	if err != nil {
		return err
	}
	known, err := a.known(ctx, found)
	if err != nil {
		return err
	}
	in, err := a.takeIn(ctx, work, found)
	if err != nil {
		return err
	}
	credential, err := tenantdb.NewCredential(a.s.data, found.Database)
	if err != nil {
		return err
	}
	suspended := found.fenced || known.status == "suspended"
	if suspended && found.role { // the fence stays
		err = work.Password(ctx, found.Database, credential.Verifier)
	} else {
		err = work.Role(ctx, found.Database, credential.Verifier, in.limit)
		if err == nil && suspended {
			err = work.Fence(ctx, found.Database)
		}
	}
	if err != nil {
		return err
	}
	if err := work.Admit(ctx, found.Database); err != nil {
		return err
	}
	return a.run.InTx(ctx, func(tx pgx.Tx) error { return a.write(ctx, tx, found, in, credential.Sealed, suspended) })
}

// find looks for the latest database on the server that is marked as the tenant's.
func (a *adopting) find(ctx context.Context, work *tenantdb.Work) (claimed, error) {
	admin, err := work.Admin(ctx)
	if err != nil {
		return claimed{}, err
	}
	rows, err := admin.Conn().Query(ctx, `
		SELECT d.datname, shobj_description(d.oid, 'pg_database'),
		       EXISTS (SELECT FROM pg_roles r WHERE r.rolname = d.datname),
		       EXISTS (SELECT FROM pg_roles r WHERE r.rolname = d.datname AND NOT r.rolcanlogin),
		       EXISTS (SELECT FROM pg_subscription s WHERE s.subdbid = d.oid)
		FROM pg_database d
		WHERE d.datconnlimit <> $2 AND pg_get_userbyid(d.datdba) = $3 AND starts_with(shobj_description(d.oid, 'pg_database'), $1 || '/')`,
		a.params.Tenant.String(), invalidDatabase, migrations.OwnerRole)
	if err != nil {
		return claimed{}, admin.Explain(err)
	}
	var all []claimed
	var name, mark string
	var c claimed
	_, err = pgx.ForEachRow(rows, []any{&name, &mark, &c.role, &c.fenced, &c.replicates}, func() error {
		if d, ours := marked(name, mark); ours {
			c.Database = d
			all = append(all, c)
		}
		return nil
	})
	if err != nil {
		return claimed{}, admin.Explain(err)
	}
	if len(all) == 0 {
		return claimed{}, operation.Fail("nothing_to_adopt", "Server "+admin.Server()+" has no database that is marked as the tenant's.", "See ouvira doctor for what the servers hold.")
	}
	c = slices.MaxFunc(all, func(a, b claimed) int { return a.Incarnation - b.Incarnation })
	if c.replicates {
		return claimed{}, operation.Fail("move_unfinished", "The tenant's database on server "+admin.Server()+" still follows another one: a move had not come to its end.",
			"Adopt the database that it follows.")
	}
	return c, nil
}

// place is where the control database believes the tenant to be.
type place struct {
	status      string
	server      *uuid.UUID
	incarnation int
}

// known reads it, and refuses to replace a database that may be serving.
func (a *adopting) known(ctx context.Context, found claimed) (place, error) {
	var p place
	err := a.s.look.db.QueryRow(ctx, "SELECT status, server_id, incarnation FROM control.tenants WHERE id = $1", a.params.Tenant).
		Scan(&p.status, &p.server, &p.incarnation)
	if errors.Is(err, pgx.ErrNoRows) {
		return place{}, nil
	}
	if err != nil {
		return p, fmt.Errorf("read the tenant: %w", err)
	}
	if p.server != nil && *p.server == a.params.ServerID && p.incarnation == found.Incarnation {
		return p, nil // by a run that did not live to record it, or to give the role a new password
	}
	if found.Incarnation < p.incarnation {
		return p, operation.Fail("database_superseded", fmt.Sprintf("The tenant has had a later database (incarnation %d) than the one that was found (%d).", p.incarnation, found.Incarnation),
			"Restore the tenant from a backup if its database is lost.")
	}
	if p.server == nil {
		return p, nil
	}
	work := tenantdb.On(a.s.look.servers, *p.server, nil)
	defer work.Close()
	admin, err := work.Admin(ctx)
	if err != nil {
		return p, err
	}
	var serves bool
	err = admin.Scan(ctx, []any{&serves}, `
		SELECT EXISTS (SELECT FROM pg_roles r JOIN pg_database d ON d.datname = r.rolname WHERE r.rolname = $1 AND r.rolcanlogin)`,
		tenantdb.Name(a.params.Tenant, p.incarnation))
	if err == nil && serves {
		return p, operation.Fail("database_serves", "The database that the control database knows of the tenant is there, and its role may log in.",
			"Find out which of the two is the tenant's; fence the role of the other (ALTER ROLE … NOLOGIN), then adopt.")
	}
	return p, err
}

// inventory is what the database tells of itself.
type inventory struct {
	keys    json.RawMessage
	version int64
	limit   int
	batch   *int64
	head    []byte
	kid     *string
	signed  []byte
}

// takeIn closes the database to everybody else, proves its marker and brings it to this
// release's version.
func (a *adopting) takeIn(ctx context.Context, work *tenantdb.Work, found claimed) (inventory, error) {
	var in inventory
	if err := work.Lockdown(ctx, found.Database); err != nil {
		return in, err
	}
	inside, err := work.Inside(ctx, found.Database)
	if err != nil {
		return in, err
	}
	var says tenantdb.Database
	err = inside.Scan(ctx, []any{&says.Tenant, &says.Incarnation}, "SELECT tenant_id, incarnation FROM ouvira.marker")
	if errors.Is(err, pgx.ErrNoRows) || err == nil && says != found.Database {
		return in, operation.Fail("marker_foreign", "The database is named as the tenant's and carries another marker, or none.", "Find out whose data it holds; do not adopt it.")
	}
	if err != nil {
		return in, err
	}
	alien, err := collect[string](ctx, inside.Conn(), pgx.RowTo[string], foreign)
	if err != nil {
		return in, inside.Explain(err)
	}
	if len(alien) > 0 {
		return in, operation.Fail("foreign_code", "The database has what no tenant's database has: "+strings.Join(alien, ", ")+".", "Find out who put it there, drop it, then adopt the database.")
	}
	if in.version, err = work.CatchUp(ctx, found.Database); err != nil {
		return in, err
	}
	if inside, err = work.Inside(ctx, found.Database); err != nil {
		return in, err
	}
	err = inside.Scan(ctx, []any{&in.keys, &in.batch, &in.head, &in.kid, &in.signed}, `
		SELECT (SELECT COALESCE(jsonb_agg(public_jwk ORDER BY created_at), '[]') FROM ouvira.signing_keys WHERE retired_at IS NULL), s.batch, s.head, s.kid, s.signature
		FROM (SELECT) one LEFT JOIN LATERAL (SELECT batch, head, kid, signature FROM ledger.seals WHERE tenant_id = $1 ORDER BY batch DESC LIMIT 1) s ON true`, found.Tenant)
	if err != nil {
		return in, err
	}
	err = a.s.look.db.QueryRow(ctx, `
		SELECT p.max_connections FROM control.plans p
		WHERE p.id = COALESCE((SELECT plan_id FROM control.tenants WHERE id = $1), (SELECT id FROM control.plans WHERE code = $2))`,
		found.Tenant, orDefault(a.params.Plan)).Scan(&in.limit)
	if err != nil {
		return in, fmt.Errorf("read the plan: %w", err)
	}
	return in, nil
}

func orDefault(plan string) string {
	if plan == "" {
		return tenants.DefaultPlan
	}
	return plan
}

// write is one transaction: the tenant's row with its route, the head of its audit, the
// event and the audit row. A suspension that came in between stays, and is fenced anew. No token of before counts: whether they were ended since the
// control database was backed up, nobody knows.
func (a *adopting) write(ctx context.Context, tx pgx.Tx, found claimed, in inventory, credential []byte, suspended bool) error {
	id := found.Tenant
	var there bool
	if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM control.tenants WHERE id = $1)", id).Scan(&there); err != nil {
		return fmt.Errorf("look for the tenant: %w", err)
	}
	if !there {
		_, err := a.s.tenants.Insert(ctx, tx, tenants.Row{ID: id, Slug: a.params.Slug, Name: a.params.Name, Plan: a.params.Plan, Bare: true})
		if f, ok := errors.AsType[*fault.Error](err); ok {
			return operation.Fail("cannot_be_adopted", f.Error(), "Adopt it again with what can be.").Because(err)
		}
		if err != nil {
			return err
		}
	}
	status, reason := "active", ""
	if suspended {
		status, reason = "suspended", "Adopted; its role was fenced. Resume it when you know why."
	}
	_, err := tx.Exec(ctx, `
		UPDATE control.tenants
		SET status = CASE WHEN status = 'suspended' THEN status ELSE $2 END, status_reason = CASE WHEN status = 'suspended' THEN status_reason ELSE $3 END, server_id = $4, database_name = $5, incarnation = $6, credential = $7,
		    signing_keys = $8, schema_version = $9, route_mode = 'serve', fence = '', token_epoch = greatest(token_epoch + 1, extract(epoch FROM now())::bigint), updated_at = now()
		WHERE id = $1`, id, status, reason, a.params.ServerID, found.Name(), found.Incarnation, credential, in.keys, in.version)
	if err != nil {
		return fmt.Errorf("write the tenant: %w", err)
	}
	detail := map[string]any{"operation_id": a.run.ID, "server_id": a.params.ServerID, "incarnation": found.Incarnation, "status": status}
	if in.batch != nil {
		if _, err := tx.Exec(ctx, "SELECT control.adopt_audit_head($1, $2, $3, $4, $5)", id, *in.batch, in.head, *in.kid, in.signed); err != nil {
			return fmt.Errorf("keep the head of the audit: %w", err)
		}
		detail["audit_head"] = fmt.Sprintf("%d:%s", *in.batch, hex.EncodeToString(in.head))
	}
	if !suspended {
		if err := event.Record(ctx, tx, event.TenantActivated, id, map[string]any{"operation_id": a.run.ID}); err != nil {
			return err
		}
	}
	err = audit.Record(ctx, tx, audit.Entry{
		Actor: audit.Worker(a.run.ID.String()), Action: "tenant.adopted", EntityType: "tenant", EntityID: id.String(), TenantID: id, Detail: detail,
	})
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "SELECT control.publish_route($1)", id); err != nil { // last: it holds the route clock
		return fmt.Errorf("publish the route: %w", err)
	}
	return nil
}

// Undo implements operation.Attempt: of what is not known nothing was written, and the
// database stays as it is.
func (a *adopting) Undo(context.Context) error { return nil }

// Failed implements operation.Attempt.
func (a *adopting) Failed(ctx context.Context, tx pgx.Tx, why operation.Problem) error {
	return audit.Record(ctx, tx, audit.Entry{
		Actor: audit.Worker(a.run.ID.String()), Action: "tenant.adopt_failed", EntityType: "tenant", EntityID: a.params.Tenant.String(),
		Detail: map[string]any{"code": why.Code, "params": a.run.Params},
	})
}

// Close implements operation.Attempt.
func (a *adopting) Close() {}
