package identity

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/identity/dbsqlc"
	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/shared/fault"
)

// One-time codes are six digits that go to a phone number or an address and
// come back: who reads what is sent there. A code counts at the tenant, for the
// purpose and from the recipient that it was made for, once, for CodeLifetime,
// and MaxCompared guesses at it are compared however many arrive at once.
const (
	CodeLifetime = 5 * time.Minute
	MaxCompared  = 5

	codeDigits = 6
)

// purpose of a one-time code: it proves nothing for another.
type purpose string

const (
	purposeSignup       purpose = "signup"
	purposeSecondFactor purpose = "second_factor"
)

// Key is the data plane's secret (seal.DataKey).
type Key interface {
	Opener
	Seal(plain, context []byte) ([]byte, error)
	Unseal(sealed, context []byte) ([]byte, error)
}

// newCode draws six digits, each as likely as any other.
func newCode() string {
	n, err := rand.Int(rand.Reader, big.NewInt(1_000_000))
	if err != nil {
		panic(err) // only for a bound that is not positive
	}
	return fmt.Sprintf("%0*d", codeDigits, n)
}

// codeOf brings what somebody typed to the form that is compared.
func codeOf(typed string) string {
	return strings.Map(func(r rune) rune {
		if r == ' ' || r == '-' {
			return -1
		}
		return r
	}, typed)
}

// sameCode compares in constant time. What is not six digits is no code, so an
// unguessable entry is one that was stored empty.
func sameCode(stored []byte, typed string) bool {
	return len(typed) == codeDigits && subtle.ConstantTimeCompare(stored, []byte(typed)) == 1
}

// codeValues are what the templates of codes need.
func codeValues(code string) map[string]string {
	return map[string]string{"code": code, "minutes": strconv.Itoa(int(CodeLifetime.Minutes()))}
}

// codeContext binds a sealed code to the only place where it counts.
func codeContext(t Tenant, p purpose, recipient string) []byte {
	return fmt.Appendf(nil, "one-time-code/%s/%s/%q", t.Route.TenantID, p, recipient)
}

// putCode stores a code, empty for one that nobody can guess, in place of the
// one before. data comes back with the right guess.
func (s *Service) putCode(ctx context.Context, tx pgx.Tx, t Tenant, p purpose, recipient, code string, data map[string]string) error {
	sealed, err := s.key.Seal([]byte(code), codeContext(t, p, recipient))
	if err != nil {
		return fmt.Errorf("seal a code: %w", err)
	}
	raw, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("encode what a code is for: %w", err)
	}
	return s.queries.PutCode(ctx, tx, dbsqlc.PutCodeParams{
		Purpose: string(p), Recipient: recipient, CodeSealed: sealed, Data: raw, LifetimeSeconds: CodeLifetime.Seconds(),
	})
}

// replaceCode puts a new code where one waits, if what it is for began at most
// open ago. It answers whether there was one.
func (s *Service) replaceCode(ctx context.Context, tx pgx.Tx, t Tenant, p purpose, recipient, code string, open time.Duration) (bool, error) {
	sealed, err := s.key.Seal([]byte(code), codeContext(t, p, recipient))
	if err != nil {
		return false, fmt.Errorf("seal a code: %w", err)
	}
	rows, err := s.queries.ReplaceCode(ctx, tx, dbsqlc.ReplaceCodeParams{
		CodeSealed: sealed, LifetimeSeconds: CodeLifetime.Seconds(), Purpose: string(p), Recipient: recipient, OpenSeconds: open.Seconds(),
	})
	return rows > 0, err
}

// useCode compares a guess and spends the code if it is right. The transaction
// must be committed also when it is wrong: the guess has been counted in it.
func (s *Service) useCode(ctx context.Context, tx pgx.Tx, t Tenant, p purpose, recipient, typed string) (data map[string]string, ok bool, err error) {
	row, err := s.queries.TakeAttempt(ctx, tx, dbsqlc.TakeAttemptParams{Purpose: string(p), Recipient: recipient, MaxAttempts: MaxCompared})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	stored, err := s.key.Unseal(row.CodeSealed, codeContext(t, p, recipient))
	if err != nil {
		return nil, false, fmt.Errorf("open a code: %w", err)
	}
	if !sameCode(stored, codeOf(typed)) {
		return nil, false, nil
	}
	if err := json.Unmarshal(row.Data, &data); err != nil {
		return nil, false, fmt.Errorf("decode what a code is for: %w", err)
	}
	return data, true, s.queries.SpendCode(ctx, tx, dbsqlc.SpendCodeParams{Purpose: string(p), Recipient: recipient})
}

// wrongCode is the one answer to a code that is wrong, spent, expired, blocked
// or was never sent: telling them apart would tell who has one.
func wrongCode(field string) error {
	return fault.Invalid("The code is wrong, has expired, or was tried too often. Ask for a new one.").
		Code("invalid_code").OnField(field, "invalid", "This code does not count.")
}

// sendSMS puts a code into the outbox.
func sendSMS(ctx context.Context, tx pgx.Tx, t Tenant, template outbox.Template, to, code string, userID *int64) error {
	return t.Outbox.Add(ctx, tx, outbox.Message{Channel: outbox.SMS, To: to, Template: template, Values: codeValues(code), UserID: userID})
}

// e164 is what a phone number looks like everywhere in this system, the
// database included.
var e164 = regexp.MustCompile(`^\+[1-9][0-9]{6,14}$`)

// NormalizeMobile takes white space off a phone number's ends and refuses what
// is not E.164. Numbers are not guessed into it: which country "0151…" is in,
// nobody here knows.
func NormalizeMobile(number string) (string, error) {
	const message = "Write the phone number in the international form: a plus sign, the country code and the number, digits only, such as +4915112345678."
	trimmed := strings.TrimSpace(number)
	if !e164.MatchString(trimmed) {
		return "", fault.Invalid(message).OnField("primary_mobile", "mobile", message)
	}
	return trimmed, nil
}
