package provision

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/failpoint"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pause"
	"github.com/ouvira/ouvira/shared/route"
)

// KindRotateKey are the operations that give a tenant another signing key.
const KindRotateKey = "tenant.rotate_key"

// The steps, in their order. A tenant's route lists its keys, and the last one signs.
const (
	stepAnnounce = "announce" // there is a new key, and it stands first: it is believed and signs nothing
	stepSign     = "sign"     // everybody knows it: it stands last, and signs
	stepRetire   = "retire"   // nothing that others have signed counts any more: they go
)

const (
	// silence is how long a node that is not heard of is waited for. One that is cut
	// off for longer refuses what a new key has signed until it is back.
	silence = time.Minute
	// nodesTime is how long a run waits for the nodes: they pull once a second, and
	// report once a second what they have.
	nodesTime = 3 * time.Second
	nodesPoll = 100 * time.Millisecond
	// spare is added to what others may keep, for requests that were under way and for
	// clocks that differ.
	spare = 15 * time.Second
	// busyAgain is how long a key that could go waits for who works on the database.
	busyAgain = 5 * time.Second
)

// KeyRotation is how a tenant gets another signing key.
type KeyRotation struct {
	// AtOnce is for a key that somebody else has: nobody is waited for. All access
	// tokens of the tenant end as soon as the new key signs; refresh tokens do not.
	AtOnce bool `json:"at_once,omitempty"`
}

// RotateKey asks for another signing key of the tenant. Errors: fault.Conflict names the
// operation that is in the way.
func (s *Service) RotateKey(ctx context.Context, tx pgx.Tx, tenantID uuid.UUID, r KeyRotation, createdBy string) (uuid.UUID, error) {
	return s.operations.Enqueue(ctx, tx, operation.Spec{
		Kind: KindRotateKey, TenantID: tenantID, Params: r, Steps: []string{stepAnnounce, stepSign, stepRetire},
		CreatedBy: createdBy, Exclusive: true,
	})
}

