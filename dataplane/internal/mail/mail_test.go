package mail_test

import (
	"errors"
	"io"
	"net"
	netmail "net/mail"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/ouvira/ouvira/dataplane/internal/mail"
	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	sharedmail "github.com/ouvira/ouvira/shared/mail"
	"github.com/ouvira/ouvira/shared/route"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// mailbox is a mail server that writes down what it is told.
type mailbox struct {
	mu    sync.Mutex
	from  []string
	to    []string
	mails []string

	refuse func(to string) error
}

func newMailbox(t *testing.T) (*mailbox, mail.Channel) {
	t.Helper()
	box := &mailbox{}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &session{box}, nil }))
	server.Domain = "localhost"
	ended := make(chan struct{})
	go func() {
		_ = server.Serve(listener)
		close(ended)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-ended
	})
	host, port, _ := net.SplitHostPort(listener.Addr().String())
	number, _ := strconv.Atoi(port)
	sender, err := sharedmail.NewSMTP(sharedmail.Config{Host: host, Port: number, From: "Ouvira <no-reply@ouvira.example>"})
	if err != nil {
		t.Fatal(err)
	}
	return box, mail.New(sender)
}

type session struct{ box *mailbox }

func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	s.box.mu.Lock()
	defer s.box.mu.Unlock()
	s.box.from = append(s.box.from, from)
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.box.mu.Lock()
	defer s.box.mu.Unlock()
	if s.box.refuse != nil {
		if err := s.box.refuse(to); err != nil {
			return err
		}
	}
	s.box.to = append(s.box.to, to)
	return nil
}

func (s *session) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	s.box.mu.Lock()
	defer s.box.mu.Unlock()
	s.box.mails = append(s.box.mails, string(raw))
	return err
}

func (s *session) Reset()        {}
func (s *session) Logout() error { return nil }

func invitation(to, tenant, inviter string) outbox.Outgoing {
	return outbox.Outgoing{
		Message: outbox.Message{Channel: outbox.Email, To: to, Template: outbox.TemplateInvitation, Values: map[string]string{
			"link": "https://" + tenant + ".example/join?token=abc", "company": tenant, "inviter": inviter, "role": "manager", "expires": "1 May",
		}},
		ID: uuid.New(), Written: time.Date(2026, 4, 1, 12, 0, 0, 0, time.UTC), Route: &route.Route{Slug: tenant}, Company: tenant,
	}
}

func TestAMailSentTwiceIsRecognized(t *testing.T) {
	t.Parallel()
	box, c := newMailbox(t)
	m := invitation("jane@acme.example", "acme", "Ann")
	for _, each := range []outbox.Outgoing{m, m, invitation("joe@globex.example", "globex", "Bob")} {
		if err := c.Send(t.Context(), each); err != nil {
			t.Fatal(err)
		}
	}
	var ids []string
	for _, raw := range box.mails {
		read, err := netmail.ReadMessage(strings.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, read.Header.Get("Message-Id"))
		if date, err := read.Header.Date(); err != nil || !date.Equal(m.Written) {
			t.Errorf("date: %v, %v", date, err)
		}
		if !strings.Contains(raw, "text/plain") || !strings.Contains(raw, "text/html") {
			t.Errorf("not both forms: %s", raw)
		}
	}
	if len(ids) != 3 || ids[0] != "<"+m.ID.String()+"@ouvira.example>" || ids[0] != ids[1] || ids[1] == ids[2] {
		t.Errorf("Message-IDs: %v", ids)
	}
	first, _ := netmail.ReadMessage(strings.NewReader(box.mails[0]))
	third, _ := netmail.ReadMessage(strings.NewReader(box.mails[2]))
	if first.Header.Get("From") != `"acme" <no-reply@ouvira.example>` || third.Header.Get("From") != `"globex" <no-reply@ouvira.example>` {
		t.Errorf("senders: %s, %s", first.Header.Get("From"), third.Header.Get("From"))
	}
}

