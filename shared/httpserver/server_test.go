package httpserver_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ouvira/ouvira/shared/httpserver"
)

type addresses struct{ public, internal string }

// start runs a server and gives its addresses, its end and its result.
func start(t *testing.T, o httpserver.Options) (addresses, context.CancelFunc, <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	o.Logger = slog.New(slog.DiscardHandler)
	o.Addr, o.InternalAddr = "127.0.0.1:0", "127.0.0.1:0"
	up := make(chan addresses, 1)
	o.Listening = func(public, internal net.Addr) { up <- addresses{public.String(), internal.String()} }
	ended := make(chan error, 1)
	go func() { ended <- httpserver.Run(ctx, o) }()
	select {
	case a := <-up:
		return a, cancel, ended
	case err := <-ended:
		t.Fatalf("the server did not start: %v", err)
	}
	return addresses{}, nil, nil
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Error(err) // not Fatal: some call this from another goroutine
		return 0, ""
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(body)
}

func TestRunDrains(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	in := httpserver.NewInternal(prometheus.NewRegistry())
	a, stop, ended := start(t, httpserver.Options{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			close(entered)
			<-release
			_, _ = io.WriteString(w, "done")
		}),
		Internal: in, Draining: in.Drain,
	})
	answered := make(chan string, 1)
	go func() {
		_, body := get(t, "http://"+a.public)
		answered <- body
	}()
	<-entered
	stop()
	for deadline := time.Now().Add(5 * time.Second); ; {
		if status, body := get(t, "http://"+a.internal+"/readyz"); status == 503 && strings.Contains(body, "draining") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("readiness did not turn off")
		}
	}
	select {
	case err := <-ended:
		t.Fatalf("the server ended under a running request: %v", err)
	default:
	}
	close(release)
	if body := <-answered; body != "done" {
		t.Errorf("the running request got %q", body)
	}
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestRunGivesUpOnRequestsThatNeverEnd(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{})
	a, stop, ended := start(t, httpserver.Options{
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			close(entered)
			<-r.Context().Done()
		}),
		Internal: httpserver.NewInternal(prometheus.NewRegistry()),
		Drain:    50 * time.Millisecond,
	})
	go get(t, "http://"+a.public)
	<-entered
	stop()
	select {
	case err := <-ended:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Run waits for ever")
	}
}

func TestRunNamesABusyAddress(t *testing.T) {
	t.Parallel()
	a, _, _ := start(t, httpserver.Options{Handler: http.NotFoundHandler(), Internal: httpserver.NewInternal(prometheus.NewRegistry())})
	err := httpserver.Run(t.Context(), httpserver.Options{Logger: slog.New(slog.DiscardHandler), Addr: a.public, Handler: http.NotFoundHandler()})
	if err == nil || !strings.Contains(err.Error(), a.public) || !strings.Contains(err.Error(), "Stop it, or choose another address") {
		t.Errorf("Run: %v", err)
	}
}

func TestReadyzNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	missing := errors.New("the route table has not been loaded yet")
	a, _, _ := start(t, httpserver.Options{
		Handler: http.NotFoundHandler(),
		Internal: httpserver.NewInternal(prometheus.NewRegistry(),
			httpserver.Check{Name: "routes", Ready: func(context.Context) error { return missing }},
			httpserver.Check{Name: "disk", Ready: func(context.Context) error { return nil }},
			httpserver.Check{Name: "turnstile", Note: "off"}),
	})
	status, body := get(t, "http://"+a.internal+"/readyz")
	var answer struct {
		Status string
		Checks []struct {
			Name, Reason, Note string
			Ready              bool
		}
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || status != 503 || len(answer.Checks) != 3 ||
		answer.Checks[0].Ready || answer.Checks[0].Reason != missing.Error() || !answer.Checks[1].Ready ||
		!answer.Checks[2].Ready || answer.Checks[2].Note != "off" {
		t.Errorf("%d %s", status, body)
	}
	if status, _ := get(t, "http://"+a.internal+"/healthz"); status != 200 {
		t.Errorf("healthz: %d", status)
	}
	if status, body := get(t, "http://"+a.internal+"/metrics"); status != 200 {
		t.Errorf("metrics: %d %s", status, body)
	}
	if status, _ := get(t, "http://"+a.public+"/metrics"); status != 404 {
		t.Errorf("metrics are on the public listener: %d", status)
	}
}

// Between the order to end and the end of the listener, requests are served on
// new connections too, readiness is off, and each answer closes its connection.
func TestRunLingers(t *testing.T) {
	t.Parallel()
	internal := httpserver.NewInternal(prometheus.NewRegistry())
	ended := make(chan struct{})
	at, stop, result := start(t, httpserver.Options{
		Handler:  http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "served") }),
		Internal: internal, Linger: 3 * time.Second,
		Draining: func() { internal.Drain(); close(ended) },
	})
	closes := func() bool {
		t.Helper()
		res, err := (&http.Client{Transport: &http.Transport{}}).Get("http://" + at.public)
		if err != nil {
			t.Fatalf("the listener is closed: %v", err)
		}
		defer res.Body.Close()
		if body, err := io.ReadAll(res.Body); err != nil || string(body) != "served" {
			t.Errorf("got %q, %v", body, err)
		}
		return res.Close
	}
	if closes() {
		t.Error("an answer closes its connection though nobody asked for the end")
	}
	stop()
	<-ended
	if !closes() {
		t.Error("the answer keeps its connection open")
	}
	if status, _ := get(t, "http://"+at.internal+"/readyz"); status != http.StatusServiceUnavailable {
		t.Errorf("readiness is %d", status)
	}
	if err := <-result; err != nil {
		t.Error(err)
	}
}
