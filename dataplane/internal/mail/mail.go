// Package mail sends a tenant's mail over SMTP.
package mail

import (
	"context"
	"errors"

	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/dataplane/internal/outbox/letter"
	"github.com/ouvira/ouvira/shared/mail"
)

// Channel is the outbox's way out for mail. A mail may leave twice; both then
// have the same Message-ID.
type Channel struct{ sender mail.Sender }

// New makes the channel.
func New(sender mail.Sender) Channel { return Channel{sender} }

// Send implements outbox.Sender.
func (c Channel) Send(ctx context.Context, m outbox.Outgoing) error {
	l, err := letter.Write(m)
	if err != nil {
		return &outbox.Failure{Outcome: outbox.Dead, Reason: "its template lacks a value", Cause: err}
	}
	err = c.sender.Send(ctx, mail.Message{
		To: m.To, Subject: l.Subject, Text: l.Text, HTML: l.HTML, FromName: l.FromName, ID: m.ID, Date: m.Written,
	})
	var refused *mail.Refusal
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused):
		return &outbox.Failure{Outcome: outbox.Dead, Reason: refused.Reason, Cause: err}
	}
	return &outbox.Failure{Outcome: outbox.Later, Reason: "the mail server could not be reached, or did not take it now", Cause: err}
}