// ReplaceKey gives the tenant of an operation another signing key at once, within its run:
// for one of which the private half is not there any more. It may be called again.
func (s *Service) ReplaceKey(ctx context.Context, run *operation.Run) error {
	r := &keyRotation{s: s, run: run, params: KeyRotation{AtOnce: true}}
	defer r.Close()
	for _, step := range []func(context.Context) error{r.announce, r.sign, r.retire} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// KeyRotations runs the operations of the kind KindRotateKey.
func (s *Service) KeyRotations() operation.Handler { return keyRotations{s} }

type keyRotations struct{ s *Service }

// Begin implements operation.Handler.
func (r keyRotations) Begin(run *operation.Run) operation.Attempt {
	return &keyRotation{s: r.s, run: run}
}

// keyRotation remembers nothing: the newest key of the tenant's database is the new one,
// whichever run has made it, and how far it has come is its place in the route.
type keyRotation struct {
	s      *Service
	run    *operation.Run
	params KeyRotation
	work   *tenantdb.Work
}

// Step implements operation.Attempt.
func (r *keyRotation) Step(ctx context.Context, name string) error {
	if err := json.Unmarshal(r.run.Params, &r.params); err != nil {
		return fmt.Errorf("decode the operation's parameters: %w", err)
	}
	step, known := map[string]func(context.Context) error{stepAnnounce: r.announce, stepSign: r.sign, stepRetire: r.retire}[name]
	if !known {
		return unknownStep()
	}
	if err := step(ctx); err != nil {
		return err
	}
	failpoint.Hit(ctx, failpointRotated(name))
	return nil
}

// RotationFailpoints are the names at which a failpoint build can be stopped in what gives
// a tenant another password (the server has it, the route does not) or another signing
// key (after the work of each step, and before it is recorded).
func RotationFailpoints() []string {
	points := []string{failpointPassword}
	for _, step := range []string{stepAnnounce, stepSign, stepRetire} {
		points = append(points, failpointRotated(step))
	}
	return points
}

func failpointRotated(step string) string { return "rotate_key/" + step }

// announce makes the new key, unless a run before has: one that did not live to announce
// it, or an operation that has failed.
func (r *keyRotation) announce(ctx context.Context) error {
	return r.served(ctx, func(tx pgx.Tx, t keyed) error {
		inside, err := r.inside(ctx, t)
		if err != nil {
			return err
		}
		newest, err := newestKey(ctx, inside)
		if err != nil {
			return err
		}
		if newest.Kid == "" || newest.Kid == t.signs() {
			made, err := tenantdb.NewSigningKey(r.s.data, t.Tenant)
			if err != nil {
				return err
			}
			// Later than all others by any clock: the database may have come from a server
			// whose clock was ahead.
			err = inside.Exec(ctx, `
				INSERT INTO ouvira.signing_keys (kid, public_jwk, private_sealed, created_at)
				SELECT $1::text, $2::jsonb, $3::bytea, greatest(now(), max(created_at) + interval '1 ms') FROM ouvira.signing_keys`, made.Kid, string(made.Public), made.Private)
			if err != nil {
				return err
			}
			if newest, err = newestKey(ctx, inside); err != nil {
				return err
			}
		}
		if t.place(newest.Kid) >= 0 {
			return nil
		}
		return r.publish(ctx, tx, t, append([]route.JWK{newest}, t.keys...))
	})
}

// sign lets the new key sign, once all nodes believe it, and those who keep the tenant's
// keys for a while have asked for them again. It ends when all nodes sign with it.
func (r *keyRotation) sign(ctx context.Context) error {
	if err := r.taken(ctx); err != nil {
		return err
	}
	left, err := r.left(ctx, stepAnnounce, route.KeysLifetime)
	if err != nil {
		return err
	}
	if left > 0 {
		return operation.Later("keys_kept", "Gateways may keep the tenant's public keys for a minute, and then learn of the new one.",
			"Nothing: it signs then.").In(left)
	}
	err = r.served(ctx, func(tx pgx.Tx, t keyed) error {
		inside, err := r.inside(ctx, t)
		if err != nil {
			return err
		}
		newest, err := newestKey(ctx, inside)
		if err != nil {
			return err
		}
		at := t.place(newest.Kid)
		if at < 0 {
			return operation.Fail("key_gone", "The new key is not among the tenant's keys any more.", "Find out who has changed them, then rotate again.")
		}
		if at == len(t.keys)-1 { // by a run that did not live to record it
			return nil
		}
		return r.publish(ctx, tx, t, append(slices.Delete(slices.Clone(t.keys), at, at+1), newest))
	})
	if err != nil {
		return err
	}
	return r.taken(ctx)
}

// retire takes all keys but the one that signs off the route, and their private halves
// out of the database; the public ones stay there, for the seals of the audit. It waits
// until no token counts that they have signed, and lets others work on the database
// meanwhile. A later rotation waits for longer, and takes all of them. A leaked key lets
// nobody come between.
func (r *keyRotation) retire(ctx context.Context) error {
	if r.params.AtOnce {
		return r.locked(ctx, func(tx pgx.Tx, t keyed) error { return r.forget(ctx, tx, t) })
	}
	if err := r.run.InTx(ctx, func(tx pgx.Tx) error { return r.run.Share(ctx, tx) }); err != nil {
		return err
	}
	left, err := r.left(ctx, stepSign, route.AccessLifetime)
	if err != nil {
		return err
	}
	if left > 0 {
		return operation.Later("tokens_live", "Tokens that the key before has signed count until "+time.Now().Add(left).UTC().Format("15:04 UTC")+".",
			"Nothing: the key goes then. If somebody else has it, rotate again with at_once.").In(left)
	}
	return r.locked(ctx, func(tx pgx.Tx, t keyed) error {
		var later bool
		err := tx.QueryRow(ctx, `
			SELECT EXISTS (SELECT FROM control.operations WHERE tenant_id = $1 AND kind = $2 AND id > $3 AND status IN ('queued', 'running'))`,
			t.Tenant, KindRotateKey, r.run.ID).Scan(&later)
		if err != nil {
			return fmt.Errorf("look for a later rotation: %w", err)
		}
		if later {
			return nil
		}
		if err := r.s.operations.Idle(ctx, tx, t.Tenant); fault.Is(err, fault.KindConflict) {
			return operation.Later("operation_at_work", "Another operation works on the tenant's database.", "The key goes when that has ended.").In(busyAgain).Because(err)
		} else if err != nil {
			return err
		}
		return r.forget(ctx, tx, t)
	})
}

func (r *keyRotation) forget(ctx context.Context, tx pgx.Tx, t keyed) error {
	if len(t.keys) < 2 || t.server == nil { // by a run that did not live to record it; or there are new ones, or none
		return nil
	}
	inside, err := r.inside(ctx, t)
	if err != nil {
		return err
	}
	err = inside.Exec(ctx, `
		UPDATE ouvira.signing_keys SET retired_at = COALESCE(retired_at, now()), private_sealed = ''
		WHERE kid <> $1 AND EXISTS (SELECT FROM ouvira.signing_keys WHERE kid = $1)`, t.signs())
	if err != nil {
		return err
	}
	last := len(t.keys) - 1
	retired := make([]string, last)
	for i, key := range t.keys[:last] {
		retired[i] = key.Kid
	}
	err = audit.Record(ctx, tx, audit.Entry{
		Actor: audit.Worker(r.run.ID.String()), Action: "tenant.signing_key_retired",
		EntityType: "tenant", EntityID: t.Tenant.String(), TenantID: t.Tenant,
		Detail: map[string]any{
			"operation_id": r.run.ID, "asked_by": r.run.CreatedBy, "kid": t.signs(), "retired": retired, "at_once": r.params.AtOnce,
		},
	})
	if err != nil {
		return err
	}
	return r.publish(ctx, tx, t, t.keys[last:])
}

// keyed is a tenant and its public keys, as nodes are told of them.
type keyed struct {
	tenantdb.Database

	status string
	server *uuid.UUID
	keys   []route.JWK
}

// signs is the key that nodes sign with; "" without any.
func (t *keyed) signs() string {
	if len(t.keys) == 0 {
		return ""
	}
	return t.keys[len(t.keys)-1].Kid
}

// place of a key in the route; -1: it is not there.
func (t *keyed) place(kid string) int {
	return slices.IndexFunc(t.keys, func(key route.JWK) bool { return key.Kid == kid })
}

func (t *keyed) isServed() bool {
	return t.server != nil && (t.status == "active" || t.status == "suspended")
}

// locked calls fn with the tenant's row locked.
func (r *keyRotation) locked(ctx context.Context, fn func(tx pgx.Tx, t keyed) error) error {
	return r.run.InTx(ctx, func(tx pgx.Tx) error {
		t := keyed{Database: tenantdb.Database{Tenant: r.run.TenantID}}
		err := tx.QueryRow(ctx, "SELECT status, incarnation, server_id, signing_keys FROM control.tenants WHERE id = $1 FOR UPDATE", t.Tenant).
			Scan(&t.status, &t.Incarnation, &t.server, &t.keys)
		if err != nil {
			return fmt.Errorf("lock the tenant: %w", err)
		}
		return fn(tx, t)
	})
}

// served is locked, for a tenant that is served, or will be again.
func (r *keyRotation) served(ctx context.Context, fn func(tx pgx.Tx, t keyed) error) error {
	return r.locked(ctx, func(tx pgx.Tx, t keyed) error {
		if !t.isServed() {
			return operation.Fail("not_served", "The tenant is "+t.status+": only one that is active or suspended has a key to change.",
				"Nothing: somebody else has decided about this tenant.")
		}
		return fn(tx, t)
	})
}

// inside opens the tenant's database.
func (r *keyRotation) inside(ctx context.Context, t keyed) (*tenantdb.Session, error) {
	if r.work == nil {
		r.work = tenantdb.On(r.s.servers, *t.server, r.run)
	}
	return r.work.Inside(ctx, t.Database)
}

// newestKey is the public half of the newest key of the database.
func newestKey(ctx context.Context, inside *tenantdb.Session) (route.JWK, error) {
	var key route.JWK
	err := inside.Scan(ctx, []any{&key}, "SELECT public_jwk FROM ouvira.signing_keys WHERE retired_at IS NULL ORDER BY created_at DESC LIMIT 1")
	if errors.Is(err, pgx.ErrNoRows) {
		return route.JWK{}, nil
	}
	return key, err
}

// publish tells the nodes. It is the last of a transaction: it holds the route clock
// until the commit. The route of a tenant that was deleted meanwhile stays away.
func (r *keyRotation) publish(ctx context.Context, tx pgx.Tx, t keyed, keys []route.JWK) error {
	if _, err := tx.Exec(ctx, "UPDATE control.tenants SET signing_keys = $2, updated_at = now() WHERE id = $1", t.Tenant, keys); err != nil {
		return fmt.Errorf("store the tenant's public keys: %w", err)
	}
	if !t.isServed() {
		return nil
	}
	if _, err := tx.Exec(ctx, "SELECT control.publish_route($1)", t.Tenant); err != nil {
		return fmt.Errorf("publish the route: %w", err)
	}
	return nil
}

// taken waits until all nodes have the tenant's route as it is: each says with its
// reports up to where it knows the routes. A leaked key does not wait for a node that
// lags behind.
func (r *keyRotation) taken(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, nodesTime)
	defer cancel()
	for {
		var node string
		err := r.s.db.QueryRow(ctx, `
			SELECT m.id FROM control.members m JOIN control.routes r ON m.route_version < r.version
			WHERE r.tenant_id = $1 AND m.kind = 'node' AND m.last_seen_at > now() - $2::interval
			  AND (m.static_until > now() OR EXISTS (SELECT FROM control.instances i WHERE i.member_id = m.id AND i.expelled_at IS NULL))
			ORDER BY m.id LIMIT 1`, r.run.TenantID, silence).Scan(&node)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return nil
		case err != nil:
			return fmt.Errorf("look which nodes have the route: %w", err)
		}
		if pause.For(waiting, nodesPoll) {
			continue
		}
		if r.params.AtOnce && ctx.Err() == nil {
			return nil
		}
		return operation.Later("node_behind", "Node "+node+" has not got the tenant's keys as they are now.",
			"It is tried again; a node that is not heard of is waited for for a minute.")
	}
}

