// Package mail sends mail over SMTP, for both planes.
//
// No value can become a header or a command of its own: recipients are plain
// addresses only (see CheckAddress), line breaks in a subject or a name are
// encoded, and the library (go-mail) escapes what stands in the body.
package mail

import (
	"context"
	"errors"
	"fmt"
	"net/mail"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"
	gomail "github.com/wneessen/go-mail"
)

// Timeout bounds one delivery, connecting included.
const Timeout = 20 * time.Second

// Config of the mail server, under the reference system's names.
type Config struct {
	Host     string
	Port     int
	User     string
	Password string
	UseTLS   bool // STARTTLS is required; without it, it is used where offered
	From     string
}

// Message is one mail.
type Message struct {
	To       string
	Subject  string
	Text     string
	HTML     string    // beside the text; empty: none
	FromName string    // whom readers see as the sender; empty: as configured
	ID       uuid.UUID // what the Message-ID is made of: the same mail sent twice has the same; zero: a new one
	Date     time.Time // when it was written; zero: now
}

// Sender delivers. Its errors are judged by Refused.
type Sender interface {
	Send(ctx context.Context, m Message) error
}

// SMTP is a Sender that opens a connection per mail, so that nothing stays
// open that could break.
type SMTP struct {
	config Config
	from   mail.Address
	domain string // of the sender, for Message-IDs
}

// NewSMTP checks the configuration.
func NewSMTP(config Config) (*SMTP, error) {
	if config.Host == "" {
		return nil, errors.New("EMAIL_HOST is empty: name the SMTP server that sends the platform's mail")
	}
	from, err := mail.ParseAddress(config.From)
	if err != nil || CheckAddress(from.Address) != nil {
		return nil, errors.New("DEFAULT_FROM_EMAIL is not a mail address, as in \"Ouvira <no-reply@example.com>\"")
	}
	_, domain, _ := strings.Cut(from.Address, "@")
	return &SMTP{config: config, from: *from, domain: domain}, nil
}

// address is a dot-atom and a domain. Quoted local parts, comments, domain
// literals and bare control characters are legal somewhere and of use only to
// those who want a server to read another address than we wrote.
var address = regexp.MustCompile("^[\\p{L}\\p{N}!#$%&'*+/=?^_`{|}~-]+(\\.[\\p{L}\\p{N}!#$%&'*+/=?^_`{|}~-]+)*@[\\p{L}\\p{N}-]+(\\.[\\p{L}\\p{N}-]+)*$")

// CheckAddress refuses what is not the plain form of an address,
// name@example.com.
func CheckAddress(s string) error {
	if len(s) > 254 || !address.MatchString(s) {
		return errors.New("this is not a plain mail address such as name@example.com")
	}
	return nil
}

// Refusal is an error by which trying again is of no use: the server does not
// take mail for this recipient, or not this mail.
type Refusal struct {
	Reason string // short, without the server's words, which may repeat the mail
	cause  error
}

// Error is for logs.
func (r *Refusal) Error() string { return r.Reason }

// Unwrap gives the cause.
func (r *Refusal) Unwrap() error { return r.cause }

// Send implements Sender. A mail that the server took is sent, whatever
// happens afterwards; one that broke off on the way may arrive nevertheless.
func (s *SMTP) Send(ctx context.Context, m Message) error {
	msg, err := s.compose(m)
	if err != nil {
		return err
	}
	client, err := gomail.NewClient(s.config.Host, s.options()...)
	if err != nil {
		return fmt.Errorf("mail client: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	err = client.DialAndSendWithContext(ctx, msg)
	if err == nil || msg.IsDelivered() {
		return nil
	}
	var refused *gomail.SendError
	if errors.As(err, &refused) && refused.ErrorCode() >= 500 && refused.Reason != gomail.ErrSMTPMailFrom {
		reason := fmt.Sprintf("the mail server refused it: %d %s", refused.ErrorCode(), refused.EnhancedStatusCode())
		return &Refusal{Reason: strings.TrimSpace(reason)}
	}
	if refused != nil { // its own words repeat the recipient
		err = fmt.Errorf("%s: %d %s", refused.Reason, refused.ErrorCode(), refused.EnhancedStatusCode())
	}
	return fmt.Errorf("send the mail over %s: %w", s.config.Host, err)
}

func (s *SMTP) compose(m Message) (*gomail.Msg, error) {
	if err := CheckAddress(m.To); err != nil {
		return nil, &Refusal{Reason: err.Error()}
	}
	from := s.from
	if m.FromName != "" {
		from.Name = oneLine(m.FromName)
	}
	msg := gomail.NewMsg()
	if err := msg.From(from.String()); err != nil {
		return nil, &Refusal{Reason: "the sender's name cannot be written in a header", cause: err}
	}
	if err := msg.To(m.To); err != nil {
		return nil, &Refusal{Reason: "the recipient is not a mail address", cause: err}
	}
	msg.Subject(oneLine(m.Subject))
	date := m.Date
	if date.IsZero() {
		date = time.Now()
	}
	msg.SetDateWithValue(date)
	id := m.ID
	if id == uuid.Nil {
		id = uuid.New()
	}
	msg.SetMessageIDWithValue(id.String() + "@" + s.domain)
	// Nobody's out-of-office note should answer a machine.
	msg.SetGenHeader("Auto-Submitted", "auto-generated")
	msg.SetBodyString(gomail.TypeTextPlain, m.Text)
	if m.HTML != "" {
		msg.AddAlternativeString(gomail.TypeTextHTML, m.HTML)
	}
	return msg, nil
}

// oneLine makes control characters spaces.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }), " ")
}

func (s *SMTP) options() []gomail.Option {
	policy := gomail.TLSOpportunistic
	if s.config.UseTLS {
		policy = gomail.TLSMandatory
	}
	options := []gomail.Option{
		gomail.WithPort(s.config.Port),
		gomail.WithTimeout(Timeout),
		gomail.WithTLSPolicy(policy),
		gomail.WithoutNoop(),
	}
	if s.config.User != "" {
		options = append(options,
			gomail.WithSMTPAuth(gomail.SMTPAuthAutoDiscover),
			gomail.WithUsername(s.config.User),
			gomail.WithPassword(s.config.Password))
	}
	return options
}
