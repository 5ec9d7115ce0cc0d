package identity

import (
	"context"
	"net/mail"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/identity/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/password"
	"github.com/ouvira/ouvira/shared/pg"
)

// Registration is what somebody registers with.
type Registration struct {
	FullName      string
	Email         string
	Password      string
	PrimaryMobile *string
	Invitation    *Invitation // nil: nobody has invited them
}

// Invitation opens a workspace that does not allow self-registration. What an
// invitation is and does is known elsewhere.
type Invitation struct {
	// Check refuses one that cannot be accepted by that address. It is asked
	// first, as hashing a password costs much.
	Check func(ctx context.Context, tx pgx.Tx, email string) error
	// Accept is asked in the transaction that makes the user.
	Accept func(ctx context.Context, tx pgx.Tx, user Profile) error
}

// Register makes a user, who is signed in at once. It is open when the tenant
// allows self-registration, and to those who were invited.
func (s *Service) Register(ctx context.Context, t Tenant, in Registration, c Client) (Profile, Tokens, error) {
	params, err := check(t, in)
	if err != nil {
		return Profile{}, Tokens{}, err
	}
	if in.Invitation != nil {
		err := t.Do(ctx, func(db Conn) error {
			return pg.InTx(ctx, db, func(tx pgx.Tx) error { return in.Invitation.Check(ctx, tx, *params.Email) })
		})
		if err != nil {
			return Profile{}, Tokens{}, err
		}
	}
	hash, err := password.Hash(ctx, in.Password)
	if err != nil {
		return Profile{}, Tokens{}, err
	}
	params.PasswordHash = &hash

	var profile Profile
	var tokens Tokens
	err = t.Do(ctx, func(db Conn) error {
		return pg.InTx(ctx, db, func(tx pgx.Tx) error {
			if err := makeRoom(ctx, t, tx); err != nil {
				return err
			}
			row, err := s.queries.CreateUser(ctx, tx, params)
			if err != nil {
				return taken(err)
			}
			profile = Profile(row)
			if in.Invitation != nil {
				if err := in.Invitation.Accept(ctx, tx, profile); err != nil {
					return err
				}
			}
			tokens, err = s.newSession(ctx, t, tx, profile, false, actionRegister, c)
			return err
		})
	})
	return profile, tokens, err
}

// makeRoom refuses one user more than the tenant's plan grants. Whoever else makes a
// user waits for the end of tx, so that the last place is not given out twice.
func makeRoom(ctx context.Context, t Tenant, tx pgx.Tx) error {
	most := t.Route.Settings.MaxUsers()
	if most <= 0 {
		return nil
	}
	if _, err := tx.Exec(ctx, "LOCK TABLE public.users IN SHARE ROW EXCLUSIVE MODE"); err != nil {
		return err
	}
	var users int
	if err := tx.QueryRow(ctx, "SELECT count(*) FROM (SELECT FROM public.users LIMIT $1) u", most).Scan(&users); err != nil {
		return err
	}
	if users >= most {
		return fault.Forbidden("This workspace has as many users as its plan grants. Ask one of its owners to get a larger plan.").Code("user_quota")
	}
	return nil
}

func check(t Tenant, in Registration) (dbsqlc.CreateUserParams, error) {
	var none dbsqlc.CreateUserParams
	if in.Invitation == nil {
		if err := mayRegister(t); err != nil {
			return none, err
		}
	}
	name, err := fullName(in.FullName)
	if err != nil {
		return none, err
	}
	email, err := NormalizeEmail(in.Email)
	if err != nil {
		return none, err
	}
	if err := password.CheckPolicy(in.Password); err != nil {
		return none, err
	}
	return dbsqlc.CreateUserParams{Username: email, FullName: name, Email: &email, PrimaryMobile: in.PrimaryMobile}, nil
}

// taken turns the violation of a unique constraint into the answer for it.
func taken(err error) error {
	switch pg.Constraint(err) {
	case "users_email_key", "users_username_key":
		return fault.Conflict("There is an account with this email address already. Sign in, or reset its password.").
			Code("email_taken").OnField("email", "taken", "There is an account with this address already.").Because(err)
	case "users_primary_mobile_key":
		return fault.Conflict("There is an account with this phone number already. Sign in with it, or leave it out.").
			Code("mobile_taken").OnField("primary_mobile", "taken", "There is an account with this number already.").Because(err)
	}
	return err
}

// NormalizeEmail brings an address to the form in which it is stored, and
// refuses what is more than a plain address: names, quotes, comments and line
// breaks, by which mail headers are smuggled.
func NormalizeEmail(address string) (string, error) {
	const message = "This is not an email address."
	trimmed := strings.TrimSpace(address)
	parsed, err := mail.ParseAddress(trimmed)
	plain := err == nil && parsed.Address == trimmed && len(trimmed) <= 254 && !strings.ContainsAny(trimmed, "\"\\()<>[]:;,\r\n\t \x00")
	if !plain {
		return "", fault.Invalid(message).OnField("email", "email", message)
	}
	return strings.ToLower(trimmed), nil
}
