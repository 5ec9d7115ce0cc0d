package stack

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// API speaks JSON to one address of a stack. Not every system resolves
// acme.localhost, so a tenant is named by Host while Base is the node's address.
type API struct {
	Base   string
	Host   string
	Token  string
	Header http.Header  // further headers
	Client *http.Client // nil: one that all share
}

// Answer of an API: the status and the body as it came.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

var apiClient = &http.Client{
	Timeout: 30 * time.Second,
	CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	},
}

// Call sends the body as JSON (nil sends none). An error is a failure to speak
// at all; what the other side thinks of the request is in the answer's status.
func (a API) Call(ctx context.Context, method, path string, body any) (Answer, error) {
	var sent io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return Answer{}, fmt.Errorf("%s %s: %w", method, path, err)
		}
		sent = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, a.Base+path, sent)
	if err != nil {
		return Answer{}, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if a.Header != nil {
		request.Header = a.Header.Clone()
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if a.Host != "" {
		request.Host = a.Host
	}
	if a.Token != "" {
		request.Header.Set("Authorization", "Bearer "+a.Token)
	}
	client := a.Client
	if client == nil {
		client = apiClient
	}
	response, err := client.Do(request)
	if err != nil {
		return Answer{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return Answer{}, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return Answer{Status: response.StatusCode, Header: response.Header, Body: text}, nil
}

// Want calls, insists on a status and reads the answer into out (nil ignores it).
func (a API) Want(ctx context.Context, status int, method, path string, body, out any) error {
	answer, err := a.Call(ctx, method, path, body)
	if err != nil {
		return err
	}
	if answer.Status != status {
		return fmt.Errorf("%s %s is answered with %d instead of %d: %s", method, path, answer.Status, status, answer.Body)
	}
	return answer.Into(out)
}

// Into reads the body.
func (a Answer) Into(out any) error {
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(a.Body, out); err != nil {
		return fmt.Errorf("the answer is not the expected JSON: %w", err)
	}
	return nil
}

// poll asks until the answer is yes, an error, or the context's end. What ask
// says while the answer is no ends up in the error.
func poll(ctx context.Context, every time.Duration, what string, ask func(ctx context.Context) (done bool, state string, err error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	last := ""
	for {
		done, state, err := ask(ctx)
		if done && err == nil {
			return nil
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
		if state != "" {
			last = " (" + state + ")"
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited in vain for %s%s: %w", what, last, ctx.Err())
		case <-tick.C:
		}
	}
}

// String is the answer for an error's sentence.
func (a Answer) String() string {
	const shown = 400
	return fmt.Sprintf("%d: %s", a.Status, a.Body[:min(len(a.Body), shown)])
}
