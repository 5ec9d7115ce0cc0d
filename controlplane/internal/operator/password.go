package operator

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/operator/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/password"
	"github.com/ouvira/ouvira/shared/pg"
)

// ChangePassword takes a new password from who shows the old one, and a code
// where there is a second factor. Other sessions end.
func (s *Service) ChangePassword(ctx context.Context, actor *audit.Actor, p Principal, proof Proof, chosen string) error {
	if err := password.CheckPolicy(chosen); err != nil {
		return err
	}
	hash, err := password.Hash(ctx, chosen)
	if err != nil {
		return err
	}
	return s.proved(ctx, p.Email, proof, func(tx pgx.Tx, o dbsqlc.BeginLoginRow, _ bool) error {
		if err := s.setPassword(ctx, tx, o.ID, hash, p.SessionID); err != nil {
			return err
		}
		return record(ctx, tx, actor, "operator.password_changed", o.ID, nil)
	})
}

// ForgotPassword mails a link to whoever has the account, if there is one. The
// caller learns nothing of that.
func (s *Service) ForgotPassword(ctx context.Context, email string) error {
	email, err := NormalizeEmail(email)
	if err != nil {
		return nil //nolint:nilerr // nobody has such an address
	}
	id, token, err := s.newLink(purposeReset)
	if err != nil {
		return err
	}
	return pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		operatorID, err := s.q.LockActive(ctx, tx, email)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look up the operator: %w", err)
		}
		n, err := s.q.InsertPasswordReset(ctx, tx, dbsqlc.InsertPasswordResetParams{ID: id, OperatorID: operatorID, TokenHash: hashToken(token)})
		if err != nil {
			return fmt.Errorf("store a password reset: %w", err)
		}
		if n == 0 {
			return nil
		}
		return s.send(ctx, tx, LinkMail{Purpose: purposeReset, ID: id})
	})
}

// ResetPassword takes a new password from who has the link, once. All sessions
// end; a second factor stays.
func (s *Service) ResetPassword(ctx context.Context, token, chosen string, ip netip.Addr, requestID string) error {
	if !plausible(token, prefixReset) {
		return badLink()
	}
	// Before the new password is hashed: hashing is dear, and anyone may ask.
	found, err := s.q.FindPasswordReset(ctx, s.DB, hashToken(token))
	if errors.Is(err, pgx.ErrNoRows) {
		return badLink()
	}
	if err != nil {
		return fmt.Errorf("look up a password reset: %w", err)
	}
	if err := password.CheckPolicy(chosen); err != nil {
		return err
	}
	hash, err := password.Hash(ctx, chosen)
	if err != nil {
		return err
	}
	actor := &audit.Actor{Kind: audit.KindOperator, ID: found.OperatorID.String(), Name: found.Email, IP: ip, RequestID: requestID}
	return pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		n, err := s.q.UsePasswordReset(ctx, tx, found.ID)
		if err != nil {
			return fmt.Errorf("use a password reset: %w", err)
		}
		if n == 0 {
			return badLink()
		}
		if err := s.setPassword(ctx, tx, found.OperatorID, hash, uuid.Nil); err != nil {
			return err
		}
		return record(ctx, tx, actor, "operator.password_reset", found.OperatorID, nil)
	})
}

// setPassword also ends the sessions, but for one, and the links that wait.
func (s *Service) setPassword(ctx context.Context, tx pgx.Tx, id uuid.UUID, hash string, but uuid.UUID) error {
	n, err := s.q.SetPassword(ctx, tx, dbsqlc.SetPasswordParams{ID: id, PasswordHash: hash})
	if err != nil {
		return fmt.Errorf("store the password: %w", err)
	}
	if n == 0 {
		return badLink()
	}
	if err := s.q.VoidPasswordResets(ctx, tx, id); err != nil {
		return fmt.Errorf("void the password resets: %w", err)
	}
	return s.endSessions(ctx, tx, id, but)
}

func badLink() *fault.Error {
	return fault.Invalid("The link is not valid, was used already, or its time is over. Ask for a new one.").Code("invalid_link").
		OnField("token", "invalid_link", "This token is not valid any more.")
}
