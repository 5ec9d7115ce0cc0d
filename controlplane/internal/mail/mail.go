// Package mail sends the platform's own mail over SMTP.
//
// Addresses and subjects are checked by the library (go-mail): a line break in
// one of them is an error, never a header.
package mail

import (
	"context"
	"fmt"
	"time"

	"github.com/wneessen/go-mail"
)

// timeout bounds one delivery, connecting included.
const timeout = 20 * time.Second

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
	To      string
	Subject string
	Text    string
}

// Sender delivers.
type Sender interface {
	Send(ctx context.Context, m Message) error
}

// SMTP is a Sender that opens a connection per mail: sign-ups are rare, and
// nothing stays open that could break.
type SMTP struct {
	config Config
}

// NewSMTP checks the configuration.
func NewSMTP(config Config) (*SMTP, error) {
	if config.Host == "" {
		return nil, fmt.Errorf("EMAIL_HOST is empty: name the SMTP server that sends the platform's mail")
	}
	if err := mail.NewMsg().From(config.From); err != nil {
		return nil, fmt.Errorf("DEFAULT_FROM_EMAIL is not a mail address, as in \"Ouvira <no-reply@example.com>\"")
	}
	return &SMTP{config: config}, nil
}

// Send implements Sender.
func (s *SMTP) Send(ctx context.Context, m Message) error {
	msg := mail.NewMsg()
	if err := msg.From(s.config.From); err != nil {
		return fmt.Errorf("sender: %w", err)
	}
	if err := msg.To(m.To); err != nil {
		return fmt.Errorf("recipient: %w", err)
	}
	msg.Subject(m.Subject)
	msg.SetDate()
	msg.SetMessageID()
	msg.SetBodyString(mail.TypeTextPlain, m.Text)
	client, err := mail.NewClient(s.config.Host, s.options()...)
	if err != nil {
		return fmt.Errorf("mail client: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := client.DialAndSendWithContext(ctx, msg); err != nil {
		return fmt.Errorf("send the mail over %s: %w", s.config.Host, err)
	}
	return nil
}

func (s *SMTP) options() []mail.Option {
	policy := mail.TLSOpportunistic
	if s.config.UseTLS {
		policy = mail.TLSMandatory
	}
	options := []mail.Option{
		mail.WithPort(s.config.Port),
		mail.WithTimeout(timeout),
		mail.WithTLSPolicy(policy),
		mail.WithoutNoop(),
	}
	if s.config.User != "" {
		options = append(options,
			mail.WithSMTPAuth(mail.SMTPAuthAutoDiscover),
			mail.WithUsername(s.config.User),
			mail.WithPassword(s.config.Password))
	}
	return options
}
