package httpapi

import (
	"context"
	"net/netip"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/shared/pg"
)

// Session is a device on which the caller is signed in.
type Session struct {
	ID         uuid.UUID   `json:"id" format:"uuid"`
	UserAgent  string      `json:"user_agent" example:"Mozilla/5.0"`
	IPAddress  *netip.Addr `json:"ip_address" doc:"From where the sign-in came."`
	CreatedAt  time.Time   `json:"created_at"`
	LastUsedAt time.Time   `json:"last_used_at" doc:"When its tokens were last refreshed."`
	ExpiresAt  time.Time   `json:"expires_at" doc:"When it ends, however much it is used."`
	Current    bool        `json:"current" doc:"It is the one that asks."`
}

type listSessionsOutput struct{ Body Page[Session] }

func (s *server) listSessions(ctx context.Context, db pg.Querier, c *caller, in *PageInput) (*listSessionsOutput, error) {
	limit, offset := in.window()
	sessions, count, err := s.Identity.Sessions(ctx, db, c.ID, limit, offset)
	if err != nil {
		return nil, err
	}
	results := make([]Session, len(sessions))
	for i, d := range sessions {
		results[i] = Session{
			ID: d.ID, UserAgent: d.UserAgent, IPAddress: d.IPAddress, CreatedAt: d.CreatedAt.UTC(), LastUsedAt: d.LastUsedAt.UTC(),
			ExpiresAt: d.ExpiresAt.UTC(), Current: d.ID == c.SessionID,
		}
	}
	return &listSessionsOutput{pageOf(s, c.scope, *in, count, results)}, nil
}

type endSessionInput struct {
	ID uuid.UUID `path:"id" format:"uuid"`
}

func (s *server) endSession(ctx context.Context, tx pgx.Tx, c *caller, in *endSessionInput) (*struct{}, error) {
	return nil, s.Identity.EndSession(ctx, tx, c.Actor, in.ID, c.client)
}

type sessionTestOutput struct {
	Body struct {
		User           User      `json:"user"`
		TokenExpiresAt time.Time `json:"token_expires_at" doc:"Of the access token that asks."`
	}
}

func (s *server) sessionTest(_ context.Context, _ pg.Querier, c *caller, _ *struct{}) (*sessionTestOutput, error) {
	var out sessionTestOutput
	out.Body.User, out.Body.TokenExpiresAt = userOf(c.Profile), c.verified.Expires.UTC()
	return &out, nil
}

// actionsOfLogin begin the names of what the security log says of signing in.
const actionsOfLogin = "login"

func (s *server) loginActivity(ctx context.Context, db pg.Querier, c *caller, in *PageInput) (*listSecurityEventsOutput, error) {
	limit, offset := in.window()
	events, count, err := audit.SecurityEvents(ctx, db, audit.Filter{User: c.ID, ActionPrefix: actionsOfLogin}, audit.Window{Limit: limit, Offset: offset})
	if err != nil {
		return nil, err
	}
	results := make([]SecurityLog, len(events))
	for i, e := range events {
		results[i] = securityOf(e)
	}
	return &listSecurityEventsOutput{pageOf(s, c.scope, *in, count, results)}, nil
}
