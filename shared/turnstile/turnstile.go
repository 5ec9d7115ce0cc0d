// Package turnstile asks Cloudflare Turnstile whether a person is at the other
// end.
//
// It promises: a token counts only if Cloudflare says so in this moment, for a
// page of ours and for the action that is under way. When Cloudflare cannot be
// asked, nobody passes. Without a secret key it is off, and everybody does; a
// key for tests is refused in production.
//
// A token works once: Cloudflare refuses the second time. A caller who can
// remember tokens does so too (Digest).
package turnstile

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/tracing"
)

const (
	// Lifetime of a token, after which Cloudflare refuses it.
	Lifetime = 5 * time.Minute

	attemptTimeout = 3 * time.Second
	attempts       = 2
	maxAnswer      = 64 << 10 // bytes
)

// Verifier asks. A nil Verifier is off.
type Verifier struct {
	secret string
	url    string
	test   byte // the first letter of a test key that nobody needs to be asked about
	client *http.Client
}

// New makes the verifier of the settings; nil when they have no secret key.
func New(s Settings) *Verifier {
	if s.TurnstileSecretKey == "" {
		return nil
	}
	v := &Verifier{secret: s.TurnstileSecretKey, url: s.TurnstileURL, client: &http.Client{
		Transport: tracing.Transport(http.DefaultTransport),
		Timeout:   attemptTimeout,
		// The secret goes to one address.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if v.url == "" {
		v.url = DefaultURL
		if testKey.MatchString(v.secret) {
			v.test = v.secret[0]
		}
	}
	return v
}

// Claim is what a request shows, and what must be true of it.
type Claim struct {
	Token    string
	Action   string                     // that the page must have named when it made the widget
	Hostname func(hostname string) bool // whether a page there is ours
	ClientIP netip.Addr                 // may be invalid: unknown
}

// Verify is nil for a claim that holds. Otherwise the fault says what to do:
// 422 without a token, 403 with one that does not count, 503 when nobody could
// be asked.
func (v *Verifier) Verify(ctx context.Context, c Claim) error {
	if v == nil {
		return nil
	}
	if strings.TrimSpace(c.Token) == "" {
		const message = "Show that you are a person: solve the challenge of the page, and send its token."
		return fault.Invalid(message).Code("turnstile_required").OnField("turnstile_token", "required", message)
	}
	if v.test != 0 {
		return v.tested()
	}
	id := uuid.NewString() // by which Cloudflare knows a repeated question
	var a verdict
	var err error
	for range attempts {
		if a, err = v.ask(ctx, c, id); err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return fault.Unavailable("Whether you are a person could not be checked just now. Try again in a moment.").
			Code("turnstile_unavailable").RetryAfter(attemptTimeout).Because(err)
	}
	switch {
	case !a.Success:
		return Refused(fmt.Errorf("turnstile: %s", strings.Join(a.ErrorCodes, ", ")))
	case a.Action != c.Action:
		return Refused(errors.New("turnstile: the token was made for another action"))
	case a.Hostname == "" || !c.Hostname(a.Hostname):
		return Refused(errors.New("turnstile: the token was made on a page that is not ours"))
	}
	return nil
}

// Refused is the answer to a token that does not count.
func Refused(why error) error {
	const message = "The challenge of the page was not passed, or its token has been used. Solve it again."
	return fault.Forbidden(message).Code("turnstile_failed").OnField("turnstile_token", "refused", message).Because(why)
}

// Digest is how a token that was accepted is remembered.
func Digest(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

func (v *Verifier) tested() error {
	if v.test == '1' {
		return nil
	}
	return Refused(errors.New("turnstile: the test key refuses every token"))
}

// verdict is Cloudflare's answer.
type verdict struct {
	Success    bool     `json:"success"`
	ErrorCodes []string `json:"error-codes"` //nolint:tagliatelle // Cloudflare's name
	Hostname   string   `json:"hostname"`
	Action     string   `json:"action"`
}

// ours are Cloudflare's words for what no other token would mend.
var ours = []string{"missing-input-secret", "invalid-input-secret", "bad-request", "internal-error"}

func (v *Verifier) ask(ctx context.Context, c Claim, id string) (verdict, error) {
	form := url.Values{"secret": {v.secret}, "response": {c.Token}, "idempotency_key": {id}}
	if c.ClientIP.IsValid() {
		form.Set("remoteip", c.ClientIP.String())
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, v.url, strings.NewReader(form.Encode()))
	if err != nil {
		return verdict{}, errors.New("turnstile: the address of the verification is wrong")
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := v.client.Do(request)
	if err != nil {
		return verdict{}, fmt.Errorf("turnstile: %w", err)
	}
	defer response.Body.Close()
	var a verdict
	raw, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return verdict{}, fmt.Errorf("turnstile: read the answer: %w", err)
	}
	if json.Unmarshal(raw, &a) != nil || response.StatusCode >= http.StatusInternalServerError || response.StatusCode == http.StatusTooManyRequests {
		return verdict{}, fmt.Errorf("turnstile: the verification answered with status %d", response.StatusCode)
	}
	if !a.Success && (len(a.ErrorCodes) == 0 || slices.ContainsFunc(a.ErrorCodes, func(code string) bool { return slices.Contains(ours, code) })) {
		return verdict{}, fmt.Errorf("turnstile: the verification refuses us: %s", strings.Join(a.ErrorCodes, ", "))
	}
	if a.Success && response.StatusCode != http.StatusOK {
		return verdict{}, fmt.Errorf("turnstile: the verification answered with status %d", response.StatusCode)
	}
	return a, nil
}
