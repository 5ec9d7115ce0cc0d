package signup

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/operator"
	"github.com/ouvira/ouvira/controlplane/internal/signup/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/mail"
	"github.com/ouvira/ouvira/shared/pg"
)

// ApprovalLifetime is how long a sign-up waits for an operator. It reserves no slug
// meanwhile.
const ApprovalLifetime = 14 * 24 * time.Hour

// maxReason bounds what is said of a decision, in characters.
const maxReason = 500

// await puts a proven sign-up before the operators.
func (s *Service) await(ctx context.Context, tx pgx.Tx, actor *audit.Actor, row dbsqlc.GetSignupRow) error {
	err := s.q.AwaitApproval(ctx, tx, dbsqlc.AwaitApprovalParams{ID: row.ID, ExpiresAt: time.Now().Add(ApprovalLifetime)})
	if err != nil {
		return fmt.Errorf("put the sign-up before the operators: %w", err)
	}
	var roles []string
	for _, r := range operator.Roles {
		if r.May(operator.SignupDecide) {
			roles = append(roles, string(r))
		}
	}
	deciders, err := s.q.Deciders(ctx, tx, roles)
	if err != nil {
		return fmt.Errorf("look up who decides: %w", err)
	}
	for _, id := range deciders {
		if _, err := s.Jobs.Client.InsertTx(ctx, tx, ApprovalMail{SignupID: row.ID, OperatorID: id}, nil); err != nil {
			return fmt.Errorf("have an operator mailed: %w", err)
		}
	}
	return audit.Record(ctx, tx, audit.Entry{
		Actor: actor, Action: "signup.verify", EntityType: "signup", EntityID: row.ID.String(), Detail: map[string]any{"slug": row.Slug},
	})
}

// Approve has the tenant of a waiting sign-up made. reason may be empty.
func (s *Service) Approve(ctx context.Context, actor *audit.Actor, id uuid.UUID, reason string) (Verified, error) {
	reason, err := checkReason(reason, 0)
	if err != nil {
		return Verified{}, err
	}
	return pg.InTxValue(ctx, s.DB, func(tx pgx.Tx) (Verified, error) {
		row, err := s.waiting(ctx, tx, id)
		if err != nil {
			return Verified{}, err
		}
		if err := s.q.SetDecisionReason(ctx, tx, dbsqlc.SetDecisionReasonParams{ID: id, Reason: reason}); err != nil {
			return Verified{}, fmt.Errorf("store the reason: %w", err)
		}
		tenantID, err := s.begin(ctx, tx, actor, row)
		if err != nil {
			return Verified{}, err
		}
		if err := s.decided(ctx, tx, actor, "signup.approve", id, tenantID, reason); err != nil {
			return Verified{}, err
		}
		return s.answer(ctx, tx, tenantID)
	})
}

// Reject ends a waiting sign-up. The reason is mailed to who has signed up.
func (s *Service) Reject(ctx context.Context, actor *audit.Actor, id uuid.UUID, reason string) error {
	reason, err := checkReason(reason, 1)
	if err != nil {
		return err
	}
	return pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		if _, err := s.waiting(ctx, tx, id); err != nil {
			return err
		}
		if err := s.q.Reject(ctx, tx, dbsqlc.RejectParams{ID: id, Reason: reason}); err != nil {
			return fmt.Errorf("reject the sign-up: %w", err)
		}
		return s.decided(ctx, tx, actor, "signup.reject", id, uuid.Nil, reason)
	})
}

func checkReason(reason string, least int) (string, error) {
	reason = strings.TrimSpace(reason)
	if n := utf8.RuneCountInString(reason); n < least || n > maxReason {
		message := fmt.Sprintf("Say why, in %d to %d characters: it is mailed to who has signed up.", least, maxReason)
		return "", fault.Invalid(message).OnField("reason", "length", message)
	}
	return reason, nil
}

// waiting locks a sign-up that an operator is to decide about.
func (s *Service) waiting(ctx context.Context, tx pgx.Tx, id uuid.UUID) (dbsqlc.GetSignupRow, error) {
	row, err := s.lock(ctx, tx, id)
	if err != nil {
		return row, err
	}
	if status := statusOf(row); status != StatusPendingApproval {
		return row, fault.Conflict("The sign-up is " + string(status) + ": only one that is pending_approval can be approved or rejected.").Code("signup_" + string(status))
	}
	return row, nil
}