func TestRefusalsAreJudged(t *testing.T) {
	t.Parallel()
	box, c := newMailbox(t)
	box.refuse = func(to string) error {
		code := map[string]int{"gone": 550, "busy": 451}[strings.Split(to, "@")[0]]
		if code == 0 {
			return nil
		}
		return &smtp.SMTPError{Code: code, EnhancedCode: smtp.EnhancedCode{code / 100, 1, 1}, Message: "no <" + to + "> here"}
	}
	for to, want := range map[string]outbox.Outcome{"gone@acme.example": outbox.Dead, "busy@acme.example": outbox.Later, "fine@globex.example": ""} {
		var failure *outbox.Failure
		err := c.Send(t.Context(), invitation(to, "acme", "Ann"))
		if want == "" {
			if err != nil {
				t.Errorf("%s: %v", to, err)
			}
			continue
		}
		if !errors.As(err, &failure) || failure.Outcome != want || strings.Contains(failure.Error(), to) {
			t.Errorf("%s: %v, want %s", to, err, want)
		}
	}
	unreachable, err := sharedmail.NewSMTP(sharedmail.Config{Host: "127.0.0.1", Port: 1, From: "no-reply@ouvira.example"})
	if err != nil {
		t.Fatal(err)
	}
	var failure *outbox.Failure
	if err := mail.New(unreachable).Send(t.Context(), invitation("a@acme.example", "acme", "Ann")); !errors.As(err, &failure) || failure.Outcome != outbox.Later {
		t.Errorf("nobody listens: %v", err)
	}
}

// Whatever stands in an address, a name or a text: one mail, to one recipient,
// with the headers that we wrote.
func TestSec36NothingIsSmuggledIntoAMail(t *testing.T) {
	t.Parallel()
	box, c := newMailbox(t)
	for _, to := range []string{
		"a@acme.example\r\nRCPT TO:<evil@example.com>", "a@acme.example\nBcc: evil@example.com", `"a\r\nDATA"@acme.example`, `"quoted local"@acme.example`,
		"a@acme.example, evil@example.com", "Jane <a@acme.example>", "a@acme.example>", "<a@acme.example> SIZE=1", "a@[127.0.0.1]", "a(comment)@acme.example",
		"@acme.example", "a@", "a..b@acme.example", "a@acme.example\x00", "a b@acme.example", "", strings.Repeat("a", 250) + "@acme.example",
	} {
		var failure *outbox.Failure
		if err := c.Send(t.Context(), invitation(to, "acme", "Ann")); !errors.As(err, &failure) || failure.Outcome != outbox.Dead {
			t.Errorf("%q: %v", to, err)
		}
	}
	if len(box.from)+len(box.to)+len(box.mails) != 0 {
		t.Fatalf("the server was told of %v, %v", box.from, box.to)
	}
	const evil = "Eve\r\nBcc: evil@example.com\r\n\r\n.\r\nMAIL FROM:<evil@example.com>\r\nRCPT TO:<evil@example.com>\r\nDATA"
	m := invitation("jane@acme.example", "acme", evil)
	m.Route = &route.Route{Settings: route.Settings{Branding: route.Branding{FromName: `Eve" <evil@example.com>, "` + "\r\nReply-To: evil@example.com"}}}
	if err := c.Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if err := c.Send(t.Context(), invitation("joe@globex.example", "globex", "\r\n.\r\n")); err != nil {
		t.Fatal(err)
	}
	if len(box.mails) != 2 || strings.Join(box.to, " ") != "jane@acme.example joe@globex.example" ||
		strings.Join(box.from, " ") != "no-reply@ouvira.example no-reply@ouvira.example" {
		t.Fatalf("%d mails from %v to %v", len(box.mails), box.from, box.to)
	}
	read, err := netmail.ReadMessage(strings.NewReader(box.mails[0]))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Bcc", "Reply-To", "Cc"} {
		if read.Header.Get(name) != "" {
			t.Errorf("there is a header %s: %s", name, read.Header.Get(name))
		}
	}
	from, err := read.Header.AddressList("From")
	if err != nil || len(from) != 1 || from[0].Address != "no-reply@ouvira.example" {
		t.Errorf("from: %v, %v", from, err)
	}
	to, err := read.Header.AddressList("To")
	if err != nil || len(to) != 1 || to[0].Address != "jane@acme.example" {
		t.Errorf("to: %v, %v", to, err)
	}
}
