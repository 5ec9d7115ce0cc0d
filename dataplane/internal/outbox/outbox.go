// Package outbox is how mail and SMS leave a tenant. A message is a row in the
// tenant's database, written with the change that causes it; after the commit
// the node that wrote it sends it, and if that node dies, another one does.
//
// It promises:
//
//   - No message without its change, and no change without its message.
//   - What a message says is sealed as long as it waits, and gone afterwards.
//   - No connection and no transaction is held while something is sent.
//   - A mail is sent at least once; sent again, it has the same Message-ID.
//   - An SMS is sent at most once: when nobody knows whether the provider took
//     it, it is not sent again, and stands there as unknown.
//   - What cannot be sent is tried again with growing pauses, then stands there
//     as dead. Nothing disappears silently.
//   - A code is not sent after its lifetime.
//   - However many numbers are asked for, no more SMS leave than the tenant's
//     caps allow.
package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/dataplane/internal/outbox/dbsqlc"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
)

// Channel is the way a message goes.
type Channel string

// The channels.
const (
	Email Channel = "email"
	SMS   Channel = "sms"
)

// Message is what is to be sent.
type Message struct {
	Channel  Channel
	To       string            // an email address, or a phone number in E.164
	Template Template          // what is said
	Language string            // of the reader; empty: the tenant's
	Values   map[string]string // what the template needs; kept sealed until it has left
	UserID   *int64            // whom it is for, where that is a user
}

// Template names a text.
type Template string

// The templates. What each says is in package text; the values that each needs
// are in the table below.
const (
	TemplateOTP           Template = "otp"
	TemplateLoginCode     Template = "login_code"
	TemplatePhoneCode     Template = "phone_code"
	TemplateEmailCode     Template = "email_code"
	TemplatePasswordReset Template = "password_reset"
	TemplatePasswordSet   Template = "password_set" // the password was changed
	TemplateInvitation    Template = "invitation"
	TemplateSecurity      Template = "security"     // event: a sentence
	TemplateNotification  Template = "notification" // message: some sentences
)

// kind is what a template is for.
type kind struct {
	channel Channel
	values  []string // all that it needs; "minutes" is also how long it is of use
}

var templates = map[Template]kind{
	TemplateOTP:           {SMS, []string{"code", "minutes"}},
	TemplateLoginCode:     {SMS, []string{"code", "minutes"}},
	TemplatePhoneCode:     {SMS, []string{"code", "minutes"}},
	TemplateEmailCode:     {Email, []string{"code", "minutes"}},
	TemplatePasswordReset: {Email, []string{"link", "minutes"}},
	TemplatePasswordSet:   {Email, nil},
	TemplateInvitation:    {Email, []string{"link", "company", "inviter", "role", "expires"}},
	TemplateSecurity:      {Email, []string{"event"}},
	TemplateNotification:  {Email, []string{"message"}},
}

// Templates are all of them.
func Templates() []Template { return slices.Sorted(maps.Keys(templates)) }

// Needs says for which channel a template is, and which values it needs.
func (t Template) Needs() (Channel, []string) {
	k := templates[t]
	return k.channel, slices.Clone(k.values)
}

// check says what a message lacks. It is a mistake of the program.
func (m Message) check() error {
	k, ok := templates[m.Template]
	if !ok {
		return fmt.Errorf("there is no template %q", m.Template)
	}
	if k.channel != m.Channel {
		return fmt.Errorf("the template %s is for %s, not for %s", m.Template, k.channel, m.Channel)
	}
	for _, name := range k.values {
		if _, ok := m.Values[name]; !ok {
			return fmt.Errorf("the template %s needs the value %q", m.Template, name)
		}
	}
	return nil
}

// lifetime is how long the message is of use, in seconds; nil: for good.
func (m Message) lifetime() *float64 {
	minutes, err := strconv.Atoi(m.Values["minutes"])
	if err != nil || minutes <= 0 {
		return nil
	}
	seconds := float64(minutes) * 60
	return &seconds
}

// Sealer seals what must not be readable in a dump (seal.DataKey).
type Sealer interface {
	Seal(plain, context []byte) ([]byte, error)
}

// Queue takes the messages of one request.
type Queue struct {
	route  *route.Route
	sealer Sealer
	added  atomic.Bool
}

// NewQueue makes the queue of one request of a tenant.
func NewQueue(r *route.Route, sealer Sealer) *Queue { return &Queue{route: r, sealer: sealer} }

// Added tells whether messages may be waiting, if the transaction committed.
func (q *Queue) Added() bool { return q.added.Load() }

var queries dbsqlc.Queries

// Add writes a message in the transaction of the change that causes it. An SMS
// over one of the tenant's caps is refused with 429, and the change with it.
func (q *Queue) Add(ctx context.Context, tx pg.Querier, m Message) error {
	if err := m.check(); err != nil {
		return err
	}
	if m.Channel == SMS {
		if err := capSMS(ctx, tx, q.route.Settings, m.To); err != nil {
			return err
		}
	}
	plain, err := json.Marshal(m.Values)
	if err != nil {
		return fmt.Errorf("encode a message: %w", err)
	}
	sealed, err := q.sealer.Seal(plain, payloadContext(q.route.TenantID, m))
	if err != nil {
		return fmt.Errorf("seal a message: %w", err)
	}
	q.added.Store(true)
	return queries.Add(ctx, tx, dbsqlc.AddParams{
		Channel: string(m.Channel), Recipient: m.To, Template: string(m.Template), Language: m.Language,
		PayloadSealed: sealed, UserID: m.UserID, Lifetime: m.lifetime(),
	})
}

// Opener opens what a Sealer sealed (seal.DataKey).
type Opener interface {
	Unseal(sealed, context []byte) ([]byte, error)
}

// Open reads the values of a message out of their sealed form. The message has
// to say the channel, the recipient and the template that it was sealed for.
func Open(key Opener, tenant uuid.UUID, m Message, sealed []byte) (map[string]string, error) {
	plain, err := key.Unseal(sealed, payloadContext(tenant, m))
	if err != nil {
		return nil, fmt.Errorf("open a message: %w", err)
	}
	var values map[string]string
	if err := json.Unmarshal(plain, &values); err != nil {
		return nil, errors.New("open a message: its values are not JSON")
	}
	return values, nil
}

// payloadContext binds a sealed payload to its tenant, and to whom it is for:
// moved to another row, it does not open.
func payloadContext(tenant uuid.UUID, m Message) []byte {
	return fmt.Appendf(nil, "outbox/%s/%s/%s/%q", tenant, m.Channel, m.Template, m.To)
}
