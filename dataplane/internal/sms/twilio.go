// Package sms sends a tenant's SMS through Twilio's REST API.
//
// An SMS costs money and is read by somebody who waits for one, so none is
// sent twice: a request is repeated only if it is certain that Twilio has not
// taken it. Whatever leaves that open is reported as unknown.
package sms

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/dataplane/internal/outbox/letter"
	"github.com/ouvira/ouvira/shared/tracing"
)

// timeout bounds one request. Twilio answers within a second or two; longer
// than this, nobody waits for the code any more.
const timeout = 15 * time.Second

// maxAnswer is more than Twilio ever answers.
const maxAnswer = 64 << 10

// DefaultURL is Twilio's own address.
const DefaultURL = "https://api.twilio.com"

// Config is an account at Twilio.
type Config struct {
	URL         string // empty: Twilio's own
	AccountSID  string
	AuthToken   string
	PhoneNumber string // the sender; a messaging service's SID (MG…) will do too
}

// Twilio is the outbox's way out for SMS.
type Twilio struct {
	config   Config
	endpoint string
	client   *http.Client
}

// New checks the configuration; nothing is contacted.
func New(c Config) (*Twilio, error) {
	if c.AccountSID == "" || c.AuthToken == "" || c.PhoneNumber == "" {
		return nil, errors.New("SMS need all of TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN and TWILIO_PHONE_NUMBER")
	}
	if c.URL == "" {
		c.URL = DefaultURL
	}
	base, err := url.Parse(c.URL)
	if err != nil || base.Host == "" || (base.Scheme != "https" && base.Scheme != "http") {
		return nil, errors.New("OUVIRA_TWILIO_URL: must be an address such as https://api.twilio.com")
	}
	transport, _ := http.DefaultTransport.(*http.Transport)
	return &Twilio{
		config:   c,
		endpoint: base.JoinPath("2010-04-01", "Accounts", c.AccountSID, "Messages.json").String(),
		client: &http.Client{
			Transport: tracing.Transport(transport.Clone()), Timeout: timeout,
			// A redirect would be a second request.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// Close lets go of idle connections.
func (t *Twilio) Close() { t.client.CloseIdleConnections() }

var number = regexp.MustCompile(`^\+[1-9][0-9]{6,14}$`)

// Send implements outbox.Sender.
func (t *Twilio) Send(ctx context.Context, m outbox.Outgoing) error {
	if !number.MatchString(m.To) {
		return &outbox.Failure{Outcome: outbox.Dead, Reason: "the number is not in international form"}
	}
	l, err := letter.Write(m)
	if err != nil {
		return &outbox.Failure{Outcome: outbox.Dead, Reason: "its template lacks a value", Cause: err}
	}
	form := url.Values{"To": {m.To}, "Body": {l.Text}}
	if strings.HasPrefix(t.config.PhoneNumber, "MG") {
		form.Set("MessagingServiceSid", t.config.PhoneNumber)
	} else {
		form.Set("From", t.config.PhoneNumber)
	}
	return t.post(ctx, form)
}

func (t *Twilio) post(ctx context.Context, form url.Values) error {
	// Without a connection nothing can have been sent.
	var connected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }})
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, t.endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return &outbox.Failure{Outcome: outbox.Dead, Reason: "the request could not be made"}
	}
	request.GetBody = nil // never sent again by the transport
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Accept", "application/json")
	request.SetBasicAuth(t.config.AccountSID, t.config.AuthToken)
	response, err := t.client.Do(request)
	switch {
	case err != nil && !connected.Load():
		return &outbox.Failure{Outcome: outbox.Later, Reason: "Twilio could not be reached", Cause: err}
	case err != nil:
		return &outbox.Failure{Outcome: outbox.Unknown, Reason: "Twilio did not answer", Cause: err}
	}
	defer response.Body.Close()
	return judge(response)
}

// judge reads what Twilio says of a request. Its message is left out: it
// repeats the number.
func judge(response *http.Response) error {
	var answer struct {
		Code int `json:"code"`
	}
	// An answer that cannot be read is judged by its status alone.
	_ = json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(&answer)
	said := fmt.Sprintf("Twilio answered %d", response.StatusCode)
	if answer.Code != 0 {
		said += " (error " + strconv.Itoa(answer.Code) + ")"
	}
	switch status := response.StatusCode; {
	case status >= 200 && status < 300:
		return nil
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable:
		// Refused before anything was done.
		return &outbox.Failure{Outcome: outbox.Later, Reason: said, After: retryAfter(response)}
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return &outbox.Failure{Outcome: outbox.Later, Reason: said + ": check TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN"}
	case status >= 500:
		return &outbox.Failure{Outcome: outbox.Unknown, Reason: said}
	default:
		return &outbox.Failure{Outcome: outbox.Dead, Reason: said}
	}
}

// retryAfter is what Twilio asks for, within reason.
func retryAfter(response *http.Response) time.Duration {
	seconds, err := strconv.Atoi(response.Header.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return 0
	}
	return min(time.Duration(seconds)*time.Second, 10*time.Minute)
}
