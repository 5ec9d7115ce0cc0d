package outbox

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/dataplane/internal/outbox/dbsqlc"
	"github.com/ouvira/ouvira/shared/failpoint"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
)

const (
	// batch is how many messages of one tenant are under way at once.
	batch = 8
	// leaseTime is how long a claimed message is left alone. Nobody may still be
	// sending it afterwards.
	leaseTime = time.Minute
	sendTime  = 30 * time.Second
	// lookAgain is the least time between two looks that find nothing to send.
	lookAgain = 100 * time.Millisecond
	// writeTime bounds a statement of ours, the wait for a connection included.
	writeTime = 10 * time.Second
	// keepDays is how long it can be seen what has become of a message.
	keepDays = 30
)

// patience is how often, and with which pauses, a channel tries.
type patience struct {
	attempts      int32
	first, atMost time.Duration
}

var patiences = map[Channel]patience{
	Email: {attempts: 12, first: 30 * time.Second, atMost: time.Hour}, // hours in all
	SMS:   {attempts: 6, first: 5 * time.Second, atMost: time.Minute}, // a code is waited for
}

// pause before the attempt after this one: full jitter, so that what failed
// together does not come back together.
func (p patience) pause(attempts int32) time.Duration {
	ceiling := min(p.first<<min(attempts-1, 16), p.atMost)
	return time.Second + rand.N(ceiling) //nolint:gosec // spreads load, guards nothing
}

// drain sends what is due at one tenant, a batch at most. It says in how long
// to come back; a negative time: when woken.
func (d *Drainer) drain(ctx context.Context, r *route.Route) (time.Duration, error) {
	claimed, company, again, err := d.claim(ctx, r)
	if err != nil {
		return 0, err
	}
	if len(claimed) == 0 {
		return again, nil
	}
	var sending sync.WaitGroup
	for i := range claimed {
		sending.Go(func() { d.deliver(ctx, r, company, &claimed[i]) })
	}
	sending.Wait()
	return 0, nil
}

func (d *Drainer) claim(ctx context.Context, r *route.Route) (claimed []dbsqlc.ClaimRow, company string, again time.Duration, err error) {
	err = d.with(ctx, r, func(db Conn) error {
		claimed, err = queries.Claim(ctx, db, dbsqlc.ClaimParams{Most: batch, Lease: leaseTime.Seconds()})
		if err != nil {
			return err
		}
		if len(claimed) > 0 {
			company, err = queries.Sender(ctx, db)
			return err
		}
		seconds, err := queries.NextDue(ctx, db)
		if again = time.Duration(seconds * float64(time.Second)); again >= 0 {
			// What is due and was not to be had is another node's at the moment.
			again = max(again, lookAgain)
		}
		return err
	})
	return claimed, company, again, err
}

// deliver takes one claimed message to its end, or to its next attempt.
func (d *Drainer) deliver(ctx context.Context, r *route.Route, company string, row *dbsqlc.ClaimRow) {
	failpoint.Hit(ctx, "outbox/claimed")
	begun := time.Now()
	failure := d.send(ctx, r, company, row)
	if failure == errNotOurs {
		return
	}
	failpoint.Hit(ctx, "outbox/sent")
	outcome, err := d.settle(ctx, r, row, failure)
	attributes := []any{"tenant_id", r.TenantID, "message", row.MessageID, "channel", row.Channel, "template", row.Template, "attempt", row.Attempts, "outcome", outcome}
	if failure != nil {
		attributes = append(attributes, "reason", failure.Error())
	}
	switch {
	case err != nil:
		// Its lease will end; then a mail goes out again, and an SMS is unknown.
		d.options.Log.ErrorContext(ctx, "what became of a message could not be written down", append(attributes, "error", err)...)
	case failure == nil, failure == errSunk:
		d.options.Log.DebugContext(ctx, "message sent", attributes...)
	default:
		d.options.Log.WarnContext(ctx, "message not sent", attributes...)
	}
	d.meters.messages.WithLabelValues(row.Channel, outcome).Inc()
	d.meters.seconds.WithLabelValues(row.Channel).Observe(time.Since(begun).Seconds())
}

// errNotOurs says that somebody else has the message by now.
var errNotOurs = &Failure{Reason: "another node has it"}

// errSunk says that the message ends here: what a sandbox writes to people, who are
// those of the tenant that it is a copy of, must not reach them.
var errSunk = &Failure{Outcome: sunk, Reason: "not sent: this workspace is a sandbox"}

// sunk counts as sent.
const sunk Outcome = "sent"

