package operator

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/operator/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/totp"
)

// issuer is what an authenticator app shows beside the address.
const issuer = "Ouvira control plane"

// Enrolment is a second factor that waits for its first code. It is shown once.
type Enrolment struct {
	Secret      string // base32, to type into an app
	URL         string // the same, for a QR code
	BackupCodes []string
}

// EnrolFactor begins with a second factor: it counts once ConfirmFactor has seen
// a code of it. One that counts already has to be disabled first, which wants a
// code of it: a thief with a session cannot replace it.
func (s *Service) EnrolFactor(ctx context.Context, actor *audit.Actor, p Principal) (Enrolment, error) {
	secret := totp.NewSecret()
	sealed, err := s.Key.Seal(secret, FactorContext(p.OperatorID))
	if err != nil {
		return Enrolment{}, fmt.Errorf("seal the secret of a second factor: %w", err)
	}
	out := Enrolment{Secret: totp.Text(secret)}
	if out.URL, err = totp.URL(secret, issuer, p.Email); err != nil {
		return Enrolment{}, err
	}
	err = pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		n, err := s.q.PutFactor(ctx, tx, dbsqlc.PutFactorParams{OperatorID: p.OperatorID, Secret: sealed})
		if err != nil {
			return fmt.Errorf("store the second factor: %w", err)
		}
		if n == 0 {
			return fault.Conflict("There is a second factor already. Disable it before you enrol another.").Code("second_factor_exists")
		}
		if out.BackupCodes, err = s.renewBackupCodes(ctx, tx, p.OperatorID, secret); err != nil {
			return err
		}
		return record(ctx, tx, actor, "operator.factor_enrolled", p.OperatorID, nil)
	})
	return out, err
}

// ConfirmFactor makes the factor count that waits for its first code. Other
// sessions end: they began without it.
func (s *Service) ConfirmFactor(ctx context.Context, actor *audit.Actor, p Principal, code string) error {
	return pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		secret, confirmed, err := s.lockFactor(ctx, tx, p.OperatorID)
		if err != nil {
			return err
		}
		if secret == nil || confirmed {
			return fault.Conflict("There is no second factor that waits for its first code. Enrol one.").Code("nothing_to_confirm")
		}
		// A wrong code counts against nothing: who asks has been shown the secret.
		ok, err := s.spendCode(ctx, tx, p.OperatorID, secret, code)
		if err != nil {
			return err
		}
		if !ok {
			return fault.Invalid("The code is wrong, or was used already. Wait for the next one, and check the clock of your phone.").
				OnField("code", "wrong", "This code is wrong, or was used already.")
		}
		if err := s.q.NoteSecondFactor(ctx, tx, p.SessionID); err != nil {
			return fmt.Errorf("note the second factor: %w", err)
		}
		if err := s.endSessions(ctx, tx, p.OperatorID, p.SessionID); err != nil {
			return err
		}
		return record(ctx, tx, actor, "operator.factor_enabled", p.OperatorID, nil)
	})
}

// DisableFactor takes the second factor away, from who has both.
func (s *Service) DisableFactor(ctx context.Context, actor *audit.Actor, p Principal, proof Proof) error {
	return s.proved(ctx, p.Email, proof, func(tx pgx.Tx, _ dbsqlc.BeginLoginRow, second bool) error {
		if !second {
			return noFactor()
		}
		return s.dropFactor(ctx, tx, actor, p.OperatorID, "operator.factor_disabled")
	})
}

// ResetFactor takes the second factor of somebody who has lost it, and the backup
// codes. Their sessions end.
func (s *Service) ResetFactor(ctx context.Context, actor *audit.Actor, id uuid.UUID) error {
	return pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		if _, err := s.lock(ctx, tx, id); err != nil {
			return err
		}
		if err := s.endSessions(ctx, tx, id, uuid.Nil); err != nil {
			return err
		}
		return s.dropFactor(ctx, tx, actor, id, "operator.factor_reset")
	})
}

func (s *Service) dropFactor(ctx context.Context, tx pgx.Tx, actor *audit.Actor, id uuid.UUID, action string) error {
	n, err := s.q.DropFactor(ctx, tx, id)
	if err != nil {
		return fmt.Errorf("remove the second factor: %w", err)
	}
	if n == 0 {
		return noFactor()
	}
	return record(ctx, tx, actor, action, id, nil)
}

func noFactor() error {
	return fault.Conflict("The account has no second factor.").Code("no_second_factor")
}

