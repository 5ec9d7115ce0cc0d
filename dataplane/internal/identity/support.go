package identity

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/dataplane/internal/identity/dbsqlc"
	"github.com/ouvira/ouvira/dataplane/internal/notification"
	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
)

// MaxConsent is how long an owner can let support in at once.
const MaxConsent = 7 * 24 * time.Hour

// Support is who really asks when support acts for an owner. It narrows what
// the owner may do, and counts for as long as the consent does.
type Support struct {
	SessionID  uuid.UUID
	OperatorID uuid.UUID
	Operator   string // the address, as it was
	Write      bool   // not only reads
}

// SupportGrant is what the control plane says of a code that it redeems.
type SupportGrant struct {
	ID         uuid.UUID
	OperatorID uuid.UUID
	Operator   string
	Reason     string
	Minutes    int32
	Write      bool
	BreakGlass bool
}

// SupportCodes redeems codes: ControlCodes.
type SupportCodes interface {
	// Redeem takes a code once; ok is false when it does not count (any more).
	Redeem(ctx context.Context, tenant uuid.UUID, hash []byte) (grant SupportGrant, ok bool, err error)
}

// ControlCodes redeems codes in the control database, by the function that a
// node's role may call.
type ControlCodes struct{ db pg.Querier }

// NewControlCodes takes a pool of the control database, role ouvira_node.
func NewControlCodes(db pg.Querier) *ControlCodes { return &ControlCodes{db} }

// Redeem implements SupportCodes.
func (c *ControlCodes) Redeem(ctx context.Context, tenant uuid.UUID, hash []byte) (SupportGrant, bool, error) {
	rows, err := c.db.Query(ctx, "SELECT id, operator_id, operator, reason, minutes, write, break_glass FROM node.redeem_support_code($1, $2)", tenant, hash)
	if err != nil {
		return SupportGrant{}, false, fmt.Errorf("redeem a support code: %w", err)
	}
	grant, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[SupportGrant])
	if errors.Is(err, pgx.ErrNoRows) {
		return SupportGrant{}, false, nil
	}
	if err != nil {
		return SupportGrant{}, false, fmt.Errorf("redeem a support code: %w", err)
	}
	return grant, true, nil
}

func (s *Service) authenticateSupport(ctx context.Context, db pg.Querier, v Verified) (Actor, error) {
	row, err := s.queries.AuthenticateSupport(ctx, db, dbsqlc.AuthenticateSupportParams{SessionID: v.SessionID, UserID: v.UserID})
	if errors.Is(err, pgx.ErrNoRows) {
		return Actor{}, refused(errors.New("the support session or the consent has ended, or the owner is disabled"))
	}
	if err != nil {
		return Actor{}, err
	}
	return Actor{
		AuthzEpoch: row.AuthzEpoch,
		AskedAt:    row.AskedAt,
		Support:    &Support{SessionID: v.SessionID, OperatorID: row.OperatorID, Operator: row.Operator, Write: row.Write},
		Profile: Profile{
			ID: row.ID, AccountUID: row.AccountUID, Username: row.Username, FullName: row.FullName,
			Email: row.Email, EmailVerified: row.EmailVerified, PrimaryMobile: row.PrimaryMobile, PhoneVerified: row.PhoneVerified,
			Is2FAEnabled: row.Is2FAEnabled, TwoFAType: row.TwoFAType,
			DateJoined: row.DateJoined, LastLogin: row.LastLogin, CreatedAt: row.CreatedAt, UpdatedAt: row.UpdatedAt,
		},
	}, nil
}

// Consent is what an owner lets support do.
type Consent struct {
	ID          int64
	UserID      int64
	UserDisplay string
	Write       bool
	Until       time.Time
	CreatedAt   time.Time
	UpdatedAt   time.Time
}

// SupportSession is one entry of support.
type SupportSession struct {
	ID         uuid.UUID
	Operator   string
	Reason     string
	Write      bool
	BreakGlass bool
	CreatedAt  time.Time
	ExpiresAt  time.Time
	EndedAt    *time.Time
}

// recordedConsent is what the activity log keeps of a consent.
type recordedConsent struct {
	Until time.Time `json:"until" audit:"show"`
	Write bool      `json:"write" audit:"show"`
}

var supportConsents = audit.Of[recordedConsent]("support_access")

