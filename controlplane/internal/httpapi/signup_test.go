package httpapi_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"mime/quotedprintable"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/emersion/go-smtp"
	"github.com/google/uuid"
	"github.com/riverqueue/river"

	"github.com/ouvira/ouvira/controlplane/internal/billing"
	"github.com/ouvira/ouvira/controlplane/internal/httpapi"
	"github.com/ouvira/ouvira/controlplane/internal/job"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/operator"
	"github.com/ouvira/ouvira/controlplane/internal/signup"
	"github.com/ouvira/ouvira/controlplane/internal/tenant"
	"github.com/ouvira/ouvira/shared/mail"
	"github.com/ouvira/ouvira/shared/turnstile"
)

// mailbox is an SMTP server that keeps what it gets.
type mailbox struct {
	addr string

	mu    sync.Mutex
	mails []letter
}

type letter struct {
	to   string
	text string
}

func newMailbox(t *testing.T) *mailbox {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &mailbox{addr: listener.Addr().String()}
	s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &smtpSession{box: m}, nil }))
	s.Domain = "localhost"
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(listener)
	}()
	t.Cleanup(func() {
		_ = s.Close()
		<-served
	})
	return m
}

type smtpSession struct {
	box *mailbox
	to  string
}

func (s *smtpSession) Mail(string, *smtp.MailOptions) error      { return nil }
func (s *smtpSession) Rcpt(to string, _ *smtp.RcptOptions) error { s.to = to; return nil }
func (s *smtpSession) Reset()                                    {}
func (s *smtpSession) Logout() error                             { return nil }
func (s *smtpSession) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	_, body, _ := bytes.Cut(raw, []byte("\r\n\r\n"))
	text, err := io.ReadAll(quotedprintable.NewReader(bytes.NewReader(body)))
	if err != nil {
		return err
	}
	s.box.mu.Lock()
	defer s.box.mu.Unlock()
	s.box.mails = append(s.box.mails, letter{to: s.to, text: string(text)})
	return nil
}

func (m *mailbox) to(address string) []letter {
	m.mu.Lock()
	defer m.mu.Unlock()
	var found []letter
	for _, l := range m.mails {
		if l.to == address {
			found = append(found, l)
		}
	}
	return found
}

var codeLine = regexp.MustCompile(`(?m)^([0-9]{6})\r?$`)

// code waits for the nth mail to the address and reads its code.
func (m *mailbox) code(t *testing.T, address string, n int) string {
	t.Helper()
	eventually(t, "the mail with the code", func() bool { return len(m.to(address)) >= n })
	found := codeLine.FindStringSubmatch(m.to(address)[n-1].text)
	if found == nil {
		t.Fatalf("no code alone on a line: %q", m.to(address)[n-1].text)
	}
	return found[1]
}

