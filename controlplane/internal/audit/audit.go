// Package audit keeps the operators' audit log of the control plane.
//
// An entry is written in the transaction of the change that it records: either
// both are there or neither. The control plane's database role may insert and
// read entries, and can neither change nor remove them. An entry carries a
// snapshot of its actor, so that it outlives the operator it names.
//
// Details hold no secrets: names and ids, never passwords, tokens or codes.
package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit/dbsqlc"
	"github.com/ouvira/ouvira/shared/pg"
)

// Kind of an actor.
type Kind string

// Who can act on the control plane.
const (
	KindOperator Kind = "operator" // a person or a script, signed in
	KindSignup   Kind = "signup"   // somebody who signs up, known by the sign-up only
	KindWorker   Kind = "worker"   // the system itself
	KindCLI      Kind = "cli"      // whoever holds the control database's credentials
)

// Actor is who did it.
type Actor struct {
	Kind      Kind
	ID        string
	Name      string
	IP        netip.Addr // zero when there is none
	RequestID string
}

// String names the actor in other records: "operator:<id>".
func (a *Actor) String() string { return string(a.Kind) + ":" + a.ID }

// Worker is the actor of what the system does on its own.
func Worker(id string) *Actor { return &Actor{Kind: KindWorker, ID: id, Name: "worker"} }

// Entry is what is recorded.
type Entry struct {
	Actor      *Actor
	Action     string // "tenant.suspend"
	EntityType string // "tenant"
	EntityID   string
	TenantID   uuid.UUID // uuid.Nil when it concerns no tenant
	Detail     map[string]any
}

// ErrNoActor refuses an entry that would not say who did it.
var ErrNoActor = errors.New("an audit entry needs an actor")

// Record writes the entry in the transaction of the change.
func Record(ctx context.Context, tx pgx.Tx, e Entry) error {
	if e.Actor == nil || e.Actor.Kind == "" || e.Actor.ID == "" {
		return ErrNoActor
	}
	detail := []byte("{}")
	if len(e.Detail) > 0 {
		var err error
		if detail, err = json.Marshal(e.Detail); err != nil {
			return fmt.Errorf("encode the audit detail: %w", err)
		}
	}
	err := dbsqlc.New().InsertEntry(ctx, tx, dbsqlc.InsertEntryParams{
		ActorKind:  string(e.Actor.Kind),
		ActorID:    e.Actor.ID,
		ActorName:  e.Actor.Name,
		Action:     e.Action,
		EntityType: e.EntityType,
		EntityID:   e.EntityID,
		TenantID:   uuid.NullUUID{UUID: e.TenantID, Valid: e.TenantID != uuid.Nil},
		Detail:     detail,
		IpAddress:  optional(e.Actor.IP),
		RequestID:  e.Actor.RequestID,
	})
	if err != nil {
		return fmt.Errorf("record in the audit log: %w", err)
	}
	return nil
}

func optional(ip netip.Addr) *netip.Addr {
	if !ip.IsValid() {
		return nil
	}
	return &ip
}

// Row is an entry as it is read.
type Row struct {
	ID         int64           `db:"id"`
	ActorKind  Kind            `db:"actor_kind"`
	ActorID    string          `db:"actor_id"`
	ActorName  string          `db:"actor_name"`
	Action     string          `db:"action"`
	EntityType string          `db:"entity_type"`
	EntityID   string          `db:"entity_id"`
	TenantID   uuid.NullUUID   `db:"tenant_id"`
	Detail     json.RawMessage `db:"detail"`
	IP         *netip.Addr     `db:"ip_address"`
	RequestID  string          `db:"request_id"`
	CreatedAt  time.Time       `db:"created_at"`
}

// Filter narrows List. Zero fields do not.
type Filter struct {
	TenantID uuid.UUID
	Action   string
	Before   int64 // entries older than this id
	Limit    int
}

// List gives entries, the newest first.
func List(ctx context.Context, q pg.Querier, f Filter) ([]Row, error) {
	rows, err := q.Query(ctx, `
		SELECT id, actor_kind, actor_id, actor_name, action, entity_type, entity_id, tenant_id,
		       detail, ip_address, request_id, created_at
		FROM control.audit_log
		WHERE (@tenant::uuid IS NULL OR tenant_id = @tenant)
		  AND (@action = '' OR action = @action)
		  AND (@before::bigint = 0 OR id < @before)
		ORDER BY id DESC LIMIT @limit`,
		pgx.NamedArgs{
			"tenant": uuid.NullUUID{UUID: f.TenantID, Valid: f.TenantID != uuid.Nil},
			"action": f.Action, "before": f.Before, "limit": f.Limit,
		})
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowToStructByName[Row])
}

// Last is the newest of the entries of a tenant that have one of the actions; nil when
// there is none.
func Last(ctx context.Context, q pg.Querier, tenant uuid.UUID, actions ...string) (*Row, error) {
	rows, err := q.Query(ctx, `
		SELECT id, actor_kind, actor_id, actor_name, action, entity_type, entity_id, tenant_id,
		       detail, ip_address, request_id, created_at
		FROM control.audit_log WHERE tenant_id = $1 AND action = ANY ($2) ORDER BY id DESC LIMIT 1`, tenant, actions)
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	row, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[Row])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return row, err
}
