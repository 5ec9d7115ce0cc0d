// Package outbox is how mail and SMS leave a tenant. A message is a row in the
// tenant's database, written with the change that causes it; after the commit
// the node that wrote it sends it.
package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// The templates, with the values that each needs.
const (
	TemplateOTP           Template = "otp"            // SMS: code, minutes
	TemplateLoginCode     Template = "login_code"     // SMS: code, minutes
	TemplatePhoneCode     Template = "phone_code"     // SMS: code, minutes
	TemplateEmailCode     Template = "email_code"     // email: code, minutes
	TemplatePasswordReset Template = "password_reset" // email: link, minutes
	TemplatePasswordSet   Template = "password_set"   // email: nothing; the password was changed
	TemplateInvitation    Template = "invitation"     // email: link, company, inviter, role, expires
	TemplateSecurity      Template = "security"       // email: event (a sentence)
	TemplateNotification  Template = "notification"   // email: message
)

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

// Add writes a message in the transaction of the change that causes it.
func (q *Queue) Add(ctx context.Context, tx pg.Querier, m Message) error {
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
		PayloadSealed: sealed, UserID: m.UserID,
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