// left is how long it lasts until that much time has passed since a step, and until
// support sessions have ended that began before.
func (r *keyRotation) left(ctx context.Context, step string, lifetime time.Duration) (time.Duration, error) {
	if r.params.AtOnce {
		return 0, nil
	}
	var left time.Duration
	err := r.s.db.QueryRow(ctx, `
		SELECT greatest(s.finished_at + $3::interval,
		                (SELECT max(c.redeemed_at + make_interval(mins => c.minutes)) FROM control.support_codes c
		                 WHERE $4 AND c.tenant_id = $5 AND c.redeemed_at < s.finished_at + $6::interval)) + $6::interval - clock_timestamp()
		FROM control.operation_steps s WHERE s.operation_id = $1 AND s.name = $2`,
		r.run.ID, step, lifetime, step == stepSign, r.run.TenantID, spare).Scan(&left)
	if err != nil {
		return 0, fmt.Errorf("look how long step %s is over: %w", step, err)
	}
	return left, nil
}

// Undo implements operation.Attempt. A key that was announced harms nobody: the next
// rotation takes it up. One that signs is good.
func (r *keyRotation) Undo(context.Context) error { return nil }

// Failed implements operation.Attempt.
func (r *keyRotation) Failed(context.Context, pgx.Tx, operation.Problem) error { return nil }

// Close implements operation.Attempt.
func (r *keyRotation) Close() {
	if r.work != nil {
		r.work.Close()
	}
}