// SupportAccess is the consent that is open, nil when there is none, and the
// last entries of support.
func (s *Service) SupportAccess(ctx context.Context, db pg.Querier) (*Consent, []SupportSession, error) {
	var consent *Consent
	row, err := s.queries.OpenConsent(ctx, db)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, nil, err
	}
	if err == nil {
		open := Consent(row)
		consent = &open
	}
	rows, err := s.queries.SupportSessions(ctx, db)
	if err != nil {
		return nil, nil, err
	}
	sessions := make([]SupportSession, len(rows))
	for i, row := range rows {
		sessions[i] = SupportSession(row)
	}
	return consent, sessions, nil
}

// AllowSupport lets support in until a time, or changes until when. All owners
// are told.
func (s *Service) AllowSupport(ctx context.Context, t Tenant, tx pgx.Tx, actor Actor, until time.Time, write bool, who audit.Who) error {
	const message = "Support can be let in for the next seven days at most."
	if !until.After(actor.AskedAt) || until.After(actor.AskedAt.Add(MaxConsent+leeway)) {
		return fault.Invalid(message).OnField("until", "range", message)
	}
	home, err := s.queries.HomeCompany(ctx, tx)
	if err != nil {
		return err
	}
	if err := s.queries.EndStaleConsent(ctx, tx); err != nil {
		return err
	}
	before, err := s.queries.LockConsent(ctx, tx)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	first := err != nil
	row, err := s.queries.GiveConsent(ctx, tx, dbsqlc.GiveConsentParams{UserID: actor.ID, Write: write, Until: until})
	if err != nil {
		return err
	}
	after := recordedConsent{until.UTC(), write}
	if first {
		err = supportConsents.Created(ctx, tx, who, &home, row.ID, after)
	} else {
		err = supportConsents.Updated(ctx, tx, who, &home, row.ID, recordedConsent{before.Until.UTC(), before.Write}, after)
	}
	if err != nil {
		return err
	}
	if err := audit.Security(ctx, tx, who, actionSupportAllowed, map[string]any{"until": until.UTC(), "write": write}); err != nil {
		return err
	}
	return s.tellOwners(ctx, t, tx, fmt.Sprintf("%s has let the platform's support in until %s, %s.", actor.FullName, clock(until), rights(write)))
}

// EndSupport takes the consent back and ends all sessions of support, from the
// next request on. Where there is nothing to end, nothing happens.
func (s *Service) EndSupport(ctx context.Context, t Tenant, tx pgx.Tx, actor Actor, who audit.Who) error {
	home, err := s.queries.HomeCompany(ctx, tx)
	if err != nil {
		return err
	}
	before, err := s.queries.LockConsent(ctx, tx)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	open := err == nil
	if err := s.queries.EndConsent(ctx, tx); err != nil {
		return err
	}
	ended, err := s.queries.EndSupportSessions(ctx, tx)
	if err != nil || (!open && ended == 0) {
		return err
	}
	if open {
		if err := supportConsents.Deleted(ctx, tx, who, &home, before.ID, recordedConsent{before.Until.UTC(), before.Write}); err != nil {
			return err
		}
	}
	if err := audit.Security(ctx, tx, who, actionSupportEnded, map[string]any{"sessions": ended}); err != nil {
		return err
	}
	return s.tellOwners(ctx, t, tx, actor.FullName+" has ended the access of the platform's support.")
}

