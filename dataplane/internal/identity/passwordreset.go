package identity

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/identity/dbsqlc"
	"github.com/ouvira/ouvira/dataplane/internal/outbox"
)

// ResetLifetime is how long the link of a reset mail is good.
const ResetLifetime = time.Hour

// resetPath is the page of the platform for tenants that have none.
const resetPath = "/auth/password/reset"

// errNobody rolls back the mail to nobody.
var errNobody = errors.New("there is nobody to write to")

// ForgotPassword mails a link to whoever the identifier (email address, phone
// number or user name) belongs to. A link that was mailed before dies. The
// caller learns nothing of whether there is such an account: for nobody the
// same statements run, and the message is taken back.
func (s *Service) ForgotPassword(ctx context.Context, t Tenant, identifier string, c Client) error {
	token := newOpaque("")
	link, err := s.tokens.Link(t.Route, t.Route.Settings.ResetURL, resetPath, token)
	if err != nil {
		return err
	}
	return inTx(ctx, t, func(tx pgx.Tx) error {
		user, err := s.queries.FindForReset(ctx, tx, strings.TrimSpace(identifier))
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		to, userID := "nobody@invalid", int64(0)
		if user.Reachable {
			to, userID = *user.Email, user.ID
		}
		err = s.queries.ReplaceResetToken(ctx, tx, dbsqlc.ReplaceResetTokenParams{
			TokenHash: digest(token), LifetimeSeconds: ResetLifetime.Seconds(), UserID: userID,
		})
		if err != nil {
			return err
		}
		err = pgx.BeginFunc(ctx, tx, func(savepoint pgx.Tx) error {
			err := t.Outbox.Add(ctx, savepoint, outbox.Message{
				Channel: outbox.Email, To: to, Template: outbox.TemplatePasswordReset, UserID: &userID,
				Values: map[string]string{"link": link, "minutes": strconv.Itoa(int(ResetLifetime.Minutes()))},
			})
			if err == nil && !user.Reachable {
				err = errNobody
			}
			return err
		})
		if err != nil && !errors.Is(err, errNobody) {
			return err
		}
		// The identifier is not recorded: people type passwords into the wrong field.
		return s.queries.RecordSecurity(ctx, tx, dbsqlc.RecordSecurityParams{
			UserID: idOrNil(user.ID), UserDisplay: user.FullName, Action: actionPasswordForgot,
			Metadata: metadata(), IPAddress: c.ip(), RequestID: c.RequestID,
		})
	})
}

func idOrNil(id int64) *int64 {
	if id == 0 {
		return nil
	}
	return &id
}
