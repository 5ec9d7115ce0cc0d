package invitation

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/access"
	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/dataplane/internal/company"
	"github.com/ouvira/ouvira/dataplane/internal/invitation/dbsqlc"
	"github.com/ouvira/ouvira/dataplane/internal/notification"
	"github.com/ouvira/ouvira/shared/fault"
)

// Guest is a user who accepts an invitation.
type Guest struct {
	UserID  int64
	Email   *string
	Subject access.Subject // tenant and epochs; the user in it is of no account
	Who     audit.Who
}

// find locks the invitation of a token, and sees that it is open to the
// address.
func (s *Service) find(ctx context.Context, tx pgx.Tx, token, email string) (Invitation, error) {
	id, err := s.queries.LockByToken(ctx, tx, digest(token))
	if errors.Is(err, pgx.ErrNoRows) {
		return Invitation{}, fault.NotFound("There is no such invitation. Use the link of the newest mail, or ask for a new one.").Code("invitation_unknown")
	}
	if err != nil {
		return Invitation{}, err
	}
	found, err := s.Get(ctx, tx, id)
	switch {
	case err != nil:
		return Invitation{}, err
	case !strings.EqualFold(found.Email, email):
		return Invitation{}, fault.Forbidden("This invitation is for another email address. Sign in with the address to which it was sent.").Code("invitation_for_another")
	case found.Status != StatusPending:
		return Invitation{}, over(found.Status)
	}
	return found, nil
}

// Check tells whether somebody who is about to register with the address could
// accept. A token that could not be accepted is a fault on the field
// "invitation_token".
func (s *Service) Check(ctx context.Context, tx pgx.Tx, token, email string) error {
	_, err := s.find(ctx, tx, token, email)
	return OnRegistration(err)
}

// OnRegistration is a refusal of Accept as somebody who registers reads it: in
// the field that holds the token.
func OnRegistration(err error) error {
	f, ok := errors.AsType[*fault.Error](err)
	if !ok {
		return err
	}
	return fault.Invalid(f.Message).Code(f.EffectiveCode()).OnField("invitation_token", "invalid", f.Message).Because(err)
}

// Accept makes the guest a member. The one who answers for the invitation must
// still be entitled to what it gives.
func (s *Service) Accept(ctx context.Context, tx pgx.Tx, guest Guest, token string) (Invitation, error) {
	email := ""
	if guest.Email != nil {
		email = *guest.Email
	}
	found, err := s.find(ctx, tx, token, email)
	if err != nil {
		return Invitation{}, err
	}
	state, err := s.queries.State(ctx, tx, found.ID)
	if err != nil {
		return Invitation{}, err
	}
	if !state.Active {
		return Invitation{}, company.Deactivated()
	}
	if err := s.join(ctx, tx, guest, found, state.InviterThere); err != nil {
		return Invitation{}, err
	}
	if err := s.queries.Accept(ctx, tx, dbsqlc.AcceptParams{ID: found.ID, AcceptedBy: guest.UserID}); err != nil {
		return Invitation{}, err
	}
	after, err := s.Get(ctx, tx, found.ID)
	if err != nil {
		return Invitation{}, err
	}
	if after.InvitedBy != nil {
		message := guest.Who.Display + " has accepted your invitation to " + after.Company + "."
		if err := notification.Add(ctx, tx, *after.InvitedBy, notification.Invitation, message); err != nil {
			return Invitation{}, err
		}
	}
	return after, invitations.Updated(ctx, tx, guest.Who, &after.CompanyID, after.ID, found.record(""), after.record(""))
}

// join makes the guest a member, if the one who invited could do so today.
func (s *Service) join(ctx context.Context, tx pgx.Tx, guest Guest, i Invitation, inviterThere bool) error {
	gone := fault.Conflict("Whoever invited you may not do so any more. Ask for a new invitation.").Code("invitation_void")
	if i.InvitedBy == nil || !inviterThere {
		return gone
	}
	subject := guest.Subject
	subject.UserID = *i.InvitedBy
	standing, err := s.Access.Standing(ctx, tx, subject, i.CompanyID)
	if err != nil {
		return err
	}
	if !standing.Visible || !standing.Allows(access.InvitationCreate) {
		return gone
	}
	inviter := access.Giver{Subject: subject, Allows: access.Standing.Allows}
	err = s.Access.Join(ctx, tx, inviter, guest.Who, guest.UserID, i.CompanyID, i.RoleID, access.Scope(i.Scope))
	if _, refused := errors.AsType[*fault.Error](err); refused {
		return gone.Because(err)
	}
	return err
}
