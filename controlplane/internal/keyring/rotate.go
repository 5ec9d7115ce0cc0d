package keyring

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/shared/failpoint"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/seal"
)

// KindRotate are the operations that leave nothing to an earlier key.
const KindRotate = "key.rotate"

const (
	stepKnown   = "known" // every process has the key, and seals with it
	stepBackups = "backups"
)

// Steps of the rotation of a kind.
func Steps(kind Kind) []string {
	if kind == Data {
		return []string{stepKnown, stepCredentials, stepSigningKeys, stepSecrets}
	}
	steps := []string{stepKnown}
	for _, c := range columns {
		steps = append(steps, c.step)
	}
	return append(steps, stepBackups)
}

// params of an operation.
type params struct {
	Kind Kind   `json:"kind"`
	Key  uint32 `json:"key"` // that seals from now on
}

// Rotate asks for everything that earlier keys of a plane have sealed to be sealed with
// the one that seals now, as this process has it. Errors: fault.Conflict when that is
// under way.
func (s *Service) Rotate(ctx context.Context, actor *audit.Actor, kind Kind) (uuid.UUID, error) {
	p := params{Kind: kind, Key: s.control.Ring().Primary}
	if kind == Data {
		p.Key = s.data.Ring().Primary
	}
	return pg.InTxValue(ctx, s.db, func(tx pgx.Tx) (uuid.UUID, error) {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtext($1))", KindRotate); err != nil {
			return uuid.Nil, fmt.Errorf("wait for who else rotates keys: %w", err)
		}
		var running uuid.UUID
		err := tx.QueryRow(ctx, "SELECT id FROM control.operations WHERE kind = $1 AND params ->> 'kind' = $2 AND status IN ('queued', 'running')", KindRotate, string(kind)).
			Scan(&running)
		if err == nil {
			return uuid.Nil, fault.Conflict("The " + string(kind) + " key is being rotated already: follow it with ouvira operation watch " + running.String() + ".").
				Code("operation_in_progress")
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return uuid.Nil, fmt.Errorf("look for a rotation: %w", err)
		}
		id, err := s.operations.Enqueue(ctx, tx, operation.Spec{Kind: KindRotate, Params: p, Steps: Steps(kind), CreatedBy: actor.String()})
		if err != nil {
			return uuid.Nil, err
		}
		return id, audit.Record(ctx, tx, audit.Entry{
			Actor: actor, Action: KindRotate, EntityType: "key", EntityID: string(kind), Detail: map[string]any{"key": p.Key, "operation_id": id},
		})
	})
}

// Handler runs the operations of the kind KindRotate. Passwords and signing keys of
// tenants are the tenants' to rotate.
func (s *Service) Handler(tenants Tenants) operation.Handler { return handler{s, tenants} }

type handler struct {
	s       *Service
	tenants Tenants
}

// Begin implements operation.Handler.
func (h handler) Begin(run *operation.Run) operation.Attempt {
	return &attempt{s: h.s, tenants: h.tenants, run: run}
}

// attempt remembers nothing: what is left to do is what is found under other keys.
type attempt struct {
	s       *Service
	tenants Tenants
	run     *operation.Run
	params  params
}

// Step implements operation.Attempt.
func (a *attempt) Step(ctx context.Context, name string) error {
	if err := json.Unmarshal(a.run.Params, &a.params); err != nil {
		return fmt.Errorf("decode the operation's parameters: %w", err)
	}
	if at := slices.IndexFunc(columns, func(c column) bool { return c.step == name }); at >= 0 {
		return a.reseal(ctx, columns[at])
	}
	step, known := map[string]func(context.Context) error{
		stepKnown: a.known, stepBackups: a.archives, stepCredentials: a.credentials, stepSigningKeys: a.signingKeys, stepSecrets: a.secrets,
	}[name]
	if !known {
		return operation.Fail("unknown_step", "The operation has a step that this release does not know.", "Update the workers, then rotate again.")
	}
	return step(ctx)
}

// known waits until every process that lives has the key, and seals with it: from then on
// nothing is sealed with another one. A process that is killed is waited for for a minute.
func (a *attempt) known(ctx context.Context) error {
	processes, err := a.s.processes(ctx)
	if err != nil {
		return err
	}
	nodes := uint32(0)
	for _, p := range processes {
		for _, use := range a.params.Kind.uses() {
			if !p.concerns(use) {
				continue
			}
			want, ring := a.params.Key, p.rings[use]
			if use == useNodes { // of which the control plane has no half: they have to agree
				if nodes == 0 {
					nodes = ring.Primary
				}
				want = nodes
			}
			if why := lacks(p, ring, want, use != useCredentials || !p.node); why != nil {
				return why
			}
		}
	}
	return nil
}

