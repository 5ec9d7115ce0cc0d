package identity

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/identity/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/password"
	"github.com/ouvira/ouvira/shared/pg"
)

func linkRefused() error {
	const message = "This link has been used, has expired, or was never valid. Ask for a new one."
	return fault.Invalid(message).Code("invalid_token").OnField("token", "invalid", message)
}

// SetPassword sets the password of whoever holds the token of a mailed link.
// The token works once. All sessions of the user end.
func (s *Service) SetPassword(ctx context.Context, t Tenant, token, newPassword string, c Client) error {
	if err := password.CheckPolicy(newPassword); err != nil {
		return err
	}
	// Hashing is the expensive part: only for who may.
	err := t.Do(ctx, func(db Conn) error {
		_, err := s.queries.FindPasswordToken(ctx, db, digest(token))
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return linkRefused()
	}
	if err != nil {
		return err
	}
	hash, err := password.Hash(ctx, newPassword)
	if err != nil {
		return err
	}
	err = t.Do(ctx, func(db Conn) error {
		return pg.InTx(ctx, db, func(tx pgx.Tx) error { return s.usePasswordToken(ctx, tx, token, hash, c) })
	})
	if errors.Is(err, pgx.ErrNoRows) { // used by another request meanwhile
		return linkRefused()
	}
	return err
}

func (s *Service) usePasswordToken(ctx context.Context, tx pgx.Tx, token, hash string, c Client) error {
	userID, err := s.queries.UsePasswordToken(ctx, tx, digest(token))
	if err != nil {
		return err
	}
	name, err := s.queries.SetPassword(ctx, tx, dbsqlc.SetPasswordParams{ID: userID, PasswordHash: &hash})
	if err != nil {
		return err
	}
	return s.queries.EndAfterPasswordChange(ctx, tx, dbsqlc.EndAfterPasswordChangeParams{
		UserID: &userID, UserDisplay: name, Action: actionPasswordSet,
		Metadata: metadata(), IPAddress: c.ip(), RequestID: c.RequestID,
	})
}
