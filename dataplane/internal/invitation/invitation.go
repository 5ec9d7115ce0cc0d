// Package invitation brings people into companies: somebody who may do so
// invites an email address with a role, and whoever signs in with that address
// and shows the token becomes a member.
//
// It promises:
//
//   - A token is 256 random bits, stored as its SHA-256 and handed out once: in
//     the mail, and to the one who invites.
//   - Nobody gives what they do not hold: it is asked when the invitation is
//     made, when it is sent again, and once more when it is accepted, of the one
//     who answers for it.
//   - An address has at most one pending invitation in a company.
//   - A token works once, and only for a user with the invited address.
//
// Accepting does not prove the address: the token was shown to the inviter too,
// who could otherwise make any address a verified one.
package invitation

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/access"
	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/dataplane/internal/company"
	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/dataplane/internal/invitation/dbsqlc"
	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// How long an invitation is good.
const (
	DefaultLifetime = 7 * 24 * time.Hour
	MaxLifetime     = 30 * 24 * time.Hour
)

// The statuses of an invitation.
const (
	StatusPending  = "pending"
	StatusAccepted = "accepted"
	StatusRevoked  = "revoked"
	StatusExpired  = "expired"
)

// Invitation is one invitation; the token is not part of it.
type Invitation struct {
	ID         int64
	CompanyID  int64
	Company    string
	Email      string
	RoleID     int64
	Role       string
	Scope      string
	Language   string
	ExpiresAt  time.Time
	InvitedBy  *int64
	AcceptedBy *int64
	AcceptedAt *time.Time
	CreatedAt  time.Time
	UpdatedAt  time.Time
	DeletedAt  *time.Time
	Status     string
}

// record is what the audit keeps of an invitation.
type record struct {
	Email     string    `audit:"show" json:"email"`
	Role      int64     `audit:"show" json:"role"`
	Scope     string    `audit:"show" json:"scope"`
	Status    string    `audit:"show" json:"status"`
	ExpiresAt time.Time `audit:"show" json:"expires_at"`
	InvitedBy *int64    `audit:"show" json:"invited_by"`
	Token     string    `audit:"hide" json:"token"`
}

var invitations = audit.Of[record]("invitation")

func (i Invitation) record(token string) record {
	return record{i.Email, i.RoleID, i.Scope, i.Status, i.ExpiresAt.UTC(), i.InvitedBy, token}
}

// New is what an invitation is made of.
type New struct {
	CompanyID int64
	Email     string
	RoleID    int64
	Scope     access.Scope
	Language  string // of the reader, ISO 639-1; "": the company's
	ExpiresAt *time.Time
}

// Inviter is who answers for an invitation.
type Inviter struct {
	access.Giver

	Who audit.Who
}

// Post is how the token gets to the one who is invited.
type Post struct {
	Outbox *outbox.Queue
	Link   func(token string) (string, error)
}

// Service is the room. It holds no state of a tenant.
type Service struct {
	Access *access.Service

	queries dbsqlc.Queries
}

const secretBytes = 32

func newToken() (token string, hash []byte) {
	secret := make([]byte, secretBytes)
	_, _ = rand.Read(secret) // never fails
	token = base64.RawURLEncoding.EncodeToString(secret)
	return token, digest(token)
}

