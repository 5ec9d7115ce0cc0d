package identity

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/identity/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// Session is a device on which somebody is signed in.
type Session struct {
	ID         uuid.UUID
	UserAgent  string
	IPAddress  *netip.Addr // from where the sign-in came
	CreatedAt  time.Time
	LastUsedAt time.Time // when its tokens were last refreshed
	ExpiresAt  time.Time
}

// Sessions is a page of the user's living sessions, the last used first, and
// how many there are in all.
func (s *Service) Sessions(ctx context.Context, db pg.Querier, userID int64, limit, offset int32) ([]Session, int64, error) {
	count, err := s.queries.CountSessions(ctx, db, userID)
	if err != nil {
		return nil, 0, err
	}
	rows, err := s.queries.ListSessions(ctx, db, dbsqlc.ListSessionsParams{UserID: userID, MaxRows: limit, SkipRows: offset})
	if err != nil {
		return nil, 0, err
	}
	sessions := make([]Session, len(rows))
	for i, row := range rows {
		sessions[i] = Session(row)
	}
	return sessions, count, nil
}

// EndSession ends one of the actor's own sessions: its tokens are refused from
// the next request on.
func (s *Service) EndSession(ctx context.Context, tx pgx.Tx, actor Actor, id uuid.UUID, c Client) error {
	_, err := s.queries.LockOwnSession(ctx, tx, dbsqlc.LockOwnSessionParams{ID: id, UserID: actor.ID})
	if errors.Is(err, pgx.ErrNoRows) {
		return fault.NotFound("You have no such session, or it has ended already.")
	}
	if err != nil {
		return err
	}
	return s.queries.RevokeSession(ctx, tx, dbsqlc.RevokeSessionParams{
		Reason: "ended by its user", SessionID: id, UserID: &actor.ID, UserDisplay: actor.FullName,
		Action: actionSessionEnded, Metadata: metadata("session", id.String()), IPAddress: c.ip(), RequestID: c.RequestID,
	})
}