// send returns nil if the message has left.
func (d *Drainer) send(ctx context.Context, r *route.Route, company string, row *dbsqlc.ClaimRow) *Failure {
	m := Message{Channel: Channel(row.Channel), To: row.Recipient, Template: Template(row.Template), Language: row.Language, UserID: row.UserID}
	switch {
	case m.Channel == SMS && row.Handed:
		return &Failure{Outcome: Unknown, Reason: "the node that was sending it stopped before it heard the answer"}
	case row.Expired:
		return &Failure{Outcome: Dead, Reason: "it could not be sent before its code expired"}
	}
	if r.Settings.Sandbox {
		return errSunk
	}
	var err error
	if m.Values, err = Open(d.options.Key, r.TenantID, m, row.PayloadSealed); err != nil {
		return &Failure{Outcome: Later, Reason: "its content does not open with this node's key", Cause: err}
	}
	if m.Channel == SMS {
		if ours, err := d.hand(ctx, r, row); err != nil || !ours {
			return errNotOurs // or nothing could be written: the lease will end
		}
	}
	failpoint.Hit(ctx, "outbox/handed")
	sending, cancel := context.WithTimeout(ctx, sendTime)
	defer cancel()
	return trySend(sending, d.options.Senders[m.Channel], Outgoing{Message: m, ID: row.MessageID, Written: row.CreatedAt, Route: r, Company: company})
}

// trySend survives a sender that panics: one message must not stop the nodes,
// one after the other.
func trySend(ctx context.Context, s Sender, m Outgoing) (failure *Failure) {
	defer func() {
		if p := recover(); p != nil {
			failure = &Failure{Outcome: Unknown, Reason: "the program failed while sending it", Cause: fmt.Errorf("panic: %v", p)}
		}
	}()
	if err := s.Send(ctx, m); err != nil {
		return failureOf(err)
	}
	return nil
}

// hand writes down that an SMS is about to leave. From here on, whoever finds
// the message without a result does not send it again.
func (d *Drainer) hand(ctx context.Context, r *route.Route, row *dbsqlc.ClaimRow) (ours bool, err error) {
	err = d.with(ctx, r, func(db Conn) error {
		n, err := queries.Hand(ctx, db, dbsqlc.HandParams{ID: row.ID, Attempts: row.Attempts})
		ours = n == 1
		return err
	})
	return ours, err
}

// settle writes down how the attempt went, also when the node is told to stop
// meanwhile. It returns the word for the metrics.
func (d *Drainer) settle(ctx context.Context, r *route.Route, row *dbsqlc.ClaimRow, f *Failure) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTime)
	defer cancel()
	p := patiences[Channel(row.Channel)]
	status := "sent"
	reason := ""
	if f != nil {
		status, reason = string(f.Outcome), f.Reason
		if f.Outcome == Unknown && row.Channel == string(Email) {
			status = string(Later) // a mail that comes twice does no harm
		}
		if status == string(Later) && row.Attempts >= p.attempts {
			status = string(Dead)
		}
	}
	return status, d.with(ctx, r, func(db Conn) error {
		if status == string(Later) {
			_, err := queries.Later(ctx, db, dbsqlc.LaterParams{
				ID: row.ID, Attempts: row.Attempts, LastError: reason, Wait: max(p.pause(row.Attempts), f.After).Seconds(),
			})
			return err
		}
		return pg.InTx(ctx, db, func(tx pgx.Tx) error {
			n, err := queries.Finish(ctx, tx, dbsqlc.FinishParams{ID: row.ID, Attempts: row.Attempts, Status: status, LastError: reason})
			if err != nil || n == 0 || status == "sent" {
				return err
			}
			return audit.Security(ctx, tx, audit.Who{Display: "system"}, "message_"+status, map[string]any{
				"message": row.ID, "channel": row.Channel, "template": row.Template, "user": row.UserID, "reason": reason,
			})
		})
	})
}

// tidy removes what has been seen long enough.
func (d *Drainer) tidy(ctx context.Context, r *route.Route) error {
	return d.with(ctx, r, func(db Conn) error {
		if _, err := queries.Forget(ctx, db, keepDays); err != nil {
			return err
		}
		return queries.ForgetCounts(ctx, db)
	})
}

// with leases a connection for the time of work, and no longer.
func (d *Drainer) with(ctx context.Context, r *route.Route, work func(Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, writeTime)
	defer cancel()
	lease, err := d.options.Lease(ctx, r)
	if err != nil {
		return err
	}
	defer lease.Release()
	return work(lease)
}

// routeOf is the tenant's newest route.
func (d *Drainer) routeOf(tenant uuid.UUID) (*route.Route, error) {
	if r, ok := d.options.Routes.ByID(tenant); ok {
		return r, nil
	}
	return nil, fmt.Errorf("tenant %s: %w", tenant, errGone)
}

func discard(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}
