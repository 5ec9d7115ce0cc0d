package identity

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/identity/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/password"
)

// remembered is how many passwords of a user are not taken again, the one that
// counts among them.
const remembered = 5

// passwords are one user's: what a new one is measured by.
type passwords struct {
	userID  int64
	display string
	current string // the hash; one that nothing matches where there is none
	earlier []string
	second  bool // there is a second factor
	locked  bool
}

func (s *Service) passwordsOf(ctx context.Context, t Tenant, userID int64) (passwords, error) {
	p := passwords{userID: userID, current: password.Dummy()}
	err := t.Do(ctx, func(db Conn) error {
		row, err := s.queries.PasswordsOf(ctx, db, dbsqlc.PasswordsOfParams{ID: userID, Earlier: remembered - 1})
		if errors.Is(err, pgx.ErrNoRows) {
			return refused(errors.New("the user is gone"))
		}
		if err != nil {
			return err
		}
		p.display, p.earlier, p.second, p.locked = row.FullName, row.Earlier, row.Is2FAEnabled, row.Locked
		if row.PasswordHash != nil {
			p.current = *row.PasswordHash
		}
		return nil
	})
	return p, err
}

// replaceable gives the hash of a new password, or refuses it by the policy or
// because it is one of the last. No connection is held meanwhile: it takes a
// core for up to six hashes.
func (p passwords) replaceable(ctx context.Context, pw, field string) (hash string, err error) {
	policy := password.CheckPolicy
	if p.second {
		policy = password.CheckPolicyWithSecondFactor
	}
	if err := policy(pw); err != nil {
		return "", onField(err, field)
	}
	for _, before := range append([]string{p.current}, p.earlier...) {
		same, _, err := password.Verify(ctx, before, pw)
		if err != nil {
			return "", err
		}
		if same {
			return "", fault.Invalid("The new password is one of your last five.").Code("password_reused").
				OnField(field, "reused", "This is one of the last five passwords. Choose another one.")
		}
	}
	return password.Hash(ctx, pw)
}

// onField gives a fault's only field the name that the request has for it.
func onField(err error, name string) error {
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || len(f.Fields) != 1 {
		return err
	}
	renamed := *f
	renamed.Fields = []fault.Field{{Field: name, Code: f.Fields[0].Code, Message: f.Fields[0].Message}}
	return &renamed
}
