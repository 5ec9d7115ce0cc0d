// Package signup is the door for new customers: a form, a code by mail, a
// tenant.
//
// It promises: the password is hashed before anything is stored, and the hash
// is erased after seeding or expiry; the code is derived and stored nowhere, is
// good for 15 minutes, and of all guesses, however many arrive at once, five
// are compared; a sign-up that is not verified reserves no slug; verifying
// again with the right code gives the same answer and no second tenant.
package signup

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/event"
	"github.com/ouvira/ouvira/controlplane/internal/job"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/operator"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/controlplane/internal/replay"
	"github.com/ouvira/ouvira/controlplane/internal/signup/dbsqlc"
	"github.com/ouvira/ouvira/controlplane/internal/tenant"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/password"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/seal"
)

// Status of a sign-up.
type Status string

// The states of a sign-up.
const (
	StatusPendingVerification Status = "pending_verification"
	StatusPendingApproval     Status = "pending_approval"
	StatusProvisioning        Status = "provisioning"
	StatusActive              Status = "active"
	StatusFailed              Status = "failed"
	StatusExpired             Status = "expired"
	StatusRejected            Status = "rejected"
)

const (
	// Lifetime of a code, and of a sign-up that waits for one.
	Lifetime = 15 * time.Minute
	// MaxAttempts is how many guesses at one code are compared.
	MaxAttempts = 5
	// maxCodes is how many codes a sign-up can get: 25 guesses in a million.
	maxCodes = 5
	// maxPending is how many sign-ups may wait for the code of one address: the
	// open form must not fill a stranger's mailbox.
	maxPending = 10
)

// Caller is where an anonymous request came from.
type Caller struct {
	IP        netip.Addr
	RequestID string
}

func (c Caller) actor(id uuid.UUID, email string) *audit.Actor {
	return &audit.Actor{Kind: audit.KindSignup, ID: id.String(), Name: email, IP: c.IP, RequestID: c.RequestID}
}

// Service of the room.
type Service struct {
	DB         pg.DB
	Key        *seal.ControlKey
	Tenants    *tenant.Service
	Provision  *provision.Service
	Operations *operation.Store
	Jobs       *job.Queue
	Approval   bool // operators decide about each sign-up
	Limits     Limits

	q dbsqlc.Queries
}

// Form is what is filled in.
type Form struct {
	CompanyName string
	Slug        string
	FullName    string
	Email       string
	Password    string
}

// Pending is a sign-up that waits for its code.
type Pending struct {
	ID        uuid.UUID
	Status    Status
	ExpiresAt time.Time
}

// check brings the form to the form in which it is stored, and names all that
// is wrong with it at once.
func (f Form) check() (Form, error) {
	var errs [5]error
	f.CompanyName, errs[0] = tenant.CheckName(f.CompanyName, "company_name")
	errs[1] = tenant.CheckSlug(f.Slug)
	f.FullName, errs[2] = tenant.CheckName(f.FullName, "full_name")
	f.Email, errs[3] = operator.NormalizeEmail(f.Email)
	errs[4] = password.CheckPolicy(f.Password)
	var all *fault.Error
	for _, err := range errs {
		if err == nil {
			continue
		}
		one := fault.From(err)
		if all == nil {
			all = one
			continue
		}
		fields := append(all.Fields, one.Fields...) //nolint:gocritic // the first fault may be the only one
		all = fault.Invalid("Some fields are not right. See errors for each of them.")
		all.Fields = fields
	}
	if all != nil {
		return f, all
	}
	return f, nil
}

// Start stores a sign-up and has its code mailed.
func (s *Service) Start(ctx context.Context, caller Caller, form Form) (Pending, error) {
	form, err := form.check()
	if err != nil {
		return Pending{}, err
	}
	// Outside of the request's transaction: what was counted stays counted, and no
	// connection is held while the password is hashed.
	outside := replay.Outside(ctx)
	if err := s.admit(outside, caller.IP); err != nil {
		return Pending{}, err
	}
	if free, err := s.Tenants.Available(outside, form.Slug); err != nil {
		return Pending{}, err
	} else if !free {
		return Pending{}, tenant.SlugTaken()
	}
	waiting, err := s.q.CountPending(outside, s.DB, form.Email)
	if err != nil {
		return Pending{}, fmt.Errorf("count the sign-ups: %w", err)
	}
	if waiting >= maxPending {
		return Pending{}, fault.RateLimited("Several sign-ups wait for a code sent to this address. Finish one of them, or try again later.").
			RetryAfter(Lifetime)
	}
	hash, err := password.Hash(ctx, form.Password)
	if err != nil {
		return Pending{}, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return Pending{}, fmt.Errorf("make an id: %w", err)
	}
	p := Pending{ID: id, Status: StatusPendingVerification, ExpiresAt: time.Now().Add(Lifetime).UTC().Truncate(time.Microsecond)}
	err = pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		err := s.q.InsertSignup(ctx, tx, dbsqlc.InsertSignupParams{
			ID: id, CompanyName: form.CompanyName, Slug: form.Slug, FullName: form.FullName, Email: form.Email,
			PasswordHash: &hash, ExpiresAt: p.ExpiresAt,
		})
		if err != nil {
			return fmt.Errorf("store the sign-up: %w", err)
		}
		if err := event.Record(ctx, tx, event.SignupCreated, uuid.Nil, map[string]any{"signup_id": id, "slug": form.Slug}); err != nil {
			return err
		}
		err = audit.Record(ctx, tx, audit.Entry{
			Actor: caller.actor(id, form.Email), Action: "signup.create", EntityType: "signup", EntityID: id.String(),
			Detail: map[string]any{"slug": form.Slug},
		})
		if err != nil {
			return err
		}
		return s.sendCode(ctx, tx, id, 1)
	})
	if err != nil {
		return Pending{}, err
	}
	return p, nil
}

