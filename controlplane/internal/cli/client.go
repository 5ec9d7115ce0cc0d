package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/ouvira/ouvira/shared/pause"
	"github.com/ouvira/ouvira/shared/problem"
	"github.com/ouvira/ouvira/shared/replay"
)

const (
	defaultURL  = "http://localhost:8080"
	callTimeout = 60 * time.Second
	maxAnswer   = 16 << 20
)

// apiError is a refusal of the API.
type apiError struct {
	Status  int
	Problem problem.Problem
}

func (e *apiError) Error() string {
	if e.Problem.Detail != "" {
		return e.Problem.Detail
	}
	return fmt.Sprintf("the control plane answered %d %s", e.Status, http.StatusText(e.Status))
}

func (e *apiError) exitCode() int {
	switch e.Status {
	case http.StatusNotFound:
		return ExitNotFound
	case http.StatusConflict, http.StatusPreconditionFailed:
		return ExitConflict
	case http.StatusUnauthorized, http.StatusForbidden:
		return ExitRefused
	}
	return ExitFailure
}

// client speaks to the control plane as the saved login, or as OUVIRA_TOKEN.
type client struct {
	base    string
	token   string
	session *session // nil: the token is from the environment, or there is none
	// confirm asks a person for their credentials again and shows them; nil when
	// there is nobody to ask.
	confirm func(ctx context.Context) error
	http    *http.Client
}

// client finds out where to go and who we are.
func (a *app) client() (*client, error) {
	c := &client{base: defaultURL, http: &http.Client{Timeout: callTimeout, CheckRedirect: noRedirect}}
	saved, err := a.sessions()
	if err != nil {
		return nil, err
	}
	switch {
	case a.url != "":
		c.base = a.url
	case saved.last() != "":
		c.base = saved.last()
	}
	u, err := url.Parse(c.base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, usageError{errors.New("the address of the control plane must be like https://control.example.com")}
	}
	c.base = u.Scheme + "://" + u.Host + strings.TrimSuffix(u.Path, "/")
	if token := a.Getenv("OUVIRA_TOKEN"); token != "" {
		c.token = token
		return c, nil
	}
	if s := saved.of(c.base); s != nil {
		c.session, c.token = s, s.Access
		if a.ReadSecret != nil {
			c.confirm = func(ctx context.Context) error { return a.confirm(ctx, c) }
		}
	}
	return c, nil
}

// noRedirect keeps the token from travelling to where an answer points.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// call sends body (nil: none) and decodes the answer into out (nil: ignored).
// A saved login whose access token has expired is refreshed once.
func (c *client) call(ctx context.Context, method, path string, body, out any) error {
	raw, err := c.raw(ctx, method, path, body)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("the control plane's answer is not what this release expects: %w", err)
	}
	return nil
}

func (c *client) raw(ctx context.Context, method, path string, body any) ([]byte, error) {
	key := ""
	if method == http.MethodPost {
		key = rand.Text()
	}
	raw, err := c.insist(ctx, method, path, key, body)
	var refused *apiError
	if errors.As(err, &refused) && refused.Status == http.StatusUnauthorized && c.session != nil {
		if refreshed := c.refresh(ctx); refreshed != nil {
			return nil, err
		}
		raw, err = c.insist(ctx, method, path, key, body)
	}
	if errors.As(err, &refused) && refused.Problem.Code == "fresh_login_required" && c.confirm != nil {
		if err := c.confirm(ctx); err != nil {
			return nil, err
		}
		return c.insist(ctx, method, path, key, body)
	}
	return raw, err
}

const (
	// tries of a request that has a key, and the pause between two.
	tries    = 3
	tryPause = time.Second
)

// patient is the client for what may take long. Ctrl-C ends it.
func (c *client) patient() *client {
	calm := *c
	calm.http = &http.Client{CheckRedirect: noRedirect} // without a timeout of the whole
	return &calm
}

// insist sends a request that has a key again when its answer was lost, or the control
// plane says that it could not do it just now: under the same key it is done once.
func (c *client) insist(ctx context.Context, method, path, key string, body any) ([]byte, error) {
	for try := 1; ; try++ {
		raw, err := c.once(ctx, method, path, key, body)
		if key == "" || try == tries || !passing(err) || !pause.For(ctx, tryPause) {
			return raw, err
		}
	}
}