// decided has the decision mailed and recorded.
func (s *Service) decided(ctx context.Context, tx pgx.Tx, actor *audit.Actor, action string, id, tenantID uuid.UUID, reason string) error {
	if _, err := s.Jobs.Client.InsertTx(ctx, tx, DecisionMail{SignupID: id}, nil); err != nil {
		return fmt.Errorf("have the decision mailed: %w", err)
	}
	return audit.Record(ctx, tx, audit.Entry{
		Actor: actor, Action: action, EntityType: "signup", EntityID: id.String(), TenantID: tenantID, Detail: map[string]any{"reason": reason},
	})
}

// ApprovalMail asks a worker to tell an operator that a sign-up waits.
type ApprovalMail struct {
	SignupID   uuid.UUID `json:"signup_id"`
	OperatorID uuid.UUID `json:"operator_id"`
}

// Kind implements river.JobArgs.
func (ApprovalMail) Kind() string { return "signup_approval_mail" }

// DecisionMail asks a worker to tell somebody how their sign-up was decided.
type DecisionMail struct {
	SignupID uuid.UUID `json:"signup_id"`
}

// Kind implements river.JobArgs.
func (DecisionMail) Kind() string { return "signup_decision_mail" }

// ApprovalMailer works ApprovalMail jobs.
type ApprovalMailer struct {
	river.WorkerDefaults[ApprovalMail]

	DB     *pgxpool.Pool
	Sender mail.Sender

	q dbsqlc.Queries
}

// Timeout implements river.Worker.
func (m *ApprovalMailer) Timeout(*river.Job[ApprovalMail]) time.Duration { return 30 * time.Second }

// Work implements river.Worker. The mail has nothing of what was typed into the open
// form but the slug, which is letters and digits.
func (m *ApprovalMailer) Work(ctx context.Context, job *river.Job[ApprovalMail]) error {
	to, err := m.q.ApprovalMail(ctx, m.DB, dbsqlc.ApprovalMailParams{SignupID: job.Args.SignupID, OperatorID: job.Args.OperatorID})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil // decided already
	}
	if err != nil {
		return fmt.Errorf("read the sign-up: %w", err)
	}
	return m.Sender.Send(ctx, mail.Message{
		To: to.Email, Subject: "A sign-up waits for approval: " + to.Slug,
		Text: "Hello,\n\n" +
			"somebody has signed up for " + to.Slug + " and confirmed the address. See and decide:\n\n" +
			"ouvira signup list --status pending_approval\n" +
			"ouvira signup approve " + to.ID.String() + "\n" +
			"ouvira signup reject " + to.ID.String() + " --reason …\n",
	})
}

// DecisionMailer works DecisionMail jobs.
type DecisionMailer struct {
	river.WorkerDefaults[DecisionMail]

	DB     *pgxpool.Pool
	Sender mail.Sender

	q dbsqlc.Queries
}

// Timeout implements river.Worker.
func (m *DecisionMailer) Timeout(*river.Job[DecisionMail]) time.Duration { return 30 * time.Second }

// Work implements river.Worker.
func (m *DecisionMailer) Work(ctx context.Context, job *river.Job[DecisionMail]) error {
	d, err := m.q.DecisionMail(ctx, m.DB, job.Args.SignupID)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the sign-up: %w", err)
	}
	message := mail.Message{
		To: d.Email, Subject: "Your sign-up was approved",
		Text: "Hello,\n\nyour sign-up for " + d.Slug + " was approved, and your workspace is being made.\n",
	}
	if Status(d.Status) == StatusRejected {
		message.Subject = "Your sign-up was not approved"
		message.Text = "Hello,\n\nyour sign-up for " + d.Slug + " was not approved.\n"
	}
	if d.DecisionReason != "" {
		message.Text += "\n" + d.DecisionReason + "\n"
	}
	return m.Sender.Send(ctx, message)
}
