package billing

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"

	"github.com/ouvira/ouvira/controlplane/internal/billing/dbsqlc"
	"github.com/ouvira/ouvira/controlplane/internal/tenant"
	"github.com/ouvira/ouvira/shared/mail"
)

// DueMail asks a worker to warn the owner of a tenant that what is paid ends.
type DueMail struct {
	TenantID uuid.UUID `json:"tenant_id"`
	Due      string    `json:"due"`
}

// Kind implements river.JobArgs.
func (DueMail) Kind() string { return "billing_due_mail" }

// DueMailer works DueMail jobs.
type DueMailer struct {
	river.WorkerDefaults[DueMail]

	DB        *pgxpool.Pool
	Sender    mail.Sender
	Addresses tenant.Addresses

	q dbsqlc.Queries
}

// Timeout implements river.Worker.
func (m *DueMailer) Timeout(*river.Job[DueMail]) time.Duration { return 30 * time.Second }

// Work implements river.Worker. The owner is whom the control plane knows: the
// tenant's users are in the tenant's own database.
func (m *DueMailer) Work(ctx context.Context, job *river.Job[DueMail]) error {
	to, err := m.q.Contact(ctx, m.DB, job.Args.TenantID)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read whom to warn: %w", err)
	}
	if to.Email == "" {
		return nil // the event has told those who listen
	}
	return m.Sender.Send(ctx, mail.Message{
		To: to.Email, Subject: "Your workspace is paid until " + job.Args.Due,
		Text: "Hello,\n\n" +
			"your workspace " + m.Addresses.Host(to.Slug) + " is paid until " + job.Args.Due + " (or its trial ends then).\n" +
			"Please see to its renewal, so that it stays reachable.\n",
	})
}
