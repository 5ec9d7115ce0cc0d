package catcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

const (
	// keepMails are the newest ones that a catcher remembers.
	keepMails = 1000
	// A mail of the platform is a few kilobytes; more than this is refused, as
	// a real server would.
	maxMailBytes = 10 << 20
	// maxRecipients of one mail, and how long a client may stay silent.
	maxRecipients = 100
	smtpTimeout   = 30 * time.Second
)

// Mail is a mail server that keeps what it gets. Its zero value is ready.
type Mail struct {
	mu    sync.RWMutex
	mails []*Message // newest first
}

// Serve speaks SMTP on the listener until the context ends.
func (m *Mail) Serve(ctx context.Context, listener net.Listener) error {
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) {
		return &session{mail: m}, nil
	}))
	server.Domain = "localhost"
	server.ReadTimeout = smtpTimeout
	server.WriteTimeout = smtpTimeout
	server.MaxMessageBytes = maxMailBytes
	server.MaxRecipients = maxRecipients
	server.EnableSMTPUTF8 = true
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); err != nil && !errors.Is(err, smtp.ErrServerClosed) && ctx.Err() == nil {
		return fmt.Errorf("mail catcher: %w", err)
	}
	return nil
}

// Messages are all that are kept, newest first.
func (m *Mail) Messages() []*Message {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Clone(m.mails)
}

func (m *Mail) keep(message *Message) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mails = slices.Insert(m.mails, 0, message)
	if len(m.mails) > keepMails {
		m.mails = slices.Delete(m.mails, keepMails, len(m.mails))
	}
}

// remove forgets the messages with these ids, all of them when none is given.
func (m *Mail) remove(ids []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mails = slices.DeleteFunc(m.mails, func(message *Message) bool {
		return len(ids) == 0 || slices.Contains(ids, message.ID)
	})
}

// session is one mail on its way in.
type session struct {
	mail *Mail
	from string
	to   []string
}

func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	s.from = from
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.to = append(s.to, to)
	return nil
}

func (s *session) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	message, err := parse(raw, s.from, s.to)
	if err != nil {
		// A sender of broken mail should learn of it here and not in production.
		return &smtp.SMTPError{Code: 554, EnhancedCode: smtp.EnhancedCode{5, 6, 0}, Message: err.Error()}
	}
	s.mail.keep(message)
	return nil
}

func (s *session) Reset()        { s.from, s.to = "", nil }
func (s *session) Logout() error { return nil }

// Handler serves the mails with Mailpit's paths.
func (m *Mail) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/messages", func(w http.ResponseWriter, r *http.Request) {
		m.list(w, r, m.Messages())
	})
	mux.HandleFunc("GET /api/v1/search", func(w http.ResponseWriter, r *http.Request) {
		m.list(w, r, search(m.Messages(), r.URL.Query().Get("query")))
	})
	mux.HandleFunc("GET /api/v1/message/{id}", func(w http.ResponseWriter, r *http.Request) {
		if message := m.find(r.PathValue("id")); message != nil {
			answer(w, http.StatusOK, message)
			return
		}
		http.Error(w, "No message has this id.", http.StatusNotFound)
	})
	mux.HandleFunc("GET /api/v1/message/{id}/raw", func(w http.ResponseWriter, r *http.Request) {
		message := m.find(r.PathValue("id"))
		if message == nil {
			http.Error(w, "No message has this id.", http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write(message.raw)
	})
	mux.HandleFunc("DELETE /api/v1/messages", m.delete)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, "Mail catcher. The mails: GET /api/v1/messages, one of them: GET /api/v1/message/{id}")
	})
	return mux
}

// find also knows "latest", as Mailpit does.
func (m *Mail) find(id string) *Message {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, message := range m.mails {
		if message.ID == id || id == "latest" {
			return message
		}
	}
	return nil
}

type summary struct {
	Total         int        `json:"total"`
	Unread        int        `json:"unread"`
	Count         int        `json:"count"`
	MessagesCount int        `json:"messages_count"`
	Start         int        `json:"start"`
	Tags          []string   `json:"tags"`
	Messages      []overview `json:"messages"`
}

func (m *Mail) list(w http.ResponseWriter, r *http.Request, found []*Message) {
	m.mu.RLock()
	total := len(m.mails)
	m.mu.RUnlock()
	start := number(r, "start", 0)
	limit := number(r, "limit", 50)
	page := found[min(start, len(found)):min(start+limit, len(found))]
	out := summary{
		Total: total, Unread: total, Count: len(page), MessagesCount: len(found),
		Start: start, Tags: []string{}, Messages: []overview{},
	}
	for _, message := range page {
		out.Messages = append(out.Messages, message.overview)
	}
	answer(w, http.StatusOK, out)
}

func (m *Mail) delete(w http.ResponseWriter, r *http.Request) {
	var body struct {
		IDs []string `json:"IDs"` //nolint:tagliatelle // Mailpit's name
	}
	if err := decode(r, &body); err != nil {
		http.Error(w, "The body has to be empty or {\"IDs\": [\"…\"]}.", http.StatusBadRequest)
		return
	}
	m.remove(body.IDs)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprint(w, "ok")
}

// search understands what tests ask: to:, from: and subject: with a word or a
// quoted phrase, and bare words, all of which have to be found.
func search(messages []*Message, query string) []*Message {
	terms := words(strings.ToLower(query))
	var found []*Message
	for _, message := range messages {
		if !slices.ContainsFunc(terms, func(term string) bool { return !message.matches(term) }) {
			found = append(found, message)
		}
	}
	return found
}

// words splits at spaces outside quotes and drops the quotes.
func words(query string) []string {
	quoted := false
	fields := strings.FieldsFunc(query, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return r == ' ' && !quoted
	})
	for i := range fields {
		fields[i] = strings.ReplaceAll(fields[i], `"`, "")
	}
	return fields
}