// digest is how tokens are stored. They are random, so one plain hash will do.
func digest(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

// Create invites an address, and mails it the link. The token is for the one
// who invites, to hand over another way; it is not to be had again.
func (s *Service) Create(ctx context.Context, tx pgx.Tx, by Inviter, post Post, in New) (Invitation, string, error) {
	email, err := identity.NormalizeEmail(in.Email)
	if err != nil {
		return Invitation{}, "", err
	}
	language, err := company.Language(in.Language)
	if err != nil {
		return Invitation{}, "", err
	}
	expires, err := expiry(in.ExpiresAt)
	if err != nil {
		return Invitation{}, "", err
	}
	if err := s.Access.MayAssign(ctx, tx, by.Giver, in.CompanyID, in.RoleID, in.Scope); err != nil {
		return Invitation{}, "", err
	}
	if there, err := s.queries.IsMember(ctx, tx, dbsqlc.IsMemberParams{CompanyID: in.CompanyID, Email: email}); err != nil {
		return Invitation{}, "", err
	} else if there {
		return Invitation{}, "", alreadyMember()
	}
	if err := s.queries.ExpirePending(ctx, tx, dbsqlc.ExpirePendingParams{CompanyID: in.CompanyID, Email: email}); err != nil {
		return Invitation{}, "", err
	}
	token, hash := newToken()
	id, err := s.queries.Create(ctx, tx, dbsqlc.CreateParams{
		CompanyID: in.CompanyID, Email: email, RoleID: in.RoleID, Scope: string(in.Scope), Language: language, TokenHash: hash, ExpiresAt: expires, InvitedBy: by.UserID,
	})
	if err != nil {
		return Invitation{}, "", pending(err)
	}
	made, err := s.Get(ctx, tx, id)
	if err != nil {
		return Invitation{}, "", err
	}
	if err := made.mail(ctx, tx, by.Who, post, token); err != nil {
		return Invitation{}, "", err
	}
	return made, token, invitations.Created(ctx, tx, by.Who, &made.CompanyID, id, made.record(token))
}

func expiry(wanted *time.Time) (time.Time, error) {
	now := time.Now()
	if wanted == nil {
		return now.Add(DefaultLifetime), nil
	}
	if !wanted.After(now) || wanted.After(now.Add(MaxLifetime)) {
		const message = "This must be in the future, and within 30 days."
		return time.Time{}, fault.Invalid(message).OnField("expires_at", "range", message)
	}
	return *wanted, nil
}

func alreadyMember() error {
	const message = "Somebody with this address is a member of the company already."
	return fault.Conflict(message).Code("already_member").OnField("email", "already_member", message)
}

// pending is the answer to a second invitation of the same address.
func pending(err error) error {
	if pg.Constraint(err) != "invitations_pending_key" {
		return err
	}
	const message = "An invitation for this address is pending. Send it again, or revoke it first."
	return fault.Conflict(message).Code("invitation_pending").OnField("email", "pending", message).Because(err)
}

func (i Invitation) mail(ctx context.Context, tx pgx.Tx, who audit.Who, post Post, token string) error {
	link, err := post.Link(token)
	if err != nil {
		return err
	}
	return post.Outbox.Add(ctx, tx, outbox.Message{
		Channel: outbox.Email, To: i.Email, Template: outbox.TemplateInvitation, Language: i.Language,
		Values: map[string]string{
			"link": link, "company": i.Company, "inviter": who.Display, "role": i.Role,
			"expires": i.ExpiresAt.UTC().Format("2006-01-02 15:04 UTC"),
		},
	})
}

// Get is one invitation; who may see it is the caller's business.
func (s *Service) Get(ctx context.Context, db pg.Querier, id int64) (Invitation, error) {
	row, err := s.queries.Get(ctx, db, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return Invitation{}, Absent()
	}
	return Invitation(row), err
}

// Absent is the answer for an invitation that is not there, or cannot be seen.
func Absent() error { return fault.NotFound("There is no such invitation.") }

// Filter narrows a list of invitations.
type Filter struct {
	Companies []int64 // of these only
	Status    string  // "": any
}

// List is a page of invitations, the newest first, and how many there are.
func (s *Service) List(ctx context.Context, db pg.Querier, f Filter, limit, offset int32) ([]Invitation, int64, error) {
	count, err := s.queries.Count(ctx, db, dbsqlc.CountParams{CompanyIds: f.Companies, Status: f.Status})
	if err != nil {
		return nil, 0, err
	}
	rows, err := s.queries.List(ctx, db, dbsqlc.ListParams{CompanyIds: f.Companies, Status: f.Status, MaxRows: limit, SkipRows: offset})
	if err != nil {
		return nil, 0, err
	}
	page := make([]Invitation, len(rows))
	for i, row := range rows {
		page[i] = Invitation(row)
	}
	return page, count, nil
}

// Looked records that somebody read the addresses of those who are invited.
// Without a company it was a list over several.
func Looked(ctx context.Context, db pg.Querier, who audit.Who, companyID, id *int64) error {
	return invitations.Looked(ctx, db, who, companyID, id)
}

func (s *Service) lock(ctx context.Context, tx pgx.Tx, id int64) (Invitation, error) {
	if _, err := s.queries.Lock(ctx, tx, id); errors.Is(err, pgx.ErrNoRows) {
		return Invitation{}, Absent()
	} else if err != nil {
		return Invitation{}, err
	}
	return s.Get(ctx, tx, id)
}

// Resend gives an invitation that is pending, or has expired, a new token and a
// new week, and mails it. The token before dies. From now on the one who sends
// it again answers for it.
func (s *Service) Resend(ctx context.Context, tx pgx.Tx, by Inviter, post Post, id int64) (Invitation, string, error) {
	before, err := s.lock(ctx, tx, id)
	if err != nil {
		return Invitation{}, "", err
	}
	if before.Status != StatusPending && before.Status != StatusExpired {
		return Invitation{}, "", over(before.Status)
	}
	if err := s.Access.MayAssign(ctx, tx, by.Giver, before.CompanyID, before.RoleID, access.Scope(before.Scope)); err != nil {
		return Invitation{}, "", err
	}
	token, hash := newToken()
	err = s.queries.Renew(ctx, tx, dbsqlc.RenewParams{ID: id, TokenHash: hash, ExpiresAt: time.Now().Add(DefaultLifetime), InvitedBy: by.UserID})
	if err != nil {
		return Invitation{}, "", pending(err)
	}
	after, err := s.Get(ctx, tx, id)
	if err != nil {
		return Invitation{}, "", err
	}
	if err := after.mail(ctx, tx, by.Who, post, token); err != nil {
		return Invitation{}, "", err
	}
	return after, token, invitations.Updated(ctx, tx, by.Who, &after.CompanyID, id, before.record(""), after.record(token))
}

// Revoke takes an invitation back that nobody has accepted. Doing it again
// changes nothing.
func (s *Service) Revoke(ctx context.Context, tx pgx.Tx, who audit.Who, id int64) error {
	before, err := s.lock(ctx, tx, id)
	if err != nil {
		return err
	}
	if before.Status == StatusAccepted {
		return over(before.Status)
	}
	if err := s.queries.Revoke(ctx, tx, id); err != nil {
		return err
	}
	after := before
	after.Status = StatusRevoked
	return invitations.Updated(ctx, tx, who, &before.CompanyID, id, before.record(""), after.record(""))
}

// Delete takes an invitation out of the lists; a pending one is revoked by it.
func (s *Service) Delete(ctx context.Context, tx pgx.Tx, who audit.Who, id int64) error {
	gone, err := s.lock(ctx, tx, id)
	if err != nil {
		return err
	}
	if err := s.queries.Delete(ctx, tx, id); err != nil {
		return err
	}
	return invitations.Deleted(ctx, tx, who, &gone.CompanyID, id, gone.record(""))
}

// over says why an invitation can be used no more.
func over(status string) error {
	switch status {
	case StatusAccepted:
		return fault.Conflict("This invitation was accepted already. Sign in.").Code("invitation_used")
	case StatusRevoked:
		return fault.Conflict("This invitation was taken back. Ask for a new one.").Code("invitation_revoked")
	}
	return fault.Conflict("This invitation has expired. Ask for a new one.").Code("invitation_expired")
}
