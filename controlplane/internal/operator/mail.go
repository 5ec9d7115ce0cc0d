package operator

import (
	"bytes"
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
	secret, err := key.Derive(linkContext(purpose, id))
	if err != nil {
		return "", fmt.Errorf("derive the token of a link: %w", err)
	}
	return tokenOf(linkPrefix(purpose), secret), nil
}

// storedToken is the token of which the digest is stored: the keys may have been rotated
// since, or this process may know more of them than the one that has made it.
func storedToken(key *seal.ControlKey, purpose string, id uuid.UUID, stored []byte) (string, error) {
	derived, err := key.Derivations(linkContext(purpose, id))
	if err != nil {
		return "", fmt.Errorf("derive the token of a link: %w", err)
	}
	for _, secret := range derived {
		if token := tokenOf(linkPrefix(purpose), secret); bytes.Equal(hashToken(token), stored) {
			return token, nil
		}
	}
	return "", errors.New("the link was made with a key that is not in the key file")
}

func linkContext(purpose string, id uuid.UUID) []byte {
	return []byte("operator-" + purpose + "/" + id.String())
}

func linkPrefix(purpose string) string {
	if purpose == purposeReset {
		return prefixReset
	}
	return prefixInvitation
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
	var to, subject, page, before, after string
	var stored []byte
	var err error
	switch job.Args.Purpose {
	case purposeInvitation:
		var row dbsqlc.InvitationRecipientRow
		row, err = m.q.InvitationRecipient(ctx, m.DB, job.Args.ID)
		to, stored, page, subject = row.Email, row.TokenHash, PageInvitation, "You are invited to run the platform"
		before = "you are invited to run the platform at " + m.URL + ", as " + row.Role + ".\nChoose a password here:"
		after = "The link is good for 7 days, once. If you did not expect it, ignore this mail."
	case purposeReset:
		var row dbsqlc.PasswordResetRecipientRow
		row, err = m.q.PasswordResetRecipient(ctx, m.DB, job.Args.ID)
		to, stored, page, subject = row.Email, row.TokenHash, PageReset, "Set a new password"
		before = "somebody asked for a new password of your account at " + m.URL + ".\nChoose it here:"
		after = "The link is good for an hour, once. If it was not you, ignore this mail: nothing changes without the link."
	default:
		return river.JobCancel(errors.New("there is no such purpose of a link"))
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read whom to mail: %w", err)
	}
	token, err := storedToken(m.Key, job.Args.Purpose, job.Args.ID, stored)
	if err != nil {
		return err
	}
	return m.Sender.Send(ctx, mail.Message{
		ID: job.Args.ID, To: to, Subject: subject, Text: "Hello,\n\n" + before + "\n\n" + m.link(page, token) + "\n\n" + after + "\n",
	})
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
