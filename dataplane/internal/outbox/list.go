package outbox

import (
	"context"
	"time"

	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/dataplane/internal/outbox/dbsqlc"
	"github.com/ouvira/ouvira/shared/pg"
)

// Entry is a message as operators of a tenant see it: not what it says.
type Entry struct {
	ID         int64      `audit:"-"`
	Channel    string     `audit:"-"`
	Recipient  string     `audit:"-"`
	Template   string     `audit:"-"`
	Status     string     `audit:"-"`
	Attempts   int32      `audit:"-"`
	LastError  string     `audit:"-"`
	UserID     *int64     `audit:"-"`
	CreatedAt  time.Time  `audit:"-"`
	FinishedAt *time.Time `audit:"-"`
}

var entries = audit.Of[Entry]("outbox")

// List is a page of the messages, the newest first, and how many there are.
// An empty status means all.
func List(ctx context.Context, db pg.Querier, status string, limit, offset int32) ([]Entry, int64, error) {
	var only *string
	if status != "" {
		only = &status
	}
	count, err := queries.CountLetters(ctx, db, only)
	if err != nil {
		return nil, 0, err
	}
	rows, err := queries.Letters(ctx, db, dbsqlc.LettersParams{Status: only, Most: limit, Skip: offset})
	if err != nil {
		return nil, 0, err
	}
	page := make([]Entry, len(rows))
	for i, r := range rows {
		page[i] = Entry{
			ID: r.ID, Channel: r.Channel, Recipient: r.Recipient, Template: r.Template, Status: r.Status, Attempts: r.Attempts,
			LastError: r.LastError, UserID: r.UserID, CreatedAt: r.CreatedAt, FinishedAt: r.FinishedAt,
		}
	}
	return page, count, nil
}

// Looked records that somebody has looked at whom the tenant writes to.
func Looked(ctx context.Context, db pg.Querier, who audit.Who) error {
	return entries.Looked(ctx, db, who, nil, nil)
}
