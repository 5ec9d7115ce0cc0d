package job

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/ouvira/ouvira/shared/failpoint"
	"github.com/ouvira/ouvira/shared/mail"
)

type rowKey struct{}

// withRow lets what a job does know which job it is.
var withRow = river.WorkerMiddlewareFunc(func(ctx context.Context, row *rivertype.JobRow, work func(context.Context) error) error {
	return work(context.WithValue(ctx, rowKey{}, row))
})

// Mailer sends the mails of jobs. A worker that dies after it has sent one and before
// that is noted sends it once more: then it is the same mail, under the same
// Message-ID, of which mail programs show one.
type Mailer struct{ mail.Sender }

// Send implements mail.Sender.
func (m Mailer) Send(ctx context.Context, message mail.Message) error {
	if row, ok := ctx.Value(rowKey{}).(*rivertype.JobRow); ok {
		// Ids of jobs begin anew with another control database; their time does not.
		message.ID = uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "%s %d %d %s", row.Kind, row.ID, row.CreatedAt.UnixMicro(), message.To))
		message.Date = row.CreatedAt
	}
	failpoint.Hit(ctx, "mail/taken")
	err := m.Sender.Send(ctx, message)
	if err == nil {
		failpoint.Hit(ctx, "mail/sent")
	}
	return err
}
