package httpapi

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/notification"
	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// Notification is what a user is told inside the app.
type Notification struct {
	ID        int64     `json:"id"`
	Kind      string    `json:"kind" enum:"access,invitation,security,support" example:"access"`
	Message   string    `json:"message" example:"You were given the role manager in Acme North."`
	Read      bool      `json:"read"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

type listNotificationsInput struct {
	PageInput

	Unread bool `query:"unread" doc:"Only those that have not been read."`
}

// NotificationPage is a page of one's notifications.
type NotificationPage struct {
	UnreadCount int64 `json:"unread_count" doc:"Of all, not of this page." example:"1"`
	Page[Notification]
}

type listNotificationsOutput struct{ Body NotificationPage }

func (s *server) listNotifications(ctx context.Context, db pg.Querier, c *caller, in *listNotificationsInput) (*listNotificationsOutput, error) {
	limit, offset := in.window()
	found, count, unread, err := notification.List(ctx, db, c.ID, in.Unread, limit, offset)
	if err != nil {
		return nil, err
	}
	results := make([]Notification, len(found))
	for i, n := range found {
		results[i] = Notification{
			ID: n.ID, Kind: string(n.Kind), Message: n.Message, Read: n.Read,
			CreatedAt: n.CreatedAt.UTC(), UpdatedAt: n.UpdatedAt.UTC(),
		}
	}
	return &listNotificationsOutput{NotificationPage{unread, pageOf(s, c.scope, in.PageInput, count, results)}}, nil
}

type markReadInput struct {
	Body struct {
		NotificationID *int64 `json:"notification_id,omitempty" minimum:"1" doc:"This one." example:"17"`
		All            bool   `json:"all,omitempty" doc:"All of them, instead of one."`
	}
}

type markReadOutput struct {
	Body struct {
		Detail string `json:"detail"`
	}
}

func (s *server) markRead(ctx context.Context, tx pgx.Tx, c *caller, in *markReadInput) (*markReadOutput, error) {
	var out markReadOutput
	var err error
	switch id := in.Body.NotificationID; {
	case id != nil && !in.Body.All:
		out.Body.Detail = "The notification is marked as read."
		err = notification.MarkRead(ctx, tx, c.ID, *id)
	case id == nil && in.Body.All:
		out.Body.Detail = "All notifications are marked as read."
		err = notification.MarkAllRead(ctx, tx, c.ID)
	default:
		const message = "Send either notification_id, or all as true."
		err = fault.Invalid(message).OnField("notification_id", "required", message)
	}
	if err != nil {
		return nil, err
	}
	return &out, nil
}

// OutboxMessage is a mail or an SMS on its way, or what has become of it. What
// it says is not shown.
type OutboxMessage struct {
	ID         int64      `json:"id"`
	Channel    string     `json:"channel" enum:"email,sms" example:"email"`
	Recipient  string     `json:"recipient" example:"jane@acme.example"`
	Template   string     `json:"template" doc:"What it is about." example:"invitation"`
	Status     string     `json:"status" enum:"pending,sent,dead,unknown" doc:"dead: given up. unknown: handed over, and nobody knows whether it was sent; it is not sent again." example:"dead"`
	Attempts   int32      `json:"attempts" example:"12"`
	LastError  string     `json:"last_error" doc:"Why the last attempt failed." example:"the mail server refused it: 550 5.1.1"`
	User       *int64     `json:"user" doc:"Whom it is for, where that is a user."`
	CreatedAt  time.Time  `json:"created_at"`
	FinishedAt *time.Time `json:"finished_at"`
}

type listOutboxInput struct {
	PageInput

	Status string `query:"status" enum:"pending,sent,dead,unknown" doc:"Only these."`
}

type listOutboxOutput struct{ Body Page[OutboxMessage] }

func (s *server) listOutbox(ctx context.Context, db pg.Querier, c *caller, in *listOutboxInput) (*listOutboxOutput, error) {
	if err := c.requireHome(ctx, db); err != nil {
		return nil, err
	}
	limit, offset := in.window()
	found, count, err := outbox.List(ctx, db, in.Status, limit, offset)
	if err != nil {
		return nil, err
	}
	results := make([]OutboxMessage, len(found))
	for i, m := range found {
		results[i] = OutboxMessage{
			ID: m.ID, Channel: m.Channel, Recipient: m.Recipient, Template: m.Template, Status: m.Status, Attempts: m.Attempts,
			LastError: m.LastError, User: m.UserID, CreatedAt: m.CreatedAt.UTC(), FinishedAt: utc(m.FinishedAt),
		}
	}
	out := &listOutboxOutput{pageOf(s, c.scope, in.PageInput, count, results)}
	return out, outbox.Looked(ctx, db, c.who())
}
