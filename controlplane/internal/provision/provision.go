// Package provision makes tenants' databases: a place, a role, a database from
// the template, closed to everybody else, migrated, seeded with the owner and
// the first company, and then routed. The steps are run by package operation.
//
// Invariants:
//   - all names derive from the tenant and its incarnation and are committed
//     before anything exists under them;
//   - the role's password is stored (sealed to the data plane) before the role
//     has it; a retry issues a new one;
//   - a database is created closed, locked down, then opened; the tenant's role
//     may connect last of all;
//   - before a run acts on a server, the connections of earlier runs there are
//     ended and the epoch is checked again;
//   - a tenant is active with its route, its event and its audit row, or not at
//     all; a failed one leaves no database and no role.
package provision

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/seal"
)

// Kind of the operations that this package runs.
const Kind = "tenant.provision"

// The steps, in their order.
const (
	StepPlace    = "place"
	StepRole     = "role"
	StepDatabase = "database"
	StepLockdown = "lockdown"
	StepMigrate  = "migrate"
	StepSeed     = "seed"
	StepActivate = "activate"
)

// Steps of an operation, as people see them.
func Steps() []string {
	return []string{StepPlace, StepRole, StepDatabase, StepLockdown, StepMigrate, StepSeed, StepActivate}
}

// capacityPause is how long an operation without a place waits at least.
const capacityPause = time.Second

// failpointRoleStored is inside the step "role": the secret is stored, the role
// does not have it yet.
const failpointRoleStored = "provision/role-stored"

// Failpoints are the names at which a failpoint build can be stopped: after the
// work of each step and before it is recorded, and inside "role".
func Failpoints() []string {
	points := []string{failpointRoleStored}
	for _, step := range Steps() {
		points = append(points, failpointAfter(step))
	}
	return points
}

func failpointAfter(step string) string { return "provision/" + step }

// Params of an operation. They hold no secrets.
type Params struct {
	// SignupID: owner, company and password hash are those of the sign-up.
	SignupID uuid.UUID `json:"signup_id,omitzero"`
	// Owner of a tenant that an operator creates; the owner gets a link to set
	// a password. The company has the tenant's name.
	Owner *Owner `json:"owner,omitempty"`
	// Server to place the tenant on, by id or name; "" for any.
	Server string `json:"server,omitempty"`
	// LinkKey is the id of the key with which the owner's link is derived.
	LinkKey uint32 `json:"link_key,omitempty"`
}

// Owner is the first user of a tenant.
type Owner struct {
	Email    string `json:"email"`
	FullName string `json:"full_name"`
}

// Activated is what the hook of a new tenant learns.
type Activated struct {
	TenantID    uuid.UUID
	Slug        string
	Name        string
	OperationID uuid.UUID
	SignupID    uuid.UUID // uuid.Nil: created by an operator
	Owner       Owner
}

// Options of NewService; the zero value is usable.
type Options struct {
	// Activated runs in the transaction that activates a tenant: the place to
	// insert the job that mails the owner. It may be nil.
	Activated func(ctx context.Context, tx pgx.Tx, a Activated) error
}

// Service starts and runs the provisioning of tenants.
type Service struct {
	db         pg.DB
	operations *operation.Store
	servers    *server.Service
	data       *seal.PublicKey
	control    *seal.ControlKey
	log        *slog.Logger
	options    Options
	here       *here // nil: workers make all tenants
}

// NewService makes the room.
func NewService(db pg.DB, operations *operation.Store, servers *server.Service, data *seal.PublicKey, control *seal.ControlKey, log *slog.Logger, o Options) *Service {
	return &Service{db: db, operations: operations, servers: servers, data: data, control: control, log: log, options: o}
}

// Start asks for the database of a tenant whose row (status "provisioning")
// the caller has written in tx, and returns the operation's id. A sign-up's row
// must name the tenant. A tenant that has a database already, out of the warm pool,
// lacks its owner only. That, and the tenant of a sign-up, is made in this process:
// call Hasten after the commit.
func (s *Service) Start(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, p Params, createdBy string) (uuid.UUID, error) {
	var warm bool
	if err := tx.QueryRow(ctx, "SELECT credential IS NOT NULL FROM control.tenants WHERE id = $1", tenant).Scan(&warm); err != nil {
		return uuid.Nil, fmt.Errorf("read the tenant: %w", err)
	}
	p.LinkKey = s.control.DerivingKey()
	steps := Steps()
	if warm {
		steps = []string{StepSeed, StepActivate}
	}
	spec := operation.Spec{Kind: Kind, TenantID: tenant, Params: p, Steps: steps, CreatedBy: createdBy, Exclusive: true}
	if s.here != nil && (warm || p.SignupID != uuid.Nil) {
		spec.Here = s.here.runner
	}
	return s.operations.Enqueue(ctx, tx, spec)
}

// OwnerTokenLifetime is how long the owner's set-password link works.
const OwnerTokenLifetime = 7 * 24 * time.Hour

// OwnerToken derives the token of the owner's set-password link: only its hash
// is in the tenant's database and it is stored nowhere else, so whoever writes
// the mail derives it again.
//
// The control key may be rotated in between: it is derived with the one that the
// operation names.
func OwnerToken(key *seal.ControlKey, linkKey uint32, operationID uuid.UUID) (string, error) {
	raw, err := key.DeriveWith(linkKey, []byte("owner-set-password/"+operationID.String()))
	if err != nil {
		return "", fmt.Errorf("derive the owner's token: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(raw), nil
}

// OwnerTokenHash is what the tenant's database keeps: SHA-256 of the token's
// text.
func OwnerTokenHash(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}