// lacks says why a process is waited for; nil: it is not.
func lacks(p process, ring seal.Ring, want uint32, seals bool) error {
	switch {
	case len(ring.Keys) == 0:
		return operation.Later("keys_untold", "Process "+p.id+" has not told which keys it has.",
			"If it is of an earlier release, update it. One that is not heard of is waited for for a minute.")
	case !ring.Has(want):
		return operation.Later("key_unknown", fmt.Sprintf("Process %s does not have key %d.", p.id, want),
			"Give it the key file as the others have it, and restart it.")
	case seals && ring.Primary != want:
		return operation.Later("key_not_sealing", fmt.Sprintf("Process %s still seals with key %d.", p.id, ring.Primary),
			"Give it the key file in which the new key is promoted, and restart it.")
	}
	return nil
}

// batch is how many values are sealed anew in one transaction.
const batch = 100

// reseal seals the values of a column anew. What it cannot open it leaves, and says so
// when the rest is done.
func (a *attempt) reseal(ctx context.Context, c column) error {
	left := []uuid.UUID{} // what does not open
	var missing uint32
	for {
		done := 0
		var shut []uuid.UUID
		err := a.run.InTx(ctx, func(tx pgx.Tx) error {
			shut = nil
			rows, err := tx.Query(ctx, fmt.Sprintf(`
				SELECT %[2]s, %[3]s FROM %[1]s WHERE control.sealed_key(%[3]s) <> $1 AND %[2]s <> ALL ($2)
				ORDER BY %[2]s LIMIT $3 FOR NO KEY UPDATE`, c.table, c.id, c.value), a.params.Key, left, batch)
			if err != nil {
				return fmt.Errorf("read what is sealed: %w", err)
			}
			found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
				ID     uuid.UUID
				Sealed []byte
			}])
			if err != nil {
				return fmt.Errorf("read what is sealed: %w", err)
			}
			for _, value := range found {
				plain, err := a.s.control.Unseal(value.Sealed, c.context(value.ID))
				if err != nil {
					shut, missing = append(shut, value.ID), seal.KeyID(value.Sealed)
					continue
				}
				sealed, err := a.s.control.Seal(plain, c.context(value.ID))
				if err != nil {
					return fmt.Errorf("seal a value: %w", err)
				}
				if _, err := tx.Exec(ctx, fmt.Sprintf("UPDATE %s SET %s = $2 WHERE %s = $1", c.table, c.value, c.id), value.ID, sealed); err != nil {
					return fmt.Errorf("store what is sealed: %w", err)
				}
			}
			done = len(found)
			failpoint.Hit(ctx, failpointAt(c.step))
			return nil
		})
		if err != nil {
			return err
		}
		left = append(left, shut...)
		if done < batch {
			break
		}
	}
	if len(left) > 0 {
		return operation.Fail("key_missing",
			fmt.Sprintf("%d of the %s do not open: they are sealed with key %d, which is not in OUVIRA_CONTROL_KEY_FILE, or not for where they are.", len(left), c.step, missing),
			"Put the key back into the file of the workers, or set what is sealed anew (ouvira server prepare, a new webhook, another second factor); then rotate again.")
	}
	return nil
}

// archives finds out with which key those backups are sealed of which it was not written
// down. The archives stay as they are: the key is needed as long as they are kept.
func (a *attempt) archives(ctx context.Context) error {
	if a.s.backups.Off() {
		return nil
	}
	for {
		rows, err := a.s.db.Query(ctx, "SELECT id, object FROM control.backups WHERE status = 'complete' AND control_key IS NULL ORDER BY id LIMIT $1", batch)
		if err != nil {
			return fmt.Errorf("read the backups: %w", err)
		}
		found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
			ID     uuid.UUID
			Object string
		}])
		if err != nil {
			return fmt.Errorf("read the backups: %w", err)
		}
		for _, b := range found {
			key, err := a.s.backups.SealedWith(ctx, b.Object)
			if err != nil {
				return err
			}
			err = a.run.InTx(ctx, func(tx pgx.Tx) error {
				_, err := tx.Exec(ctx, "UPDATE control.backups SET control_key = $2 WHERE id = $1", b.ID, key)
				return err
			})
			if err != nil {
				return err
			}
		}
		failpoint.Hit(ctx, failpointAt(stepBackups))
		if len(found) < batch {
			return nil
		}
	}
}

// Failpoints are the names at which a failpoint build can be stopped in the rotation of a
// key: what is sealed anew with the control key is not committed yet; for the data key a
// tenant has been asked to rotate, or nodes seal anew.
func Failpoints(kind Kind) []string {
	var points []string
	for _, step := range Steps(kind)[1:] {
		points = append(points, failpointAt(step))
	}
	return points
}

func failpointAt(step string) string { return "reseal/" + step }

// Undo implements operation.Attempt: what is sealed anew stays so.
func (a *attempt) Undo(context.Context) error { return nil }

// Failed implements operation.Attempt.
func (a *attempt) Failed(context.Context, pgx.Tx, operation.Problem) error { return nil }

// Close implements operation.Attempt.
func (a *attempt) Close() {}
