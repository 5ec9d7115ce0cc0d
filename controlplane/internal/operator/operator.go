// Package operator knows the people who run the platform: their accounts,
// their logins, what each role may do, and the keys of their scripts.
//
// It promises: a fresh installation has no operator and no default password;
// passwords are kept as argon2id hashes, tokens as SHA-256 digests of 256 bits
// that nobody can guess; an unknown address, a wrong password or code and a
// locked account get the same answer after the same work; no more than five
// guesses at a password or code are compared before the account locks, however
// many arrive at once; a code counts once; one active owner always remains;
// whatever changes what an account may do ends its sessions.
package operator

import (
	"context"
	"fmt"
	"net/mail"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/job"
	"github.com/ouvira/ouvira/controlplane/internal/operator/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/password"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/seal"
)

// How long things live.
const (
	AccessLifetime  = 15 * time.Minute
	CookieIdle      = 30 * time.Minute   // a cookie login ends when it is not used for so long
	CookieLifetime  = 12 * time.Hour     // and in any case after this
	SessionLifetime = 7 * 24 * time.Hour // of a bearer login; refreshing does not extend it
	Fresh           = 15 * time.Minute   // what cannot be undone wants a login that is no older

	maxFailures = 5
	lockMinutes = 30
)

// Operator is an account.
type Operator struct {
	ID          uuid.UUID
	Email       string
	FullName    string
	Role        Role
	IsActive    bool
	LastLoginAt *time.Time
	CreatedAt   time.Time
}

// Service of the room. Creating and listing accounts needs the database only.
type Service struct {
	DB   pg.DB
	Key  *seal.ControlKey
	Jobs *job.Queue
	Now  func() time.Time // nil means time.Now

	q dbsqlc.Queries
}

func (s *Service) now() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now()
}

// New is a request for an account.
type New struct {
	Email    string
	FullName string
	Role     Role
	Password string
}

// Create makes an account.
func (s *Service) Create(ctx context.Context, actor *audit.Actor, n New) (Operator, error) {
	email, err := NormalizeEmail(n.Email)
	if err != nil {
		return Operator{}, err
	}
	if !n.Role.Valid() {
		return Operator{}, noSuchRole()
	}
	if err := password.CheckPolicy(n.Password); err != nil {
		return Operator{}, err
	}
	hash, err := password.Hash(ctx, n.Password)
	if err != nil {
		return Operator{}, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return Operator{}, fmt.Errorf("make an id: %w", err)
	}
	o := Operator{ID: id, Email: email, FullName: strings.TrimSpace(n.FullName), Role: n.Role, IsActive: true, CreatedAt: s.now()}
	return o, pg.InTx(ctx, s.DB, func(tx pgx.Tx) error { return s.insert(ctx, tx, actor, o, hash) })
}

func (s *Service) insert(ctx context.Context, tx pgx.Tx, actor *audit.Actor, o Operator, hash string) error {
	err := s.q.InsertOperator(ctx, tx, dbsqlc.InsertOperatorParams{
		ID: o.ID, Email: o.Email, FullName: o.FullName, Role: string(o.Role), PasswordHash: hash,
	})
	if pg.Constraint(err) == "operators_email_key" {
		return emailTaken().Because(err)
	}
	if err != nil {
		return fmt.Errorf("store the operator: %w", err)
	}
	return record(ctx, tx, actor, "operator.create", o.ID, map[string]any{"email": o.Email, "role": o.Role})
}

func emailTaken() *fault.Error {
	return fault.Conflict("An operator with this address exists already.").Code("email_taken").
		OnField("email", "taken", "This address is taken.")
}

func noSuchRole() *fault.Error {
	return fault.Invalid("The role must be owner, operator, support or auditor.").OnField("role", "choice", "There is no such role.")
}

// record writes what was done to, or by, an operator.
func record(ctx context.Context, tx pgx.Tx, actor *audit.Actor, action string, id uuid.UUID, detail map[string]any) error {
	return audit.Record(ctx, tx, audit.Entry{Actor: actor, Action: action, EntityType: "operator", EntityID: id.String(), Detail: detail})
}

// NormalizeEmail brings an address to the form in which accounts are kept. An
// address with anything around it (a name, a line break) is refused, and so
// are quoted and non-ASCII ones, which many mail servers do not take.
func NormalizeEmail(s string) (string, error) {
	s = strings.TrimSpace(s)
	parsed, err := mail.ParseAddress(s)
	if err != nil || parsed.Address != s || parsed.Name != "" || len(s) > 254 || strings.ContainsFunc(s, notInAddress) {
		return "", fault.Invalid("The email address is not valid.").OnField("email", "email", "This is not an email address.")
	}
	return strings.ToLower(s), nil
}

func notInAddress(r rune) bool { return r <= ' ' || r >= 0x7f || r == '"' || r == '\\' }

// List gives all accounts by address.
func (s *Service) List(ctx context.Context) ([]Operator, error) {
	rows, err := s.q.ListOperators(ctx, s.DB)
	if err != nil {
		return nil, fmt.Errorf("list the operators: %w", err)
	}
	list := make([]Operator, 0, len(rows))
	for _, r := range rows {
		list = append(list, Operator{
			ID: r.ID, Email: r.Email, FullName: r.FullName, Role: Role(r.Role),
			IsActive: r.IsActive, LastLoginAt: r.LastLoginAt, CreatedAt: r.CreatedAt,
		})
	}
	return list, nil
}