// passing tells of errors that may be over soon. Where nobody listens, nobody is
// waited for.
func passing(err error) bool {
	if refused, ok := errors.AsType[*apiError](err); ok {
		switch refused.Status {
		case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return true
		}
		return refused.Problem.Code == "idempotency_unfinished"
	}
	lost, ok := errors.AsType[*url.Error](err)
	if !ok || errors.Is(err, context.Canceled) {
		return false
	}
	network, ok := errors.AsType[*net.OpError](lost)
	return !ok || network.Op != "dial"
}

func (c *client) request(ctx context.Context, method, path string, body any) (*http.Request, error) {
	var sent io.Reader = http.NoBody
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode the request: %w", err)
		}
		sent = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, sent)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	return r, nil
}

func (c *client) once(ctx context.Context, method, path, key string, body any) ([]byte, error) {
	r, err := c.request(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	if key != "" {
		r.Header.Set(replay.HeaderKey, key)
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, unreachable(c.base, err)
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return nil, unreachable(c.base, &url.Error{Op: method, URL: c.base, Err: err})
	}
	if lost := answer.Header.Get(replay.HeaderOmitted); lost != "" {
		return nil, fmt.Errorf("it has been done, but the answer was lost on its way, and with it what is shown once (%s): take away what was made, and make it again", lost)
	}
	return raw, refusal(answer, raw)
}

// long sends a request whose body or answer may take as long as it likes. The caller
// closes the answer's body. A saved login is renewed before, when the API says so: what
// is read from in is sent once only.
func (c *client) long(ctx context.Context, method, path string, in io.Reader) (*http.Response, error) {
	if err := c.call(ctx, http.MethodGet, "/v1/auth/me", nil, nil); err != nil {
		return nil, err
	}
	r, err := c.request(ctx, method, path, nil)
	if err != nil {
		return nil, err
	}
	if in != nil {
		r.Body = io.NopCloser(in)
		r.ContentLength = -1
		r.Header.Set("Content-Type", "application/x-tar")
	}
	answer, err := c.patient().http.Do(r)
	if err != nil {
		return nil, unreachable(c.base, err)
	}
	if answer.StatusCode >= http.StatusMultipleChoices {
		defer answer.Body.Close()
		raw, _ := io.ReadAll(io.LimitReader(answer.Body, maxAnswer)) // the status says enough
		return nil, refusal(answer, raw)
	}
	return answer, nil
}

// upload sends a file.
func (c *client) upload(ctx context.Context, path string, file io.Reader) (begun, error) {
	var b begun
	answer, err := c.long(ctx, http.MethodPost, path, file)
	if err != nil {
		return b, err
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(answer.Body).Decode(&b); err != nil {
		return b, fmt.Errorf("the control plane's answer is not what this release expects: %w", err)
	}
	return b, nil
}

func unreachable(base string, err error) error {
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted")
	}
	return &silent{base, err}
}

// silent is a control plane that gave no answer.
type silent struct {
	base  string
	cause error
}

func (e *silent) Error() string {
	var network *net.OpError
	if slow, ok := errors.AsType[*url.Error](e.cause); ok && slow.Timeout() && (!errors.As(e.cause, &network) || network.Op != "dial") {
		return "the control plane at " + e.base + " has not answered in time: what was asked for may have been done; look before you ask again"
	}
	return "the control plane does not answer at " + e.base + ": is it running, and is OUVIRA_URL right?"
}

func (e *silent) Unwrap() error { return e.cause }

func refusal(answer *http.Response, raw []byte) error {
	if answer.StatusCode < http.StatusMultipleChoices {
		return nil
	}
	e := &apiError{Status: answer.StatusCode}
	_ = json.Unmarshal(raw, &e.Problem) // a proxy may answer something else
	return e
}

// page is a page of any list.
type page[T any] struct {
	Items      []T     `json:"items"`
	NextCursor *string `json:"next_cursor"`
}

// all follows a list to its end, or until it has limit items (0: no limit).
func all[T any](ctx context.Context, c *client, path string, query url.Values, limit int) ([]T, error) {
	if limit < 0 {
		return nil, usageError{errors.New("--limit is a number of 1 or more, or 0 for all")}
	}
	query.Set("limit", "100")
	var items []T
	for {
		var p page[T]
		if err := c.call(ctx, http.MethodGet, path+"?"+query.Encode(), nil, &p); err != nil {
			return nil, err
		}
		items = append(items, p.Items...)
		if limit > 0 && len(items) >= limit {
			return items[:limit], nil
		}
		if p.NextCursor == nil || *p.NextCursor == "" {
			return items, nil
		}
		query.Set("cursor", *p.NextCursor)
	}
}
