package keyring

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/shared/failpoint"
	"github.com/ouvira/ouvira/shared/fault"
)

// What is sealed to the data plane the control plane cannot open: it gives each tenant
// another password and another signing key instead, so that what the earlier key could
// open is worth nothing. What nodes have sealed nodes seal anew.
const (
	stepCredentials = "credentials"
	stepSigningKeys = "signing_keys"
	stepSecrets     = "secrets"
)

// Tenants rotate what is theirs: *tenant.Service.
type Tenants interface {
	Rotate(ctx context.Context, actor *audit.Actor, id uuid.UUID) (uuid.UUID, error)
	RotateKey(ctx context.Context, actor *audit.Actor, id uuid.UUID, r provision.KeyRotation) (uuid.UUID, error)
}

const (
	// passwordsAtOnce is how many tenants get another password at a time. Signing keys
	// take twenty minutes each, of which next to all is waiting.
	passwordsAtOnce   = 20
	signingKeysAtOnce = 200
	// again is how soon it is looked how far all is.
	again = 2 * time.Second
)

// left is what is to be replaced, by tenant.
type left struct {
	next     []uuid.UUID // of whom it can be asked for
	underway int
	waiting  int      // for other operations, or for somebody to look
	failed   []string // slugs
}

// served are the tenants that can be given something new. $1: the kind of operation that
// does, $2: this operation, $3: the key; %s: what is not as it shall be.
const served = `
	SELECT t.id, t.slug,
	       EXISTS (SELECT FROM control.operations o WHERE o.tenant_id = t.id AND o.kind = $1 AND o.status IN ('queued', 'running')),
	       EXISTS (SELECT FROM control.operations o WHERE o.tenant_id = t.id AND o.exclusive AND o.status IN ('queued', 'running')),
	       EXISTS (SELECT FROM control.operations o WHERE o.tenant_id = t.id AND o.kind = $1 AND o.status = 'failed' AND o.created_by = $2)
	FROM control.tenants t LEFT JOIN control.database_looks l ON l.tenant_id = t.id AND l.incarnation = t.incarnation
	WHERE t.status IN ('active', 'suspended') AND t.server_id IS NOT NULL AND %s ORDER BY t.id`

func (a *attempt) look(ctx context.Context, kind, condition string) (left, error) {
	var l left
	rows, err := a.s.db.Query(ctx, fmt.Sprintf(served, condition), kind, a.actor().String(), a.params.Key)
	if err != nil {
		return l, fmt.Errorf("look which tenants are left: %w", err)
	}
	var id uuid.UUID
	var slug string
	var underway, busy, failed bool
	_, err = pgx.ForEachRow(rows, []any{&id, &slug, &underway, &busy, &failed}, func() error {
		switch {
		case underway:
			l.underway++
		case failed:
			l.failed = append(l.failed, slug)
		case busy:
			l.waiting++
		default:
			l.next = append(l.next, id)
		}
		return nil
	})
	if err != nil {
		return l, fmt.Errorf("look which tenants are left: %w", err)
	}
	return l, nil
}

func (a *attempt) actor() *audit.Actor { return audit.Worker(a.run.ID.String()) }

// replace has the tenants given something new, some at a time, until none is left.
func (a *attempt) replace(ctx context.Context, step, what string, l left, atOnce int, ask func(id uuid.UUID) error) error {
	begun := 0
	for _, id := range l.next {
		if l.underway+begun >= atOnce {
			break
		}
		err := ask(id)
		if err != nil && !fault.Is(err, fault.KindConflict) { // it is suspended, deleted or moved at this moment
			return err
		}
		failpoint.Hit(ctx, failpointAt(step))
		begun++
	}
	switch count := len(l.next) + l.underway + l.waiting; {
	case count > 0:
		return operation.Later("rotating", fmt.Sprintf("%d tenants are to get another %s, %d of them get it now.", count+len(l.failed), what, l.underway+begun),
			"Nothing: it goes on by itself.").In(again)
	case len(l.failed) > 0:
		return operation.Fail("tenants_left", fmt.Sprintf("%d tenants did not get another %s: %s.", len(l.failed), what, strings.Join(l.failed[:min(len(l.failed), 10)], ", ")),
			"See why their operations have failed (ouvira operation list --status failed), then rotate again.")
	}
	return nil
}

