package operator

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"

	"github.com/ouvira/ouvira/controlplane/internal/operator/dbsqlc"
	"github.com/ouvira/ouvira/shared/mail"
	"github.com/ouvira/ouvira/shared/seal"
)

// What a link is for.
const (
	purposeInvitation = "invitation"
	purposeReset      = "password_reset"
)

// newLink makes the id of a link and its token. The token is derived, so that the
// mail can be written later by who knows the id and has the key: the job that
// asks for it is shown on /jobs, and kept for a while.
func (s *Service) newLink(purpose string) (uuid.UUID, string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return uuid.Nil, "", fmt.Errorf("make an id: %w", err)
	}
	token, err := linkToken(s.Key, purpose, id)
	return id, token, err
}

func linkToken(key *seal.ControlKey, purpose string, id uuid.UUID) (string, error) {
	secret, err := key.Derive([]byte("operator-" + purpose + "/" + id.String()))
	if err != nil {
		return "", fmt.Errorf("derive the token of a link: %w", err)
	}
	prefix := prefixInvitation
	if purpose == purposeReset {
		prefix = prefixReset
	}
	return tokenOf(prefix, secret), nil
}

func (s *Service) send(ctx context.Context, tx pgx.Tx, m LinkMail) error {
	if _, err := s.Jobs.Client.InsertTx(ctx, tx, m, nil); err != nil {
		return fmt.Errorf("have a link mailed: %w", err)
	}
	return nil
}

// LinkMail asks a worker to mail a link.
type LinkMail struct {
	Purpose string    `json:"purpose"`
	ID      uuid.UUID `json:"id"`
}

// Kind implements river.JobArgs.
func (LinkMail) Kind() string { return "operator_link_mail" }

// LinkMailer works LinkMail jobs.
type LinkMailer struct {
	river.WorkerDefaults[LinkMail]

	DB     *pgxpool.Pool
	Key    *seal.ControlKey
	Sender mail.Sender
	// URL is where people reach the control plane.
	URL string

	q dbsqlc.Queries
}

// Timeout implements river.Worker.
func (m *LinkMailer) Timeout(*river.Job[LinkMail]) time.Duration { return 30 * time.Second }

// Work implements river.Worker. A link that was used, replaced or revoked, or
// whose time is over, is not sent.
func (m *LinkMailer) Work(ctx context.Context, job *river.Job[LinkMail]) error {
	token, err := linkToken(m.Key, job.Args.Purpose, job.Args.ID)
	if err != nil {
		return err
	}
	message := mail.Message{ID: job.Args.ID}
	switch job.Args.Purpose {
	case purposeInvitation:
		var to dbsqlc.InvitationRecipientRow
		to, err = m.q.InvitationRecipient(ctx, m.DB, job.Args.ID)
		message.To, message.Subject = to.Email, "You are invited to run the platform"
		message.Text = "Hello,\n\n" +
			"you are invited to run the platform at " + m.URL + ", as " + to.Role + ".\n" +
			"Choose a password here:\n\n" + m.link(PageInvitation, token) + "\n\n" +
			"The link is good for 7 days, once. If you did not expect it, ignore this mail.\n"
	case purposeReset:
		message.To, err = m.q.PasswordResetRecipient(ctx, m.DB, job.Args.ID)
		message.Subject = "Set a new password"
		message.Text = "Hello,\n\n" +
			"somebody asked for a new password of your account at " + m.URL + ".\n" +
			"Choose it here:\n\n" + m.link(PageReset, token) + "\n\n" +
			"The link is good for an hour, once. If it was not you, ignore this mail: nothing changes without the link.\n"
	default:
		return river.JobCancel(errors.New("there is no such purpose of a link"))
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read whom to mail: %w", err)
	}
	return m.Sender.Send(ctx, message)
}

// Pages of the control plane to which links lead.
const (
	PageInvitation = "/operators/invitation"
	PageReset      = "/operators/password"
)

// link carries the token behind the #, which browsers send to nobody: it is in
// no log of a proxy, and in no Referer.
func (m *LinkMailer) link(page, token string) string {
	return strings.TrimSuffix(m.URL, "/") + page + "#token=" + token
}
