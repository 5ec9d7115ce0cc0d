package signup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"

	"github.com/ouvira/ouvira/controlplane/internal/signup/dbsqlc"
	"github.com/ouvira/ouvira/shared/mail"
	"github.com/ouvira/ouvira/shared/seal"
)

// CodeMail asks a worker to mail the code of a sign-up. It names the code by
// its serial: jobs are shown on /jobs, and kept for a while.
type CodeMail struct {
	SignupID uuid.UUID `json:"signup_id"`
	Serial   int32     `json:"serial"`
}

// Kind implements river.JobArgs.
func (CodeMail) Kind() string { return "signup_code_mail" }

// InsertOpts implements river.JobArgsWithInsertOpts: a code is of no use after
// its lifetime, and neither are more attempts than fit into it.
func (CodeMail) InsertOpts() river.InsertOpts { return river.InsertOpts{MaxAttempts: 6} }

// CodeMailer works CodeMail jobs.
type CodeMailer struct {
	river.WorkerDefaults[CodeMail]

	DB     *pgxpool.Pool
	Key    *seal.ControlKey
	Sender mail.Sender

	q dbsqlc.Queries
}

// Timeout implements river.Worker.
func (m *CodeMailer) Timeout(*river.Job[CodeMail]) time.Duration { return 30 * time.Second }

// Work implements river.Worker. A code that was replaced, used or has expired
// is not sent.
func (m *CodeMailer) Work(ctx context.Context, job *river.Job[CodeMail]) error {
	to, err := m.q.CodeRecipient(ctx, m.DB, dbsqlc.CodeRecipientParams{ID: job.Args.SignupID, CodeSerial: job.Args.Serial})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the sign-up: %w", err)
	}
	code, err := deriveCode(m.Key, to.ID, to.CodeSerial)
	if err != nil {
		return err
	}
	return m.Sender.Send(ctx, mail.Message{To: to.Email, Subject: "Your sign-up code", Text: codeText(code)})
}

// codeText has nothing of what was typed into the open form: otherwise anyone
// could mail their own sentences to strangers, in our name.
func codeText(code string) string {
	return "Hello,\n\n" +
		"your code to finish the sign-up is\n\n" +
		code + "\n\n" +
		"It is good for 15 minutes. If you did not sign up, ignore this mail: nothing happens without the code.\n"
}