// tellOwners tells all owners in the app, and by mail those that have an
// address.
func (s *Service) tellOwners(ctx context.Context, t Tenant, tx pgx.Tx, event string) error {
	owners, err := s.queries.Owners(ctx, tx)
	if err != nil {
		return err
	}
	for _, owner := range owners {
		if err := notification.Add(ctx, tx, owner.ID, notification.Support, event); err != nil {
			return err
		}
		if owner.Email == nil {
			continue
		}
		err := t.Outbox.Add(ctx, tx, outbox.Message{
			Channel: outbox.Email, To: *owner.Email, Template: outbox.TemplateSecurity, Values: map[string]string{"event": event}, UserID: &owner.ID,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func clock(at time.Time) string { return at.UTC().Format("2 January 2006, 15:04 UTC") }

func rights(write bool) string {
	if write {
		return "to look and to change things"
	}
	return "to look, not to change anything"
}

func errSupportCode(why string) error {
	return fault.Unauthenticated("The support code is not valid, was used already, or is over. Ask for a new one.").
		Code("invalid_support_code").Because(errors.New(why))
}

// SupportToken is what support enters with. There is no refresh token.
type SupportToken struct {
	Access    string
	ExpiresAt time.Time
	ExpiresIn time.Duration
	Write     bool
}

// EnterSupport redeems a code of an operator. The consent must be open; without
// it only break-glass enters, which reads. All owners are told.
func (s *Service) EnterSupport(ctx context.Context, t Tenant, codes SupportCodes, code string, c Client) (SupportToken, error) {
	hash, ok := route.SupportCodeHash(t.Route.TenantID, code)
	if !ok {
		return SupportToken{}, errSupportCode("not a support code of this tenant")
	}
	grant, ok, err := codes.Redeem(ctx, t.Route.TenantID, hash)
	if err != nil {
		return SupportToken{}, fault.Unavailable("Support codes cannot be checked just now. Try again.").RetryAfter(time.Second).Because(err)
	}
	if !ok {
		return SupportToken{}, errSupportCode("unknown, used or over")
	}
	var token SupportToken
	err = t.Do(ctx, func(db Conn) error {
		return pg.InTx(ctx, db, func(tx pgx.Tx) error {
			token, err = s.beginSupport(ctx, t, tx, grant, c)
			return err
		})
	})
	return token, err
}

func (s *Service) beginSupport(ctx context.Context, t Tenant, tx pgx.Tx, grant SupportGrant, c Client) (SupportToken, error) {
	session, display, err := s.supportFor(ctx, tx, grant)
	if err != nil {
		return SupportToken{}, err
	}
	session.ID, session.OperatorID, session.Operator, session.Reason = grant.ID, grant.OperatorID, grant.Operator, grant.Reason
	session.Minutes, session.BreakGlass, session.IPAddress = grant.Minutes, grant.BreakGlass, c.ip()
	row, err := s.queries.StartSupportSession(ctx, tx, session)
	if err != nil {
		return SupportToken{}, err
	}
	home, err := s.queries.HomeCompany(ctx, tx)
	if err != nil {
		return SupportToken{}, err
	}
	who := audit.Who{UserID: &session.UserID, Display: display, OnBehalf: grant.Operator, IP: c.IP, RequestID: c.RequestID}
	detail := map[string]any{
		"session": grant.ID, "operator": grant.Operator, "reason": grant.Reason, "write": session.Write,
		"break_glass": grant.BreakGlass, "expires_at": row.ExpiresAt.UTC(),
	}
	if err := supportConsents.Did(ctx, tx, who, &home, session.ConsentID, "ENTER", detail); err != nil {
		return SupportToken{}, err
	}
	if err := audit.Security(ctx, tx, who, actionSupportEntered, detail); err != nil {
		return SupportToken{}, err
	}
	event := fmt.Sprintf("%s of the platform's support has entered your workspace until %s, %s. The reason given: %s", grant.Operator, clock(row.ExpiresAt), rights(session.Write), grant.Reason)
	if grant.BreakGlass {
		event = "Without an owner's consent (emergency access): " + event
	}
	if err := s.tellOwners(ctx, t, tx, event); err != nil {
		return SupportToken{}, err
	}
	key, err := s.keys.current(ctx, t.Route, &s.queries, tx)
	if err != nil {
		return SupportToken{}, err
	}
	lifetime := row.ExpiresAt.Sub(row.StartedAt)
	access, err := s.tokens.sign(t.Route, key, session.UserID, grant.ID, lifetime, &actor{Subject: grant.OperatorID.String(), Name: grant.Operator})
	if err != nil {
		return SupportToken{}, err
	}
	return SupportToken{Access: access, ExpiresAt: row.ExpiresAt, ExpiresIn: lifetime, Write: session.Write}, nil
}

// supportFor finds for whom support acts: the owner who consents, or, in an
// emergency, the first of the owners.
func (s *Service) supportFor(ctx context.Context, tx pgx.Tx, grant SupportGrant) (dbsqlc.StartSupportSessionParams, string, error) {
	var session dbsqlc.StartSupportSessionParams
	if grant.BreakGlass {
		owners, err := s.queries.Owners(ctx, tx)
		if err != nil {
			return session, "", err
		}
		if len(owners) == 0 {
			return session, "", fault.Conflict("The workspace has no owner for whom support could act.").Code("no_owner")
		}
		session.UserID, session.Until = owners[0].ID, time.Now().Add(MaxConsent)
		return session, owners[0].FullName, nil
	}
	consent, err := s.queries.LockConsent(ctx, tx)
	if errors.Is(err, pgx.ErrNoRows) {
		return session, "", fault.Forbidden("The owners of this workspace do not let support in. Ask one of them to allow it.").Code("no_consent")
	}
	if err != nil {
		return session, "", err
	}
	session.ConsentID, session.UserID, session.Until = &consent.ID, consent.UserID, consent.Until
	session.Write = grant.Write && consent.Write
	return session, consent.FullName, nil
}