func (s *Service) sendCode(ctx context.Context, tx pgx.Tx, id uuid.UUID, serial int32) error {
	if _, err := s.Jobs.Client.InsertTx(ctx, tx, CodeMail{SignupID: id, Serial: serial}, nil); err != nil {
		return fmt.Errorf("have the code mailed: %w", err)
	}
	return nil
}

// Resend kills the old code and has a new one mailed.
func (s *Service) Resend(ctx context.Context, caller Caller, id uuid.UUID) (Pending, error) {
	p := Pending{ID: id, Status: StatusPendingVerification, ExpiresAt: time.Now().Add(Lifetime).UTC().Truncate(time.Microsecond)}
	err := pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		row, err := s.lock(ctx, tx, id)
		if err != nil {
			return err
		}
		if status := statusOf(row); status != StatusPendingVerification {
			return notWaiting(status)
		}
		if row.CodeSerial >= maxCodes {
			return fault.RateLimited("This sign-up has had as many codes as it can get. Start again.").Code("code_limit")
		}
		serial, err := s.q.NextCode(ctx, tx, dbsqlc.NextCodeParams{ID: id, ExpiresAt: p.ExpiresAt})
		if err != nil {
			return fmt.Errorf("make the next code: %w", err)
		}
		err = audit.Record(ctx, tx, audit.Entry{
			Actor: caller.actor(id, row.Email), Action: "signup.resend", EntityType: "signup", EntityID: id.String(),
		})
		if err != nil {
			return err
		}
		return s.sendCode(ctx, tx, id, serial)
	})
	if err != nil {
		return Pending{}, err
	}
	return p, nil
}

func (s *Service) lock(ctx context.Context, tx pgx.Tx, id uuid.UUID) (dbsqlc.GetSignupRow, error) {
	row, err := s.q.LockSignup(ctx, tx, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return dbsqlc.GetSignupRow{}, noSignup()
	}
	if err != nil {
		return dbsqlc.GetSignupRow{}, fmt.Errorf("lock the sign-up: %w", err)
	}
	return dbsqlc.GetSignupRow(row), nil
}

func noSignup() error { return fault.NotFound("There is no such sign-up. Start again.") }

func notWaiting(status Status) error {
	switch status {
	case StatusExpired:
		return fault.Conflict("The sign-up has expired. Start again.").Code("signup_expired")
	default:
		return fault.Conflict("The sign-up is " + string(status) + ": it does not wait for a code. See its status.").Code("signup_" + string(status))
	}
}

// statusOf counts a sign-up as expired as soon as it is, before the sweep.
func statusOf(row dbsqlc.GetSignupRow) Status {
	if status := Status(row.Status); (status == StatusPendingVerification || status == StatusPendingApproval) && !row.ExpiresAt.After(time.Now()) {
		return StatusExpired
	}
	return Status(row.Status)
}

// failedPasswordsKept is how long a failed sign-up can be tried again with the
// password that was chosen.
const failedPasswordsKept = 7 * 24 * time.Hour

// Sweep expires sign-ups whose code was not used or that nobody decided about, and erases the password
// hashes of these and of long failed ones.
func (s *Service) Sweep(ctx context.Context) error {
	if _, err := s.q.ExpireSignups(ctx, s.DB); err != nil {
		return fmt.Errorf("expire sign-ups: %w", err)
	}
	if err := s.q.ForgetLimits(ctx, s.DB, limitsForgotten); err != nil {
		return fmt.Errorf("forget the limits of sign-ups: %w", err)
	}
	kept := pgtype.Interval{Microseconds: failedPasswordsKept.Microseconds(), Valid: true}
	if _, err := s.q.ForgetFailedPasswords(ctx, s.DB, kept); err != nil {
		return fmt.Errorf("forget the passwords of failed sign-ups: %w", err)
	}
	return nil
}