// credentials gives all roles passwords that are sealed to the new key. What is kept ready
// for new tenants is replaced; moves and restores that are at work end by themselves.
func (a *attempt) credentials(ctx context.Context) error {
	_, err := a.s.db.Exec(ctx, `
		UPDATE control.warm_databases SET fingerprint = '' WHERE status = 'ready' AND control.sealed_key(credential) <> $1 AND fingerprint <> ''`, a.params.Key)
	if err != nil {
		return fmt.Errorf("put aside what is kept ready: %w", err)
	}
	l, err := a.look(ctx, provision.KindRotate, "control.sealed_key(t.credential) <> $3")
	if err != nil {
		return err
	}
	err = a.replace(ctx, stepCredentials, "password", l, passwordsAtOnce, func(id uuid.UUID) error {
		_, err := a.tenants.Rotate(ctx, a.actor(), id)
		return err
	})
	if err != nil {
		return err
	}
	found, err := a.s.values(ctx)
	if err != nil {
		return err
	}
	for id, needs := range found[Data] {
		for _, n := range needs {
			if id != int64(a.params.Key) && (n.What == "warm_databases" || n.What == "moves" || n.What == "restores") {
				return operation.Later("at_work", fmt.Sprintf("Something is at work with an earlier key: %s.", n), "Nothing: it goes on when that has ended.").In(again)
			}
		}
	}
	return nil
}

// signingKeys gives all tenants signing keys that are sealed to the new key. Which key
// they are sealed to stands in the tenants' databases: workers look (reconcile).
func (a *attempt) signingKeys(ctx context.Context) error {
	unseen, err := a.unseen(ctx)
	if err != nil {
		return err
	}
	if unseen > 0 {
		return operation.Later("looking", fmt.Sprintf("%d databases are still to be looked at.", unseen), "Nothing: it goes on by itself, as long as their servers can be reached.").In(again)
	}
	l, err := a.look(ctx, provision.KindRotateKey, "l.signing_keys <> '{}' AND l.signing_keys <> ARRAY[$3::bigint]")
	if err != nil {
		return err
	}
	return a.replace(ctx, stepSigningKeys, "signing key", l, signingKeysAtOnce, func(id uuid.UUID) error {
		_, err := a.tenants.RotateKey(ctx, a.actor(), id, provision.KeyRotation{})
		return err
	})
}

// unseen has all databases looked at that were not since all processes seal with the new
// key, or since their signing key was rotated, and counts them.
func (a *attempt) unseen(ctx context.Context) (count int, err error) {
	err = a.s.db.QueryRow(ctx, `
		WITH unseen AS (
			SELECT t.id, l.due_at > now() AS planned FROM control.tenants t
			LEFT JOIN control.database_looks l ON l.tenant_id = t.id AND l.incarnation = t.incarnation
			WHERE t.status IN ('active', 'suspended', 'deleted') AND t.server_id IS NOT NULL AND (
			    l.looked_at IS NULL OR l.looked_at < (
			        SELECT s.finished_at FROM control.operation_steps s WHERE s.operation_id = $1 AND s.name = $3) OR l.looked_at < (
			        SELECT max(o.finished_at) FROM control.operations o WHERE o.tenant_id = t.id AND o.kind = $2 AND o.status = 'succeeded'))
		), asked AS (
			UPDATE control.database_looks l SET due_at = now() FROM unseen u WHERE l.tenant_id = u.id AND u.planned
		)
		SELECT count(*) FROM unseen`, a.run.ID, provision.KindRotateKey, stepKnown).Scan(&count)
	if err != nil {
		return 0, fmt.Errorf("have the databases looked at: %w", err)
	}
	return count, nil
}

// secrets waits until nodes have sealed the users' second factors anew, and the messages
// have left that were waiting. Nodes do not get into the databases of suspended and deleted
// tenants: those need the key until they are resumed, and it is rotated again, or purged.
func (a *attempt) secrets(ctx context.Context) error {
	var count int
	err := a.s.db.QueryRow(ctx, `
		WITH nodes AS (
			SELECT DISTINCT (r.rings #>> '{nodes,primary}')::bigint AS key FROM control.key_rings r
			JOIN control.members m ON m.id = r.member_id AND m.kind = 'node' AND m.last_seen_at > now() - $1::interval)
		SELECT count(*) FROM control.tenants t
		JOIN control.database_looks l ON l.tenant_id = t.id AND l.incarnation = t.incarnation
		WHERE t.status = 'active' AND l.secrets <> '{}' AND NOT l.secrets <@ ARRAY (SELECT key FROM nodes)`, silence).Scan(&count)
	if err != nil {
		return fmt.Errorf("count what nodes have to seal anew: %w", err)
	}
	if count > 0 {
		failpoint.Hit(ctx, failpointAt(stepSecrets))
		return operation.Later("resealing", fmt.Sprintf("%d databases hold second factors, or messages that wait, which an earlier key has sealed.", count),
			"Nothing: nodes seal them anew, as long as one runs.").In(again)
	}
	return nil
}