// postman works the mail jobs of the world, over real SMTP.
func (w *world) postman(t *testing.T) *mailbox {
	t.Helper()
	box := newMailbox(t)
	host, port, _ := net.SplitHostPort(box.addr)
	number, _ := strconv.Atoi(port)
	sender, err := mail.NewSMTP(mail.Config{Host: host, Port: number, From: "Ouvira <no-reply@ouvira.test>"})
	if err != nil {
		t.Fatal(err)
	}
	runner := operation.NewRunner(w.rooms.Operations, "test", slog.New(slog.DiscardHandler), nil)
	worker, err := job.NewWorker(w.control.Pool, job.Config{Log: slog.New(slog.DiscardHandler), Runner: runner, Kinds: []job.Register{
		func(workers *river.Workers) {
			river.AddWorker(workers, &signup.CodeMailer{DB: w.control.Pool, Key: w.keys.Control, Sender: sender})
			river.AddWorker(workers, &signup.ApprovalMailer{DB: w.control.Pool, Sender: sender})
			river.AddWorker(workers, &signup.DecisionMailer{DB: w.control.Pool, Sender: sender})
			river.AddWorker(workers, &billing.DueMailer{DB: w.control.Pool, Sender: sender, Addresses: w.rooms.Tenants.Addresses})
			river.AddWorker(workers, &tenant.OwnerMailer{DB: w.control.Pool, Key: w.keys.Control, Sender: sender, Addresses: w.rooms.Tenants.Addresses})
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := worker.Run(ctx); err != nil {
			t.Errorf("the worker: %v", err)
		}
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	return box
}

func (w *world) signUp(t *testing.T, slug string) (id string) {
	t.Helper()
	return w.want(t, 201, "", "POST", "/v1/signups", form(slug)).text("id")
}

func TestSignup(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	box := w.postman(t)
	started := w.want(t, 201, "", "POST", "/v1/signups", form("initech"))
	id := started.text("id")
	if started.text("status") != "pending_verification" || started.text("expires_at") == "" {
		t.Errorf("unexpected answer: %s", started.raw)
	}
	code := box.code(t, "initech@initech.example", 1)
	if text := box.to("initech@initech.example")[0].text; strings.Contains(text, "Bill") || strings.Contains(text, "Initech") {
		t.Errorf("the mail repeats what was typed into the form: %q", text)
	}
	shown := w.want(t, 200, "", "GET", "/v1/signups/"+id, nil)
	if len(shown.json) != 5 || shown.text("slug") != "initech" || shown.field("login_url") != nil || shown.field("reason") != nil {
		t.Errorf("unexpected view: %s", shown.raw)
	}

	verified := w.want(t, 202, "", "POST", "/v1/signups/"+id+"/verify", map[string]string{"code": code})
	if verified.text("tenant.slug") != "initech" || verified.text("tenant.status") != "provisioning" ||
		verified.text("operation.status") != "queued" || verified.text("operation.steps.0.name") != "place" {
		t.Errorf("unexpected answer: %s", verified.raw)
	}
	again := w.want(t, 202, "", "POST", "/v1/signups/"+id+"/verify", map[string]string{"code": code})
	if again.text("tenant.id") != verified.text("tenant.id") || again.text("operation.id") != verified.text("operation.id") {
		t.Errorf("verifying again gives another answer: %s", again.raw)
	}
	if a := w.want(t, 422, "", "POST", "/v1/signups/"+id+"/verify", map[string]string{"code": other(code)}); a.text("code") != "wrong_code" {
		t.Errorf("a wrong code after success: %s", a.raw)
	}
	if status := w.want(t, 200, "", "GET", "/v1/signups/"+id, nil).text("status"); status != "provisioning" {
		t.Errorf("status %q", status)
	}
	if n := one[int](t, w, "SELECT count(*) FROM control.tenants"); n != 1 {
		t.Errorf("%d tenants", n)
	}
	actions := one[[]string](t, w, "SELECT array_agg(action ORDER BY id) FROM control.audit_log")
	if want := []string{"signup.create", "tenant.create", "signup.verify"}; !slices.Equal(actions, want) {
		t.Errorf("audited %v", actions)
	}
	events := one[[]string](t, w, "SELECT array_agg(type ORDER BY id) FROM control.events")
	if want := []string{"signup.created", "tenant.created"}; !slices.Equal(events, want) {
		t.Errorf("events %v", events)
	}
	w.secretsStayOut(t, code)
}

// secretsStayOut looks for password and code where they must not be.
func (w *world) secretsStayOut(t *testing.T, code string) {
	t.Helper()
	jobs := one[string](t, w, "SELECT string_agg(args::text || metadata::text, ' ') FROM river.river_job")
	if strings.Contains(jobs, password) || strings.Contains(jobs, `"`+code+`"`) {
		t.Errorf("a job holds a secret: %s", jobs)
	}
	rows := one[string](t, w, "SELECT string_agg(s::text, ' ') FROM control.signups s")
	if strings.Contains(rows, password) || strings.Contains(rows, ","+code+",") {
		t.Errorf("a sign-up holds a secret: %s", rows)
	}
	if !strings.Contains(rows, "$argon2id$") {
		t.Errorf("the password is not hashed with argon2id: %s", rows)
	}
}

// other is a code that is not this one.
func other(code string) string {
	n, _ := strconv.Atoi(code)
	s := strconv.Itoa((n + 1) % 1_000_000)
	return strings.Repeat("0", 6-len(s)) + s
}

// Of 50 guesses at once five are compared, and then the right code is dead too.
func TestFiftyGuessesFiveCompared(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	box := w.postman(t)
	id := w.signUp(t, "initech")
	code := box.code(t, "initech@initech.example", 1)
	answers := make([]answer, 50)
	var guessing sync.WaitGroup
	for i := range answers {
		guessing.Go(func() {
			answers[i] = w.call(t, "", "POST", "/v1/signups/"+id+"/verify", map[string]string{"code": other(code)})
		})
	}
	guessing.Wait()
	counts := map[string]int{}
	for _, a := range answers {
		counts[a.text("code")]++
	}
	if counts["wrong_code"] != 5 || counts["code_exhausted"] != 45 {
		t.Errorf("answers %v", counts)
	}
	if a := w.want(t, 409, "", "POST", "/v1/signups/"+id+"/verify", map[string]string{"code": code}); a.text("code") != "code_exhausted" {
		t.Errorf("the right code after the guesses: %s", a.raw)
	}
	w.want(t, 200, "", "POST", "/v1/signups/"+id+"/resend", nil)
	fresh := box.code(t, "initech@initech.example", 2)
	if fresh != code { // one time in a million they are equal
		w.want(t, 422, "", "POST", "/v1/signups/"+id+"/verify", map[string]string{"code": code})
	}
	w.want(t, 202, "", "POST", "/v1/signups/"+id+"/verify", map[string]string{"code": fresh})
	if a := w.want(t, 409, "", "POST", "/v1/signups/"+id+"/resend", nil); a.text("code") != "signup_provisioning" {
		t.Errorf("resend after success: %s", a.raw)
	}
}

// Verifying at once from two windows makes one tenant.
func TestVerifyTwiceAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	box := w.postman(t)
	id := w.signUp(t, "initech")
	code := box.code(t, "initech@initech.example", 1)
	ids := make([]string, 4)
	var verifying sync.WaitGroup
	for i := range ids {
		verifying.Go(func() {
			ids[i] = w.call(t, "", "POST", "/v1/signups/"+id+"/verify", map[string]string{"code": code}).text("operation.id")
		})
	}
	verifying.Wait()
	if slices.Sort(ids); ids[0] == "" || ids[0] != ids[3] {
		t.Errorf("operations %v", ids)
	}
}

// An unverified sign-up reserves no slug.
func TestSlugGoesToWhoVerifiesFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	box := w.postman(t)
	first := w.signUp(t, "initech")
	rival := form("initech")
	rival["email"] = "rival@initech.example"
	second := w.want(t, 201, "", "POST", "/v1/signups", rival).text("id")
	w.want(t, 202, "", "POST", "/v1/signups/"+second+"/verify", map[string]string{"code": box.code(t, "rival@initech.example", 1)})
	code := box.code(t, "initech@initech.example", 1)
	if a := w.want(t, 409, "", "POST", "/v1/signups/"+first+"/verify", map[string]string{"code": code}); a.text("code") != "slug_taken" || !slices.Contains(a.fields(), "slug") {
		t.Errorf("unexpected answer: %s", a.raw)
	}
	if a := w.want(t, 200, "", "GET", "/v1/signups/availability?slug=initech", nil); a.field("available") != false {
		t.Errorf("unexpected answer: %s", a.raw)
	}
	w.want(t, 409, "", "POST", "/v1/signups", form("initech"))
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	box := w.postman(t)
	id := w.signUp(t, "initech")
	code := box.code(t, "initech@initech.example", 1)
	w.exec(t, "UPDATE control.signups SET expires_at = now() - interval '1 s'")
	if a := w.want(t, 409, "", "POST", "/v1/signups/"+id+"/verify", map[string]string{"code": code}); a.text("code") != "signup_expired" {
		t.Errorf("unexpected answer: %s", a.raw)
	}
	w.want(t, 409, "", "POST", "/v1/signups/"+id+"/resend", nil)
	if a := w.want(t, 200, "", "GET", "/v1/signups/"+id, nil); a.text("status") != "expired" || a.text("reason") == "" {
		t.Errorf("unexpected view: %s", a.raw)
	}
	if err := w.rooms.Signups.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := one[int](t, w, "SELECT count(*) FROM control.signups WHERE password_hash IS NULL AND status = 'expired'"); n != 1 {
		t.Error("the sweep did not erase the password hash")
	}

	recent, old := w.signUp(t, "recent"), w.signUp(t, "long-failed")
	w.exec(t, "UPDATE control.signups SET status = 'failed' WHERE id IN ($1, $2)", recent, old)
	w.exec(t, "UPDATE control.signups SET updated_at = now() - interval '8 days' WHERE id = $1", old)
	if err := w.rooms.Signups.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if kept := one[string](t, w, "SELECT string_agg(slug, ' ') FROM control.signups WHERE password_hash IS NOT NULL"); kept != "recent" {
		t.Errorf("after the sweep, passwords are kept of %q", kept)
	}
}

// What a sign-up waits for, or failed of, is shown to who waits.
func TestReasonAndLoginURL(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	box := w.postman(t)
	id := w.signUp(t, "initech")
	v := w.want(t, 202, "", "POST", "/v1/signups/"+id+"/verify", map[string]string{"code": box.code(t, "initech@initech.example", 1)})
	w.exec(t, `UPDATE control.operations SET error = '{"code":"no_capacity","message":"No server has room.","next_action":"Add a server."}' WHERE id = $1`, v.text("operation.id"))
	if a := w.want(t, 200, "", "GET", "/v1/signups/"+id, nil); a.text("status") != "provisioning" || a.text("reason") != "No server has room." {
		t.Errorf("unexpected view: %s", a.raw)
	}
	w.exec(t, "UPDATE control.signups SET status = 'active'")
	if a := w.want(t, 200, "", "GET", "/v1/signups/"+id, nil); a.text("login_url") != "https://initech.ouvira.test/auth/login" || a.field("reason") != nil {
		t.Errorf("unexpected view: %s", a.raw)
	}
}

// The open form cannot be used to fill a stranger's mailbox.
func TestManySignupsForOneAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	refused := 0
	for i := range 12 {
		f := form("initech-" + strconv.Itoa(i))
		f["email"] = "victim@initech.example"
		if a := w.call(t, "", "POST", "/v1/signups", f); a.status == 429 {
			refused++
			if a.header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
		}
	}
	if refused != 2 {
		t.Errorf("%d of 12 refused, want 2", refused)
	}
	id := w.signUp(t, "globex")
	for range 4 {
		w.want(t, 200, "", "POST", "/v1/signups/"+id+"/resend", nil)
	}
	w.want(t, 429, "", "POST", "/v1/signups/"+id+"/resend", nil)
}

// The owner of a tenant that an operator made gets a link to set a password.
func TestOwnerGetsALink(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	box := w.postman(t)
	token := w.operator(t, operator.RoleOperator)
	created := w.want(t, 202, token, "POST", "/v1/tenants", newTenant("initech"))
	w.want(t, 200, token, "PATCH", "/v1/tenants/initech", map[string]any{"settings": map[string]any{"reset_url": "https://app.initech.example/set?lang=en"}})
	w.exec(t, "UPDATE control.tenants SET status = 'active'")
	tx, err := w.control.Pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	args := tenant.OwnerMail{OperationID: uuid.MustParse(created.text("operation.id"))}
	if _, err := w.queue.Client.InsertTx(t.Context(), tx, args, nil); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the mail", func() bool { return len(box.to("bill@initech.example")) == 1 })
	text := box.to("bill@initech.example")[0].text
	link := regexp.MustCompile(`https://app\.initech\.example/set\?lang=en&token=([A-Za-z0-9_-]{43})\r?\n`).FindStringSubmatch(text)
	if link == nil {
		t.Errorf("no link alone on a line: %q", text)
	}
}

func TestSec24OnlyPeopleSignUp(t *testing.T) {
	t.Parallel()
	var says atomic.Value
	verification := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		text, _ := says.Load().(string)
		_, _ = io.WriteString(w, text)
	}))
	t.Cleanup(verification.Close)
	w := newWorld(t, func(o *httpapi.Options) {
		o.Turnstile = turnstile.New(turnstile.Settings{TurnstileSecretKey: "0x4AAAAAAA-of-our-own", TurnstileURL: verification.URL})
	})
	signup := func(slug, token string) answer {
		body := form(slug)
		body["turnstile_token"] = token
		return w.call(t, "", "POST", "/v1/signups", body)
	}
	for name, tt := range map[string]struct {
		token, says, code string
		status            int
	}{
		"without a token": {"", `{"success":true,"hostname":"www.ouvira.test","action":"signup"}`, "turnstile_required", 422},
		"another page":    {"t", `{"success":true,"hostname":"evil.example","action":"signup"}`, "turnstile_failed", 403},
		"another action":  {"t", `{"success":true,"hostname":"www.ouvira.test","action":"x"}`, "turnstile_failed", 403},
		"used before":     {"t", `{"success":false,"error-codes":["timeout-or-duplicate"]}`, "turnstile_failed", 403},
		"an outage":       {"t", `<html>`, "turnstile_unavailable", 503},
	} {
		says.Store(tt.says)
		if a := signup("initech", tt.token); a.status != tt.status || a.text("code") != tt.code {
			t.Errorf("%s: %d %s", name, a.status, a.raw)
		}
	}
	says.Store(`{"success":true,"hostname":"www.ouvira.test","action":"signup"}`)
	if a := signup("initech", "t"); a.status != 201 {
		t.Errorf("all is well: %d %s", a.status, a.raw)
	}
}
