package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
)

// letterbox is a mail server that hands on what it gets.
type letterbox chan string

func (b letterbox) NewSession(*smtp.Conn) (smtp.Session, error) { return b, nil }
func (b letterbox) Mail(string, *smtp.MailOptions) error        { return nil }
func (b letterbox) Rcpt(string, *smtp.RcptOptions) error        { return nil }
func (b letterbox) Reset()                                      {}
func (b letterbox) Logout() error                               { return nil }
func (b letterbox) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	b <- string(raw)
	return err
}

// A node mails and texts by itself what its requests have written, as the
// settings of its environment say.
func TestWhatRequestsWriteLeavesTheNode(t *testing.T) {
	t.Parallel()
	f := tenanttest.New(t)
	nodeURL, _ := controlDatabase(t, f)
	mails := make(letterbox, 10)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	server := smtp.NewServer(mails)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	texts := make(chan string, 10)
	twilio := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if account, token, _ := r.BasicAuth(); account != "AC1" || token != "secret" {
			t.Errorf("asked as %s", account)
		}
		texts <- r.PostFormValue("To") + " " + r.PostFormValue("Body")
		w.WriteHeader(http.StatusCreated)
	}))
	t.Cleanup(twilio.Close)
	n := start(t, f, nodeURL, "EMAIL_HOST=127.0.0.1", "EMAIL_PORT="+port, "DEFAULT_FROM_EMAIL=Ouvira <no-reply@ouvira.example>",
		"OUVIRA_TWILIO_URL="+twilio.URL, "TWILIO_ACCOUNT_SID=AC1", "TWILIO_AUTH_TOKEN=secret", "TWILIO_PHONE_NUMBER=+15550199")

	for _, tenant := range []tenanttest.Tenant{f.A, f.B} {
		host := tenant.Route.Slug + ".localhost"
		status, body := get(t, http.MethodPost, n.public+"/auth/password/forgot", host, `{"email":"`+tenant.OwnerEmail+`"}`)
		if status != http.StatusOK {
			t.Fatalf("forgot: %d %s", status, body)
		}
		if mail := arrived(t, mails); !strings.Contains(mail, "To: <"+tenant.OwnerEmail+">") || !strings.Contains(mail, host) || !strings.Contains(mail, tenant.CompanyName) {
			t.Errorf("the mail of %s: %s", host, mail)
		}
		status, body = get(t, http.MethodPost, n.public+"/auth/signup", host, `{"full_name":"Jane Doe","primary_mobile":"+4915112345678"}`)
		if status != http.StatusCreated {
			t.Fatalf("signup: %d %s", status, body)
		}
		if text := arrived(t, texts); !strings.HasPrefix(text, "+4915112345678 ") || !strings.Contains(text, tenant.CompanyName) {
			t.Errorf("the SMS of %s: %s", host, text)
		}
	}
	n.stop()
	must(t, <-n.ended)
}

// arrived is the next of what leaves, which takes a moment.
func arrived(t *testing.T, from <-chan string) string {
	t.Helper()
	select {
	case what := <-from:
		return what
	case <-time.After(20 * time.Second):
		t.Fatal("nothing has left the node")
		return ""
	}
}