// RenewBackupCodes gives a new set. The set before counts no more.
func (s *Service) RenewBackupCodes(ctx context.Context, actor *audit.Actor, p Principal, proof Proof) (codes []string, err error) {
	err = s.proved(ctx, p.Email, proof, func(tx pgx.Tx, _ dbsqlc.BeginLoginRow, second bool) error {
		if !second {
			return noFactor()
		}
		secret, _, err := s.lockFactor(ctx, tx, p.OperatorID)
		if err != nil {
			return err
		}
		if codes, err = s.renewBackupCodes(ctx, tx, p.OperatorID, secret); err != nil {
			return err
		}
		return record(ctx, tx, actor, "operator.backup_codes_renewed", p.OperatorID, nil)
	})
	return codes, err
}

func (s *Service) renewBackupCodes(ctx context.Context, tx pgx.Tx, id uuid.UUID, secret []byte) ([]string, error) {
	codes, digests, err := totp.NewBackupCodes(secret)
	if err != nil {
		return nil, err
	}
	if err := s.q.DropBackupCodes(ctx, tx, id); err != nil {
		return nil, fmt.Errorf("remove the backup codes: %w", err)
	}
	if err := s.q.AddBackupCodes(ctx, tx, dbsqlc.AddBackupCodesParams{OperatorID: id, CodeHashes: digests}); err != nil {
		return nil, fmt.Errorf("store the backup codes: %w", err)
	}
	return codes, nil
}

// HasFactor tells whether the account has a second factor that counts.
func (s *Service) HasFactor(ctx context.Context, id uuid.UUID) (bool, error) {
	has, err := s.q.HasFactor(ctx, s.DB, id)
	if err != nil {
		return false, fmt.Errorf("look up the second factor: %w", err)
	}
	return has, nil
}

// proveFactor compares the code with the second factor of the account, and spends
// it. It tells whether there is one.
func (s *Service) proveFactor(ctx context.Context, tx pgx.Tx, id uuid.UUID, code string) (second bool, err error) {
	secret, confirmed, err := s.lockFactor(ctx, tx, id)
	if err != nil || !confirmed {
		return false, err
	}
	if code == "" {
		return false, codeWanted()
	}
	ok, err := s.spendCode(ctx, tx, id, secret, code)
	if err == nil && !ok {
		ok, err = s.spendBackupCode(ctx, tx, id, secret, code)
	}
	if err == nil && !ok {
		err = refused()
	}
	return ok, err
}

// lockFactor reads the factor, so that whoever else shows a code of it waits; no
// secret means that there is none.
func (s *Service) lockFactor(ctx context.Context, tx pgx.Tx, id uuid.UUID) (secret []byte, confirmed bool, err error) {
	row, err := s.q.LockFactor(ctx, tx, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("look up the second factor: %w", err)
	}
	if secret, err = s.Key.Unseal(row.Secret, FactorContext(id)); err != nil {
		return nil, false, fmt.Errorf("open the second factor of operator %s: %w", id, err)
	}
	return secret, row.ConfirmedAt != nil, nil
}

// spendCode accepts a code of the app once: the last accepted step only moves
// forward.
func (s *Service) spendCode(ctx context.Context, tx pgx.Tx, id uuid.UUID, secret []byte, code string) (bool, error) {
	step, ok, err := totp.Step(secret, code, s.now())
	if err != nil || !ok {
		return false, err
	}
	n, err := s.q.AdvanceFactor(ctx, tx, dbsqlc.AdvanceFactorParams{OperatorID: id, Step: step})
	if err != nil {
		return false, fmt.Errorf("spend a code: %w", err)
	}
	return n == 1, nil
}

func (s *Service) spendBackupCode(ctx context.Context, tx pgx.Tx, id uuid.UUID, secret []byte, code string) (bool, error) {
	digest, err := totp.BackupDigest(secret, code)
	if err != nil {
		return false, err
	}
	n, err := s.q.UseBackupCode(ctx, tx, dbsqlc.UseBackupCodeParams{OperatorID: id, CodeHash: digest})
	if err != nil {
		return false, fmt.Errorf("spend a backup code: %w", err)
	}
	if n == 0 {
		return false, nil
	}
	return true, record(ctx, tx, self(id), "operator.backup_code_used", id, nil)
}

// self is the actor of what an account does to itself before it is signed in.
func self(id uuid.UUID) *audit.Actor {
	return &audit.Actor{Kind: audit.KindOperator, ID: id.String(), Name: "the operator"}
}

// FactorContext binds a sealed secret to its operator.
func FactorContext(id uuid.UUID) []byte { return []byte("operator-factor/" + id.String()) }
