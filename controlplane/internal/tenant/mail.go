package tenant

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"

	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/controlplane/internal/tenant/dbsqlc"
	"github.com/ouvira/ouvira/shared/mail"
	"github.com/ouvira/ouvira/shared/seal"
)

// OwnerMail asks a worker to mail the owner of a new tenant a link to set a
// password. It names the operation, from which the token is derived.
type OwnerMail struct {
	OperationID uuid.UUID `json:"operation_id"`
}

// Kind implements river.JobArgs.
func (OwnerMail) Kind() string { return "tenant_owner_mail" }

// OwnerMailer works OwnerMail jobs.
type OwnerMailer struct {
	river.WorkerDefaults[OwnerMail]

	DB        *pgxpool.Pool
	Key       *seal.ControlKey
	Sender    mail.Sender
	Addresses Addresses

	q dbsqlc.Queries
}

// Timeout implements river.Worker.
func (m *OwnerMailer) Timeout(*river.Job[OwnerMail]) time.Duration { return 30 * time.Second }

// Work implements river.Worker.
func (m *OwnerMailer) Work(ctx context.Context, job *river.Job[OwnerMail]) error {
	to, err := m.q.OwnerOfOperation(ctx, m.DB, job.Args.OperationID)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil // a tenant of a sign-up, or one that is gone
	}
	if err != nil {
		return fmt.Errorf("read the owner: %w", err)
	}
	token, err := provision.OwnerToken(m.Key, uint32(to.LinkKey), job.Args.OperationID)
	if err != nil {
		return err
	}
	link, err := setPasswordLink(to.ResetUrl, m.Addresses.URL(to.Slug), token)
	if err != nil {
		return err
	}
	return m.Sender.Send(ctx, mail.Message{
		To: to.Email, Subject: "Set your password",
		Text: "Hello,\n\n" +
			"an account was made for you at " + m.Addresses.Host(to.Slug) + ".\n" +
			"Set your password here:\n\n" +
			link + "\n\n" +
			"The link is good for 7 days, once.\n",
	})
}

// setPasswordLink leads to the tenant's own page where it has one, else to the
// platform's address of the tenant.
func setPasswordLink(resetURL, platformURL, token string) (string, error) {
	if resetURL == "" {
		resetURL = platformURL + "/auth/password/reset"
	}
	u, err := url.Parse(resetURL)
	if err != nil {
		return "", errors.New("the tenant's reset_url is not a URL")
	}
	q := u.Query()
	q.Set("token", token)
	u.RawQuery = q.Encode()
	return u.String(), nil
}
