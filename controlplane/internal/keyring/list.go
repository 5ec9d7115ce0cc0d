package keyring

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/shared/seal"
)

// State of a key.
type State string

// The states.
const (
	Seals   State = "seals"   // what is new
	Opens   State = "opens"   // what it has sealed; a newer one seals, or it is that one and does not yet
	Missing State = "missing" // something is sealed with it, and no process has it
)

// Key is one of the keys of a plane.
type Key struct {
	Kind  Kind
	ID    uint32
	State State
	// Needs are what it opens and no other key does: how many values of each sort, and
	// what else is in the way of removing it. Of the key that seals it is what it has
	// sealed so far.
	Needs []Need
	// Free: it may be removed from the key files.
	Free bool
}

// Need is why a key is kept.
type Need struct {
	What  string // "servers", "backups", …; "processes": those that seal with it, "recent": what was made a moment ago
	Count int
	Until *time.Time // of backups: when the last of them is removed by the rules
}

// settle is how long after the last process has taken another key something may still be
// under way that the one before has made: codes that were mailed or sent count for 15 minutes.
const settle = 15 * time.Minute

// unknown is the id under which values are counted of which nobody knows the key.
const unknown = -1

// List tells all keys of both planes, the ones that seal first.
func (s *Service) List(ctx context.Context) ([]Key, error) {
	processes, err := s.processes(ctx)
	if err != nil {
		return nil, err
	}
	found, err := s.values(ctx)
	if err != nil {
		return nil, err
	}
	var keys []Key
	for _, kind := range []Kind{Control, Data} {
		keys = append(keys, s.ofKind(kind, processes, found[kind])...)
	}
	return keys, nil
}

// ofKind lists the keys of one plane.
func (s *Service) ofKind(kind Kind, processes []process, values map[int64][]Need) []Key {
	ids := map[uint32]State{}
	sealing := map[uint32]int{} // processes that seal with it
	settled := true
	own := map[string]seal.Ring{useControl: s.control.Ring(), useCredentials: s.data.Ring()}
	for _, use := range kind.uses() {
		rings := []seal.Ring{own[use]}
		for _, p := range processes {
			if !p.concerns(use) {
				continue
			}
			ring := p.rings[use]
			rings = append(rings, ring)
			// A process that does not tell may seal with any key, and so does one that
			// has taken another a moment ago.
			settled = settled && len(ring.Keys) > 0 && time.Since(p.changed) > settle
			if use != useCredentials || !p.node { // nodes only open what is sealed to them
				sealing[ring.Primary]++
			}
		}
		for _, ring := range rings {
			for _, id := range ring.Keys {
				ids[id] = cmp.Or(ids[id], Opens)
			}
		}
		if primary := own[use].Primary; primary != 0 {
			ids[primary] = Seals
		}
	}
	for _, use := range kind.uses() {
		for _, p := range processes {
			if ring := p.rings[use]; own[use].Primary == 0 && p.concerns(use) && ring.Primary != 0 {
				ids[ring.Primary] = Seals
			}
		}
	}
	for id := range values {
		if _, known := ids[uint32(max(id, 0))]; !known && id > 0 {
			ids[uint32(id)] = Missing
		}
	}
	return s.describe(kind, ids, twins(processes), sealing, settled, values)
}

// twins are ids of one data key: the one that dataplane keys generate has made has an id
// for what is sealed to nodes and another one for what they seal. A key is removed as a
// whole, so what needs the one needs the other. In the rings of a node keys stand as in
// its file.
func twins(processes []process) map[uint32]uint32 {
	twin := map[uint32]uint32{}
	for _, p := range processes {
		credentials, nodes := p.rings[useCredentials].Keys, p.rings[useNodes].Keys
		if !p.node || len(credentials) != len(nodes) {
			continue
		}
		for i, id := range credentials {
			if id != nodes[i] {
				twin[id], twin[nodes[i]] = nodes[i], id
			}
		}
	}
	return twin
}

func (s *Service) describe(kind Kind, ids map[uint32]State, twin map[uint32]uint32, sealing map[uint32]int, settled bool, values map[int64][]Need) []Key {
	keys := make([]Key, 0, len(ids))
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		k := Key{Kind: kind, ID: id, State: ids[id], Needs: slices.Clone(values[int64(id)])}
		if k.State == Opens {
			other, has := twin[id]
			if has {
				k.Needs = append(k.Needs, values[int64(other)]...)
			}
			// What nobody knows the key of may be under this one.
			for _, n := range values[unknown] {
				k.Needs = append(k.Needs, Need{What: n.What + "_unseen", Count: n.Count, Until: n.Until})
			}
			n := sealing[id]
			if has {
				n += sealing[other]
			}
			if n > 0 {
				k.Needs = append(k.Needs, Need{What: "processes", Count: n})
			}
			if !settled {
				k.Needs = append(k.Needs, Need{What: "recent", Count: 1})
			}
			k.Free = len(k.Needs) == 0
		}
		keys = append(keys, k)
	}
	order := map[State]int{Seals: 0, Opens: 1, Missing: 2}
	slices.SortStableFunc(keys, func(a, b Key) int { return order[a.State] - order[b.State] })
	return keys
}

