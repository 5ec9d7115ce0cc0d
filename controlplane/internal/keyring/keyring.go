// Package keyring rotates the keys of both planes: what is sealed with an earlier key is
// sealed anew, or replaced, and it is told when nothing needs that key any more.
//
// What holds:
//   - a value names the key that it is sealed with, so nobody has to guess, and what is
//     left to do is what is found, whoever has done the rest;
//   - nothing is sealed with a key before every process that lives has it;
//   - a key is free when no value, no backup and no process needs it: what is not known
//     counts as needing it.
package keyring

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/operator"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/controlplane/internal/webhook"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/seal"
)

// Kind of a key: which plane's it is.
type Kind string

// The kinds.
const (
	Control Kind = "control"
	Data    Kind = "data"
)

// Uses of keys, as processes tell of them (control.key_rings).
const (
	useControl     = "control"     // the control plane's own
	useCredentials = "credentials" // to which the control plane seals for nodes
	useNodes       = "nodes"       // with which nodes seal for each other
)

// uses of the keys of a kind.
func (k Kind) uses() []string {
	if k == Control {
		return []string{useControl}
	}
	return []string{useCredentials, useNodes}
}

// Backups tell with which key an archive is sealed.
type Backups interface {
	// SealedWith is the id of the key; 0: the archive is gone, or is none.
	SealedWith(ctx context.Context, object string) (uint32, error)
	// Off: there is no storage to ask.
	Off() bool
}

// Service rotates keys. It may be used by several goroutines.
type Service struct {
	db         pg.DB
	operations *operation.Store
	control    *seal.ControlKey
	data       *seal.PublicKey
	backups    Backups
	log        *slog.Logger
}

// NewService makes the room. The keys are those that this process has.
func NewService(db pg.DB, operations *operation.Store, control *seal.ControlKey, data *seal.PublicKey, backups Backups, log *slog.Logger) *Service {
	return &Service{db: db, operations: operations, control: control, data: data, backups: backups, log: log}
}

// column holds values that are sealed with the control key.
type column struct {
	step, table, id, value string
	context                func(id uuid.UUID) []byte
}

var columns = []column{
	{"servers", "control.servers", "id", "provisioner_credential", server.CredentialContext},
	{"movers", "control.servers", "id", "mover_credential", server.MoverContext},
	{"webhooks", "control.webhook_endpoints", "id", "secret", webhook.SecretContext},
	{"second_factors", "control.operator_factors", "operator_id", "secret", operator.FactorContext},
}

// Tell writes down which keys this process has: others do not go on before all have
// told.
func (s *Service) Tell(ctx context.Context, member string) error {
	rings, err := json.Marshal(map[string]seal.Ring{useControl: s.control.Ring(), useCredentials: s.data.Ring()})
	if err != nil {
		return fmt.Errorf("encode the ids of the keys: %w", err)
	}
	if _, err := s.db.Exec(ctx, "SELECT node.report_keys($1, $2)", member, rings); err != nil {
		return fmt.Errorf("tell which keys this process has: %w", err)
	}
	return nil
}

// Warn says in the log when something is sealed with a control key that no process has,
// this one included.
func (s *Service) Warn(ctx context.Context) error {
	keys, err := s.List(ctx)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if k.Kind == Control && k.State == Missing {
			s.log.ErrorContext(ctx, "values are sealed with a key that is not in OUVIRA_CONTROL_KEY_FILE: put it back, then run ouvira key rotate control",
				"key", k.ID, "values", k.Needs)
		}
	}
	return nil
}

// process is one that lives, and what it has told of its keys.
type process struct {
	id      string
	node    bool
	rings   map[string]seal.Ring
	changed time.Time // zero: it has told nothing
}

// silence is how long a process that is not heard of is waited for.
const silence = time.Minute

func (s *Service) processes(ctx context.Context) ([]process, error) {
	rows, err := s.db.Query(ctx, `
		SELECT m.id, m.kind = 'node', COALESCE(r.rings, '{}'), COALESCE(r.changed_at, '0001-01-01')
		FROM control.members m LEFT JOIN control.key_rings r ON r.member_id = m.id
		WHERE m.last_seen_at > now() - $1::interval
		  AND (m.static_until > now() OR EXISTS (SELECT FROM control.instances i WHERE i.member_id = m.id AND i.expelled_at IS NULL))
		ORDER BY m.id`, silence)
	if err != nil {
		return nil, fmt.Errorf("read which keys the processes have: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (process, error) {
		var p process
		return p, row.Scan(&p.id, &p.node, &p.rings, &p.changed)
	})
	if err != nil {
		return nil, fmt.Errorf("read which keys the processes have: %w", err)
	}
	return all, nil
}

// concerns tells whether the process has a keyset of the use.
func (p process) concerns(use string) bool {
	switch use {
	case useControl:
		return !p.node
	case useNodes:
		return p.node
	}
	return true
}
