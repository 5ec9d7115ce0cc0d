package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const (
	dialTimeout = 5 * time.Second
	// How much of an answer is read, to be polite. Nothing of it is kept: what an
	// endpoint says might be somebody else's secret.
	maxAnswer = 64 << 10
)

// newClient makes a client that judges each address when it connects, follows no
// redirect, knows no proxy, and opens a connection per delivery, so that none
// outlives the judgement.
func newClient(o Options) *http.Client {
	dialer := &net.Dialer{Timeout: dialTimeout, Resolver: o.Resolver}
	if !o.AllowPrivate {
		dialer.Control = onlyPublic
	}
	return &http.Client{
		Transport: &http.Transport{
			DialContext: dialer.DialContext, TLSHandshakeTimeout: dialTimeout, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
			DisableKeepAlives: true, MaxResponseHeaderBytes: maxAnswer,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// answerError is an answer that is no success.
type answerError struct{ status int }

func (e *answerError) Error() string {
	if e.status >= 300 && e.status < 400 {
		return fmt.Sprintf("answered %d, and redirects are not followed", e.status)
	}
	return fmt.Sprintf("answered %d", e.status)
}

// send makes one request, signed for this moment.
func send(ctx context.Context, client *http.Client, address, id string, secret, body []byte) (status int, err error) {
	signer, err := standardwebhooks.NewWebhookRaw(secret)
	if err != nil {
		return 0, fmt.Errorf("sign a webhook: %w", err)
	}
	now := time.Now()
	signature, err := signer.Sign(id, now, body)
	if err != nil {
		return 0, fmt.Errorf("sign a webhook: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return 0, fmt.Errorf("make the request: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "Ouvira-Webhooks/1")
	r.Header.Set(standardwebhooks.HeaderWebhookID, id)
	r.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	r.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	answer, err := client.Do(r)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	_, _ = io.CopyN(io.Discard, answer.Body, maxAnswer) // however the rest ends, the status has been said
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return answer.StatusCode, &answerError{answer.StatusCode}
	}
	return answer.StatusCode, nil
}

// explain is what people are told of a failure. The network's own words name
// addresses that are not theirs to know.
func explain(err error) string {
	var answered *answerError
	var name *net.DNSError
	var certificate *tls.CertificateVerificationError
	var network net.Error
	switch {
	case errors.As(err, &answered):
		return answered.Error()
	case errors.Is(err, errPrivate):
		return "the name leads to a private network, to which nothing is sent"
	case errors.As(err, &name) && name.IsNotFound:
		return "the name does not resolve"
	case errors.As(err, &certificate):
		return "the certificate is not valid for this name, or is not trusted"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return "no answer in time"
	}
	return "no connection"
}
