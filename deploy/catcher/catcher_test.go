package catcher_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/smtp"
	"net/url"
	"strings"
	"testing"

	"github.com/ouvira/ouvira/deploy/catcher"
)

// mailbox is a running mail catcher.
type mailbox struct{ smtp, rest string }

func startMail(t *testing.T) mailbox {
	t.Helper()
	mail := &catcher.Mail{}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- mail.Serve(ctx, listener) }()
	rest := httptest.NewServer(mail.Handler())
	t.Cleanup(func() {
		rest.Close()
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return mailbox{smtp: listener.Addr().String(), rest: rest.URL}
}

func (m mailbox) send(t *testing.T, lines ...string) {
	t.Helper()
	text := strings.Join(lines, "\r\n")
	if err := smtp.SendMail(m.smtp, nil, "bounce@ouvira.example", []string{"ada@acme.example", "hidden@acme.example"}, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, address string, into any) int {
	t.Helper()
	response, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if into != nil {
		if err := json.NewDecoder(response.Body).Decode(into); err != nil {
			t.Fatal(err)
		}
	}
	return response.StatusCode
}

type address struct{ Name, Address string }

type message struct {
	ID, Subject, Snippet, Text, HTML, Created string
	From                                      address
	To, Bcc                                   []address
	Attachments                               json.RawMessage
}

type list struct {
	Total    int       `json:"total"`
	Count    int       `json:"messages_count"`
	Messages []message `json:"messages"`
}

func TestMultipartMailIsDecoded(t *testing.T) {
	t.Parallel()
	box := startMail(t)
	box.send(t,
		"From: =?utf-8?q?Ouvira_=E2=9C=93?= <hello@ouvira.example>",
		"To: Ada <ada@acme.example>",
		"Subject: =?utf-8?q?Your_code_for_M=C3=BCller?=",
		"MIME-Version: 1.0",
		"Content-Type: multipart/mixed; boundary=outer",
		"",
		"--outer",
		"Content-Type: multipart/alternative; boundary=inner",
		"",
		"--inner",
		"Content-Type: text/plain; charset=utf-8",
		"Content-Transfer-Encoding: quoted-printable",
		"",
		"Your code, M=C3=BCller:",
		"",
		"123456",
		"",
		"a long line that was fol=",
		"ded",
		"--inner",
		"Content-Type: text/html; charset=iso-8859-1",
		"Content-Transfer-Encoding: base64",
		"",
		"PGI+TfxsbGVyPC9iPg==",
		"--inner--",
		"--outer",
		"Content-Type: text/csv; name=list.csv",
		"Content-Disposition: attachment; filename=list.csv",
		"",
		"a,b",
		"--outer--",
		"")
	var all list
	if status := get(t, box.rest+"/api/v1/messages", &all); status != http.StatusOK || all.Total != 1 || len(all.Messages) != 1 {
		t.Fatalf("status %d, %+v", status, all)
	}
	first := all.Messages[0]
	if first.Subject != "Your code for Müller" || first.From != (address{"Ouvira ✓", "hello@ouvira.example"}) ||
		first.Created == "" || !strings.Contains(first.Snippet, "123456") {
		t.Errorf("list shows %+v", first)
	}
	if string(first.Attachments) != "1" {
		t.Errorf("list counts %s attachments", first.Attachments)
	}
	var whole message
	get(t, box.rest+"/api/v1/message/"+first.ID, &whole)
	if !strings.Contains(whole.Text, "\n123456\r\n") || !strings.Contains(whole.Text, "folded") {
		t.Errorf("the text is %q", whole.Text)
	}
	if whole.HTML != "<b>Müller</b>" {
		t.Errorf("the HTML is %q", whole.HTML)
	}
	if len(whole.To) != 1 || whole.To[0] != (address{"Ada", "ada@acme.example"}) {
		t.Errorf("To is %v", whole.To)
	}
	if len(whole.Bcc) != 1 || whole.Bcc[0].Address != "hidden@acme.example" {
		t.Errorf("Bcc is %v", whole.Bcc)
	}
	if !strings.Contains(string(whole.Attachments), "list.csv") {
		t.Errorf("attachments are %s", whole.Attachments)
	}
	if status := get(t, box.rest+"/api/v1/message/none", nil); status != http.StatusNotFound {
		t.Errorf("an unknown id is answered with %d", status)
	}
}

func TestMailIsFoundAndForgotten(t *testing.T) {
	t.Parallel()
	box := startMail(t)
	for _, subject := range []string{"first", "second"} {
		box.send(t, "From: a@ouvira.example", "To: "+subject+"@acme.example", "Subject: the "+subject, "", "Body of "+subject)
	}
	for query, want := range map[string]string{
		"to:first@acme.example": "the first", `to:"second@acme.example"`: "the second",
		`subject:"the second"`: "the second", "body of first": "the first",
	} {
		var found list
		get(t, box.rest+"/api/v1/search?query="+url.QueryEscape(query), &found)
		if len(found.Messages) != 1 || found.Count != 1 || found.Messages[0].Subject != want {
			t.Errorf("%s found %+v", query, found)
		}
	}
	var newest list
	get(t, box.rest+"/api/v1/messages?limit=1", &newest)
	if len(newest.Messages) != 1 || newest.Messages[0].Subject != "the second" || newest.Total != 2 {
		t.Errorf("the newest is %+v", newest)
	}
	var latest message
	get(t, box.rest+"/api/v1/message/latest", &latest)
	if strings.TrimSpace(latest.Text) != "Body of second" {
		t.Errorf("latest is %+v", latest)
	}
	for body, left := range map[string]int{`{"IDs":["` + latest.ID + `"]}`: 1} {
		remove(t, box.rest+"/api/v1/messages", body)
		var rest list
		if get(t, box.rest+"/api/v1/messages", &rest); rest.Total != left {
			t.Errorf("%d messages are left, want %d", rest.Total, left)
		}
	}
	remove(t, box.rest+"/api/v1/messages", "")
	var none list
	if get(t, box.rest+"/api/v1/messages", &none); none.Total != 0 || none.Messages == nil {
		t.Errorf("after all were deleted: %+v", none)
	}
}

func remove(t *testing.T, address, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("DELETE with %q is answered with %d", body, response.StatusCode)
	}
}

func TestMailBoxIsBounded(t *testing.T) {
	t.Parallel()
	box := startMail(t)
	client, err := smtp.Dial(box.smtp)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for i := range 1010 {
		if err := client.Mail("a@ouvira.example"); err != nil {
			t.Fatal(err)
		}
		if err := client.Rcpt("b@ouvira.example"); err != nil {
			t.Fatal(err)
		}
		w, err := client.Data()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(w, "Subject: %d\r\n\r\ntext\r\n", i)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var all list
	get(t, box.rest+"/api/v1/messages?limit=5000", &all)
	if len(all.Messages) != 1000 || all.Messages[0].Subject != "1009" || all.Messages[999].Subject != "10" {
		t.Errorf("%d messages are kept", len(all.Messages))
	}
}

func TestTextsInTwiliosForm(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer((&catcher.SMS{}).Handler())
	t.Cleanup(server.Close)
	post := func(user string, form url.Values) (int, string) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
			server.URL+"/2010-04-01/Accounts/AC1/Messages.json", strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if user != "" {
			request.SetBasicAuth(user, "token")
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body)
	}
	for _, to := range []string{"+15550100", "+15550101"} {
		status, body := post("AC1", url.Values{"To": {to}, "From": {"+15550199"}, "Body": {"Code 1 for " + to}})
		if status != http.StatusCreated || !strings.Contains(body, `"sid":"SM`) || !strings.Contains(body, `"status":"queued"`) {
			t.Errorf("%d %s", status, body)
		}
	}
	for name, c := range map[string]struct {
		user string
		form url.Values
		want int
	}{
		"no login": {"", url.Values{"To": {"+1"}, "From": {"+2"}, "Body": {"x"}}, http.StatusUnauthorized},
		"no To":    {"AC1", url.Values{"From": {"+2"}, "Body": {"x"}}, http.StatusBadRequest},
		"no From":  {"AC1", url.Values{"To": {"+2"}, "Body": {"x"}}, http.StatusBadRequest},
		"no Body":  {"AC1", url.Values{"To": {"+2"}, "From": {"+2"}}, http.StatusBadRequest},
		"too long": {"AC1", url.Values{"To": {"+2"}, "From": {"+2"}, "Body": {strings.Repeat("ä", 1601)}}, http.StatusBadRequest},
	} {
		if status, body := post(c.user, c.form); status != c.want {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	for _, query := range []string{"?to=%2B15550100", "?to=+15550100", "?to=15550100"} {
		var found struct {
			Messages []catcher.Text `json:"messages"`
		}
		get(t, server.URL+"/messages"+query, &found)
		if len(found.Messages) != 1 || found.Messages[0].Body != "Code 1 for +15550100" {
			t.Errorf("%s found %+v", query, found)
		}
	}
}
