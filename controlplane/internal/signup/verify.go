package signup

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/controlplane/internal/signup/dbsqlc"
	"github.com/ouvira/ouvira/controlplane/internal/tenant"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// Verified is the tenant of a sign-up and the operation that makes it. Both are
// absent while the sign-up waits for an operator.
type Verified struct {
	Status    Status
	Tenant    tenant.Tenant
	Operation *operation.Operation
}

// Verify checks the code and, the first time, makes the tenant: its row, the
// operation, the event and the audit entry in one transaction.
func (s *Service) Verify(ctx context.Context, caller Caller, id uuid.UUID, code string) (Verified, error) {
	if !isCode(code) {
		return Verified{}, wrongCode("The code has six digits. Copy it from the mail.")
	}
	serial, err := s.q.CountAttempt(ctx, s.DB, dbsqlc.CountAttemptParams{ID: id, MaxAttempts: MaxAttempts})
	if errors.Is(err, pgx.ErrNoRows) {
		return Verified{}, s.whyNot(ctx, id)
	}
	if err != nil {
		return Verified{}, fmt.Errorf("count the attempt: %w", err)
	}
	right, err := isRight(s.Key, id, serial, code)
	if err != nil {
		return Verified{}, err
	}
	if !right {
		return Verified{}, wrongCode("The code is wrong. Look at the newest mail, or ask for another code.")
	}
	var v Verified
	err = pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		v, err = s.accept(ctx, tx, caller, id, serial)
		return err
	})
	if err != nil || !s.Provision.Hasten(ctx, v.Operation) {
		return v, err
	}
	err = pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		v, err = s.answer(ctx, tx, v.Tenant.ID)
		return err
	})
	return v, err
}

func wrongCode(message string) error {
	return fault.Invalid(message).Code("wrong_code").OnField("code", "wrong", message)
}

// whyNot explains an attempt that was not counted, and so not compared.
func (s *Service) whyNot(ctx context.Context, id uuid.UUID) error {
	row, err := s.q.GetSignup(ctx, s.DB, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return noSignup()
	}
	if err != nil {
		return fmt.Errorf("read the sign-up: %w", err)
	}
	if status := statusOf(row); status == StatusPendingVerification && row.CodeAttempts >= MaxAttempts {
		return fault.Conflict("This code was guessed at too often and is dead. Ask for another one (resend).").Code("code_exhausted")
	} else if status != StatusPendingVerification {
		return notWaiting(status)
	}
	return fault.Conflict("The sign-up was changed in the meantime. Try again.").Code("try_again")
}

// accept does what the right code asks for, once.
func (s *Service) accept(ctx context.Context, tx pgx.Tx, caller Caller, id uuid.UUID, serial int32) (Verified, error) {
	row, err := s.lock(ctx, tx, id)
	if err != nil {
		return Verified{}, err
	}
	// The right code is no guess; and its owner may send it again.
	if err := s.q.ForgiveAttempt(ctx, tx, dbsqlc.ForgiveAttemptParams{ID: id, CodeSerial: serial}); err != nil {
		return Verified{}, fmt.Errorf("forgive the attempt: %w", err)
	}
	if row.TenantID.Valid {
		return s.answer(ctx, tx, row.TenantID.UUID)
	}
	status := statusOf(row)
	if status == StatusPendingApproval {
		return Verified{Status: status}, nil
	}
	if status != StatusPendingVerification || row.CodeSerial != serial {
		return Verified{}, notWaiting(status)
	}
	actor := caller.actor(id, row.Email)
	if s.Approval {
		return Verified{Status: StatusPendingApproval}, s.await(ctx, tx, actor, row)
	}
	tenantID, err := s.begin(ctx, tx, actor, row)
	if err != nil {
		return Verified{}, err
	}
	err = audit.Record(ctx, tx, audit.Entry{
		Actor: actor, Action: "signup.verify", EntityType: "signup", EntityID: id.String(), TenantID: tenantID,
	})
	if err != nil {
		return Verified{}, err
	}
	return s.answer(ctx, tx, tenantID)
}

// begin writes the tenant of a sign-up and asks for its database.
func (s *Service) begin(ctx context.Context, tx pgx.Tx, actor *audit.Actor, row dbsqlc.GetSignupRow) (uuid.UUID, error) {
	tenantID, err := s.Tenants.Insert(ctx, tx, tenant.Row{Slug: row.Slug, Name: row.CompanyName})
	if err != nil {
		return uuid.Nil, err
	}
	err = s.q.BeginProvisioning(ctx, tx, dbsqlc.BeginProvisioningParams{ID: row.ID, TenantID: uuid.NullUUID{UUID: tenantID, Valid: true}})
	if err != nil {
		return uuid.Nil, fmt.Errorf("move the sign-up on: %w", err)
	}
	if _, err := s.Provision.Start(ctx, tx, tenantID, provision.Params{SignupID: row.ID}, actor.String()); err != nil {
		return uuid.Nil, fmt.Errorf("ask for the tenant's database: %w", err)
	}
	return tenantID, s.Tenants.Announce(ctx, tx, actor, tenantID, row.Slug)
}

func (s *Service) answer(ctx context.Context, tx pgx.Tx, tenantID uuid.UUID) (Verified, error) {
	t, err := s.Tenants.GetTx(ctx, tx, tenantID)
	if err != nil {
		return Verified{}, err
	}
	operationID, err := s.q.LatestOperation(ctx, tx, dbsqlc.LatestOperationParams{
		TenantID: uuid.NullUUID{UUID: tenantID, Valid: true}, Kind: provision.Kind,
	})
	if err != nil {
		return Verified{}, fmt.Errorf("look up the operation: %w", err)
	}
	o, err := s.Operations.GetTx(ctx, tx, operationID)
	if err != nil {
		return Verified{}, err
	}
	return Verified{Status: StatusProvisioning, Tenant: t, Operation: o}, nil
}
