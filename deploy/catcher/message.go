package catcher

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	netmail "net/mail"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-message"
	_ "github.com/emersion/go-message/charset" // mail in the charsets of old clients
	"github.com/emersion/go-message/mail"
)

// snippetRunes is how much of a text a list shows.
const snippetRunes = 250

// Address as Mailpit writes one.
//
//nolint:tagliatelle // Mailpit writes these names
type Address struct {
	Name    string `json:"Name"`
	Address string `json:"Address"`
}

// overview is what a list shows of a message.
//
//nolint:tagliatelle // Mailpit writes these names
type overview struct {
	ID          string    `json:"ID"`
	MessageID   string    `json:"MessageID"`
	Read        bool      `json:"Read"`
	From        Address   `json:"From"`
	To          []Address `json:"To"`
	Cc          []Address `json:"Cc"`
	Bcc         []Address `json:"Bcc"`
	ReplyTo     []Address `json:"ReplyTo"`
	Subject     string    `json:"Subject"`
	Created     time.Time `json:"Created"`
	Tags        []string  `json:"Tags"`
	Size        int       `json:"Size"`
	Attachments int       `json:"Attachments"`
	Snippet     string    `json:"Snippet"`
}

// Attachment of a message, without its content.
//
//nolint:tagliatelle // Mailpit writes these names
type Attachment struct {
	FileName    string `json:"FileName"`
	ContentType string `json:"ContentType"`
	Size        int    `json:"Size"`
}

// Message is one mail with its text decoded.
//
//nolint:tagliatelle // Mailpit writes these names
type Message struct {
	overview

	Date       time.Time    `json:"Date"`
	ReturnPath string       `json:"ReturnPath"`
	Text       string       `json:"Text"`
	HTML       string       `json:"HTML"`
	Inline     []Attachment `json:"Inline"`
	Attached   []Attachment `json:"Attachments"`

	raw []byte
}

// parse reads a mail as the sender of the envelope gave it. Recipients of the
// envelope that no header names are blind copies.
func parse(raw []byte, from string, to []string) (*Message, error) {
	reader, err := mail.CreateReader(bytes.NewReader(raw))
	if err != nil && !message.IsUnknownCharset(err) {
		return nil, fmt.Errorf("this is not a mail: %w", err)
	}
	defer reader.Close()
	header := &reader.Header
	m := &Message{raw: raw, ReturnPath: from, Inline: []Attachment{}, Attached: []Attachment{}}
	m.ID = rand.Text()
	m.Created = time.Now().UTC()
	m.Size = len(raw)
	m.Tags = []string{}
	// Broken headers leave their fields empty: what could be read is shown.
	m.Subject, _ = header.Subject()
	m.MessageID, _ = header.MessageID()
	if m.Date, _ = header.Date(); m.Date.IsZero() {
		m.Date = m.Created
	}
	m.To, m.Cc, m.ReplyTo = addresses(header, "To"), addresses(header, "Cc"), addresses(header, "Reply-To")
	m.From = Address{Address: from}
	if senders := addresses(header, "From"); len(senders) > 0 {
		m.From = senders[0]
	}
	m.Bcc = blind(to, m.To, m.Cc)
	if err := m.readParts(reader); err != nil {
		return nil, fmt.Errorf("this mail cannot be read: %w", err)
	}
	m.Attachments = len(m.Attached)
	m.Snippet = shorten(m.Text)
	return m, nil
}

func (m *Message) readParts(reader *mail.Reader) error {
	for {
		part, err := reader.NextPart()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil && !message.IsUnknownCharset(err) {
			return err
		}
		body, err := io.ReadAll(part.Body)
		if err != nil {
			return err
		}
		switch header := part.Header.(type) {
		case *mail.InlineHeader:
			kind, _, _ := header.ContentType()
			switch kind {
			case "text/plain", "":
				m.Text += string(body)
			case "text/html":
				m.HTML += string(body)
			default:
				m.Inline = append(m.Inline, Attachment{ContentType: kind, Size: len(body)})
			}
		case *mail.AttachmentHeader:
			kind, _, _ := header.ContentType()
			name, _ := header.Filename()
			m.Attached = append(m.Attached, Attachment{FileName: name, ContentType: kind, Size: len(body)})
		}
	}
}

func addresses(header *mail.Header, field string) []Address {
	list, _ := header.AddressList(field)
	out := []Address{}
	for _, address := range list {
		out = append(out, Address{Name: address.Name, Address: address.Address})
	}
	return out
}

func blind(envelope []string, named ...[]Address) []Address {
	out := []Address{}
	for _, recipient := range envelope {
		if parsed, err := netmail.ParseAddress(recipient); err == nil {
			recipient = parsed.Address
		}
		isIt := func(a Address) bool { return strings.EqualFold(a.Address, recipient) }
		if !slices.ContainsFunc(named, func(list []Address) bool { return slices.ContainsFunc(list, isIt) }) {
			out = append(out, Address{Address: recipient})
		}
	}
	return out
}

// matches answers one lower-case term of a search.
func (m *Message) matches(term string) bool {
	field, value, named := strings.Cut(term, ":")
	if !named {
		field, value = "", term
	}
	in := func(lists ...[]Address) bool {
		for _, list := range lists {
			for _, address := range list {
				if strings.Contains(strings.ToLower(address.Name+" "+address.Address), value) {
					return true
				}
			}
		}
		return false
	}
	switch field {
	case "to":
		return in(m.To, m.Cc, m.Bcc)
	case "from":
		return in([]Address{m.From})
	case "subject":
		return strings.Contains(strings.ToLower(m.Subject), value)
	default:
		return strings.Contains(strings.ToLower(m.Subject+" "+m.Text+" "+m.HTML), term) || in([]Address{m.From}, m.To, m.Cc, m.Bcc)
	}
}

func shorten(text string) string {
	line := []rune(strings.Join(strings.Fields(text), " "))
	if len(line) <= snippetRunes {
		return string(line)
	}
	return string(line[:snippetRunes]) + "…"
}
