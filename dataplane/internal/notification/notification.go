// Package notification is what users are told inside the app. A notification
// is written in the transaction of the change it tells of, and is read by its
// user alone.
package notification

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/notification/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// Kind says what a notification is about, for apps that show an icon.
type Kind string

// The kinds.
const (
	Access     Kind = "access"     // roles and memberships
	Invitation Kind = "invitation" // somebody has accepted
	Security   Kind = "security"   // password, second factor
	Support    Kind = "support"    // support was let in
)

// Notification is one.
type Notification struct {
	ID        int64
	Kind      Kind
	Message   string
	Read      bool
	CreatedAt time.Time
	UpdatedAt time.Time
}

var queries dbsqlc.Queries

// Add tells a user something, in the transaction of the change. The message is
// a sentence for them; it must hold no secret.
func Add(ctx context.Context, tx pg.Querier, userID int64, kind Kind, message string) error {
	return queries.Add(ctx, tx, dbsqlc.AddParams{UserID: userID, Kind: string(kind), Message: message})
}

// List is a page of the user's, the newest first, with how many there are and
// how many of all are unread.
func List(ctx context.Context, db pg.Querier, userID int64, unreadOnly bool, limit, offset int32) (page []Notification, count, unread int64, err error) {
	counts, err := queries.Count(ctx, db, userID)
	if err != nil {
		return nil, 0, 0, err
	}
	rows, err := queries.List(ctx, db, dbsqlc.ListParams{UserID: userID, UnreadOnly: unreadOnly, MaxRows: limit, SkipRows: offset})
	if err != nil {
		return nil, 0, 0, err
	}
	page = make([]Notification, len(rows))
	for i, r := range rows {
		page[i] = Notification{ID: r.ID, Kind: Kind(r.Kind), Message: r.Message, Read: r.Read, CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt}
	}
	if unreadOnly {
		return page, counts.Unread, counts.Unread, nil
	}
	return page, counts.Total, counts.Unread, nil
}

// MarkRead marks one of the user's own as read; read already is fine. Somebody
// else's is not found.
func MarkRead(ctx context.Context, tx pgx.Tx, userID, id int64) error {
	n, err := queries.MarkRead(ctx, tx, dbsqlc.MarkReadParams{UserID: userID, ID: id})
	if err == nil && n == 0 {
		err = fault.NotFound("There is no such notification. Load the list again.")
	}
	return err
}

// MarkAllRead marks all of the user's as read.
func MarkAllRead(ctx context.Context, tx pgx.Tx, userID int64) error {
	return queries.MarkAllRead(ctx, tx, userID)
}