// String is "3 backups until 2026-12-27".
func (n Need) String() string {
	text := strconv.Itoa(n.Count) + " " + n.What
	if n.Until != nil {
		text += " until " + n.Until.UTC().Format(time.DateOnly)
	}
	return text
}

// sealed counts all values by the key that they are sealed with. A tenant's database at
// which nobody has looked since it is where it is may hold anything. So may a backup of
// an earlier release. The rules say for how many days a backup is kept at most; the last
// one of a tenant stays for longer, and all of a deleted tenant do. The links and codes of
// mails that wait (a mail server is away) were derived with a key.
const sealed = `
	WITH kept AS (
		SELECT t.id, t.credential, l.signing_keys, l.secrets, l.looked_at IS NOT NULL AND l.incarnation = t.incarnation AS seen
		FROM control.tenants t LEFT JOIN control.database_looks l ON l.tenant_id = t.id
		WHERE t.status IN ('active', 'suspended', 'deleted') AND t.server_id IS NOT NULL
	), archives AS (
		SELECT b.control_key, b.data_keys, b.finished_at + make_interval(days => r.keep_days) AS until
		FROM control.backups b JOIN control.tenants t ON t.id = b.tenant_id JOIN control.backup_rules_in_force r ON r.plan_id = t.plan_id
		WHERE b.status = 'complete' AND b.control_key IS DISTINCT FROM 0
	)
	SELECT 'control', 'servers', control.sealed_key(provisioner_credential), NULL::timestamptz FROM control.servers
	UNION ALL SELECT 'control', 'movers', control.sealed_key(mover_credential), NULL FROM control.servers WHERE mover_credential IS NOT NULL
	UNION ALL SELECT 'control', 'webhooks', control.sealed_key(secret), NULL FROM control.webhook_endpoints
	UNION ALL SELECT 'control', 'second_factors', control.sealed_key(secret), NULL FROM control.operator_factors
	UNION ALL SELECT 'control', 'backups', COALESCE(control_key, -1), until FROM archives
	UNION ALL SELECT 'control', 'owner_links', (params ->> 'link_key')::bigint, NULL FROM control.operations
	          WHERE kind = 'tenant.provision' AND status IN ('queued', 'running') AND params ? 'link_key'
	UNION ALL SELECT 'control', 'mails', -1, NULL FROM river.river_job
	          WHERE kind IN ('tenant_owner_mail', 'operator_link_mail', 'signup_code_mail') AND finalized_at IS NULL
	UNION ALL SELECT 'data', 'credentials', control.sealed_key(credential), NULL FROM kept WHERE credential IS NOT NULL
	UNION ALL SELECT 'data', 'warm_databases', control.sealed_key(credential), NULL FROM control.warm_databases WHERE credential IS NOT NULL
	UNION ALL SELECT 'data', 'moves', control.sealed_key(credential), NULL FROM control.moves
	          WHERE credential IS NOT NULL AND switched_at IS NULL AND aborted_at IS NULL
	UNION ALL SELECT 'data', 'restores', control.sealed_key(r.credential), NULL FROM control.restores r
	          JOIN control.operations o ON o.id = r.operation_id AND o.status IN ('queued', 'running') WHERE r.credential IS NOT NULL
	UNION ALL SELECT 'data', 'signing_keys', unnest(signing_keys), NULL FROM kept WHERE seen
	UNION ALL SELECT 'data', 'secrets', unnest(secrets), NULL FROM kept WHERE seen
	UNION ALL SELECT 'data', 'databases', -1, NULL FROM kept WHERE NOT seen
	UNION ALL SELECT 'data', 'backups', COALESCE(k, -1), until FROM archives LEFT JOIN LATERAL unnest(data_keys) k ON true
	          WHERE data_keys IS NULL OR k IS NOT NULL`

// values are what the keys are needed for, by kind and id.
func (s *Service) values(ctx context.Context) (map[Kind]map[int64][]Need, error) {
	rows, err := s.db.Query(ctx, `
		SELECT kind, what, key, count(*)::int, max(until) FROM (`+sealed+`) AS v (kind, what, key, until) GROUP BY kind, what, key ORDER BY kind, what, key`)
	if err != nil {
		return nil, fmt.Errorf("count what is sealed: %w", err)
	}
	found := map[Kind]map[int64][]Need{Control: {}, Data: {}}
	var kind Kind
	var n Need
	var key int64
	_, err = pgx.ForEachRow(rows, []any{&kind, &n.What, &key, &n.Count, &n.Until}, func() error {
		found[kind][key] = append(found[kind][key], n)
		n.Until = nil
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("count what is sealed: %w", err)
	}
	return found, nil
}
