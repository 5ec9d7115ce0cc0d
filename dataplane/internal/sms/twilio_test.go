package sms_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/dataplane/internal/sms"
	"github.com/ouvira/ouvira/shared/route"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// twilio is a server of Twilio's shape.
type twilio struct {
	*httptest.Server

	mu    sync.Mutex
	forms []url.Values
}

func newTwilio(t *testing.T, answer http.HandlerFunc) *twilio {
	t.Helper()
	tw := &twilio{}
	tw.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, token, _ := r.BasicAuth()
		if r.Method != http.MethodPost || r.URL.Path != "/2010-04-01/Accounts/AC1/Messages.json" || user != "AC1" || token != "secret" {
			t.Errorf("asked %s %s as %s", r.Method, r.URL, user)
		}
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		tw.mu.Lock()
		tw.forms = append(tw.forms, r.PostForm)
		tw.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(tw.Close)
	return tw
}

func (tw *twilio) asked() []url.Values {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	return tw.forms
}

func channelTo(t *testing.T, address string) *sms.Twilio {
	t.Helper()
	c, err := sms.New(sms.Config{URL: address, AccountSID: "AC1", AuthToken: "secret", PhoneNumber: "+15550199"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func code(to, tenant string) outbox.Outgoing {
	return outbox.Outgoing{
		Message: outbox.Message{Channel: outbox.SMS, To: to, Template: outbox.TemplateOTP, Values: map[string]string{"code": "424242", "minutes": "5"}},
		ID:      uuid.New(), Written: time.Now(), Route: &route.Route{Slug: tenant}, Company: tenant + " Ltd",
	}
}

func says(status int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func TestTheSMSIsTheTenants(t *testing.T) {
	t.Parallel()
	tw := newTwilio(t, says(http.StatusCreated, `{"sid":"SM1","status":"queued"}`))
	c := channelTo(t, tw.URL)
	for _, tenant := range []string{"acme", "globex"} {
		if err := c.Send(t.Context(), code("+491701234567", tenant)); err != nil {
			t.Fatal(err)
		}
	}
	forms := tw.asked()
	if len(forms) != 2 || forms[0].Get("To") != "+491701234567" || forms[0].Get("From") != "+15550199" ||
		!strings.Contains(forms[0].Get("Body"), "424242") || !strings.Contains(forms[0].Get("Body"), "acme Ltd") || !strings.Contains(forms[1].Get("Body"), "globex Ltd") {
		t.Errorf("asked with %v", forms)
	}
}

// What each answer means. In no case is Twilio asked twice.
func TestAnswersAreJudged(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		want   outbox.Outcome // empty: sent
		after  time.Duration
	}{
		"taken, and unreadable":    {says(201, "<html>"), "", 0},
		"too many":                 {says(429, `{"code":20429}`, "Retry-After", "7"), outbox.Later, 7 * time.Second},
		"an absurd wait":           {says(429, ``, "Retry-After", "999999"), outbox.Later, 10 * time.Minute},
		"unavailable":              {says(503, ``), outbox.Later, 0},
		"a wrong token":            {says(401, `{"code":20003}`), outbox.Later, 0},
		"a number that is none":    {says(400, `{"code":21211,"message":"+491701234567 is not valid"}`), outbox.Dead, 0},
		"a failure on their side":  {says(500, `{"code":20500}`), outbox.Unknown, 0},
		"a gateway in between":     {says(502, ``), outbox.Unknown, 0},
		"a redirect":               {says(307, ``, "Location", "/again"), outbox.Dead, 0},
		"a connection that breaks": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, outbox.Unknown, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tw := newTwilio(t, tc.answer)
			err := channelTo(t, tw.URL).Send(t.Context(), code("+491701234567", "acme"))
			var failure *outbox.Failure
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tc.want != "" && (!errors.As(err, &failure) || failure.Outcome != tc.want || failure.After != tc.after):
				t.Errorf("got %+v, want %s after %s", failure, tc.want, tc.after)
			}
			if failure != nil && (strings.Contains(failure.Error(), "4917") || strings.Contains(failure.Error(), "424242") || strings.Contains(failure.Error(), "secret")) {
				t.Errorf("the reason says too much: %v", failure)
			}
			if n := len(tw.asked()); n != 1 {
				t.Errorf("asked %d times", n)
			}
		})
	}
}

func TestOnlyWhatWasCertainlyNotTakenIsTriedAgain(t *testing.T) {
	t.Parallel()
	// Nobody listens: certain.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := "http://" + listener.Addr().String()
	_ = listener.Close()
	var failure *outbox.Failure
	if err := channelTo(t, address).Send(t.Context(), code("+491701234567", "acme")); !errors.As(err, &failure) || failure.Outcome != outbox.Later {
		t.Errorf("nobody listens: %v", err)
	}
	// It listens, reads, and says nothing: unknown.
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	tw := newTwilio(t, func(http.ResponseWriter, *http.Request) {
		cancel()
		<-over
	})
	err = channelTo(t, tw.URL).Send(ctx, code("+491701234567", "acme"))
	close(over)
	if !errors.As(err, &failure) || failure.Outcome != outbox.Unknown {
		t.Errorf("no answer: %v", err)
	}
	if n := len(tw.asked()); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

func TestSec36ANumberIsANumber(t *testing.T) {
	t.Parallel()
	tw := newTwilio(t, says(http.StatusCreated, `{}`))
	c := channelTo(t, tw.URL)
	for _, to := range []string{"", "491701234567", "+49170123456\r\n", "+49170&To=+1900", "whatsapp:+491701234567", "+0170", "+491701234567891011"} {
		var failure *outbox.Failure
		if err := c.Send(t.Context(), code(to, "acme")); !errors.As(err, &failure) || failure.Outcome != outbox.Dead {
			t.Errorf("%q: %v", to, err)
		}
	}
	if forms := tw.asked(); len(forms) != 0 {
		t.Errorf("asked: %v", forms)
	}
}

func TestIncompleteSettingsAreRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []sms.Config{
		{},
		{AccountSID: "AC1", AuthToken: "x"},
		{AccountSID: "AC1", PhoneNumber: "+1"},
		{URL: "ftp://x", AccountSID: "AC1", AuthToken: "x", PhoneNumber: "+1"},
		{URL: "://", AccountSID: "AC1", AuthToken: "x", PhoneNumber: "+1"},
	} {
		if _, err := sms.New(c); err == nil || strings.Contains(err.Error(), "ftp") {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
