package httpapi_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/httpapi"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/operator"
	"github.com/ouvira/ouvira/shared/pg"
)

// The stream shows the state at once, then each change, and ends by itself.
func TestOperationEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.operator(t, operator.RoleSupport)
	var id uuid.UUID
	err := pg.InTx(t.Context(), w.control.Pool, func(tx pgx.Tx) (err error) {
		id, err = w.rooms.Operations.Enqueue(t.Context(), tx, operation.Spec{Kind: "test.walk", Steps: []string{"left", "right"}, CreatedBy: "test"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	w.want(t, 404, token, "GET", "/v1/operations/01900000-0000-7000-8000-000000000001/events", nil)
	stream := w.open(t, token, "/v1/operations/"+id.String()+"/events")
	if got := stream.next(t); got.Status != operation.Queued || len(got.Steps) != 2 {
		t.Errorf("first event: %+v", got)
	}
	w.exec(t, "UPDATE control.operations SET status = 'running', updated_at = clock_timestamp() WHERE id = $1", id)
	if got := stream.next(t); got.Status != operation.Running {
		t.Errorf("second event: %+v", got)
	}
	w.exec(t, "UPDATE control.operation_steps SET status = 'succeeded' WHERE operation_id = $1", id)
	w.exec(t, "UPDATE control.operations SET status = 'succeeded', updated_at = clock_timestamp() WHERE id = $1", id)
	if got := stream.next(t); got.Status != operation.Succeeded || got.Progress != 1 {
		t.Errorf("third event: %+v", got)
	}
	if _, err := stream.lines.ReadString('\n'); !errors.Is(err, io.EOF) {
		t.Errorf("the stream goes on after the end: %v", err)
	}
	if a := w.want(t, 200, token, "GET", "/v1/operations?kind=test.walk", nil); a.text("items.0.id") != id.String() {
		t.Errorf("unexpected list: %s", a.raw)
	}
}

// A process that is told to stop does not wait for those who watch.
func TestStreamsEndWhenDraining(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var id uuid.UUID
	err := pg.InTx(t.Context(), w.control.Pool, func(tx pgx.Tx) (err error) {
		id, err = w.rooms.Operations.Enqueue(t.Context(), tx, operation.Spec{Kind: "test.walk", Steps: []string{"left"}, CreatedBy: "test"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	stream := w.open(t, w.operator(t, operator.RoleOwner), "/v1/operations/"+id.String()+"/events")
	stream.next(t)
	close(w.draining)
	if _, err := stream.lines.ReadString('\n'); !errors.Is(err, io.EOF) {
		t.Errorf("the stream goes on: %v", err)
	}
}

// Streams outlive the timeouts that end slow requests.
func TestStreamsOutliveTheTimeouts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	handler, err := httpapi.New(w.rooms, httpapi.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	const limit = 400 * time.Millisecond
	s := httptest.NewUnstartedServer(handler)
	s.Config.ReadTimeout, s.Config.WriteTimeout = limit, limit
	s.Start()
	t.Cleanup(s.Close)
	w.url = s.URL
	var id uuid.UUID
	err = pg.InTx(t.Context(), w.control.Pool, func(tx pgx.Tx) (err error) {
		id, err = w.rooms.Operations.Enqueue(t.Context(), tx, operation.Spec{Kind: "test.walk", Steps: []string{"left"}, CreatedBy: "test"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	stream := w.open(t, w.operator(t, operator.RoleOwner), "/v1/operations/"+id.String()+"/events")
	for begun := time.Now(); time.Since(begun) < 4*limit; { // each turn waits for the stream's own look
		stream.next(t)
		w.exec(t, "UPDATE control.operations SET updated_at = clock_timestamp() WHERE id = $1", id)
	}
	w.exec(t, "UPDATE control.operations SET status = 'failed', updated_at = clock_timestamp() WHERE id = $1", id)
	for stream.next(t).Status != operation.Failed {
	}
}

type events struct{ lines *bufio.Reader }

func (w *world) open(t *testing.T, token, path string) *events {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	client := &http.Client{Timeout: 20 * time.Second}
	res, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%d %s", res.StatusCode, res.Header.Get("Content-Type"))
	}
	return &events{bufio.NewReader(res.Body)}
}

func (e *events) next(t *testing.T) (o operation.Operation) {
	t.Helper()
	for {
		line, err := e.lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		data, ok := strings.CutPrefix(line, "data: ")
		if !ok {
			continue
		}
		if err := json.Unmarshal([]byte(data), &o); err != nil {
			t.Fatal(err)
		}
		if line, err = e.lines.ReadString('\n'); err != nil || line != "\n" {
			t.Fatalf("the event does not end: %q %v", line, err)
		}
		return o
	}
}

// So does a look at the servers, which visits hundreds of databases.
func TestALookOutlivesTheTimeouts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	handler, err := httpapi.New(w.rooms, httpapi.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	token := w.operator(t, operator.RoleOwner)
	const limit = 400 * time.Millisecond
	s := httptest.NewUnstartedServer(handler)
	s.Config.ReadTimeout, s.Config.WriteTimeout = limit, limit
	s.Start()
	t.Cleanup(s.Close)
	w.url = s.URL
	tx, err := w.control.Pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	rollback := sync.OnceFunc(func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) })
	defer rollback()
	if _, err := tx.Exec(t.Context(), "LOCK control.tenants"); err != nil { // the look waits
		t.Fatal(err)
	}
	timer := time.AfterFunc(3*limit, rollback)
	defer timer.Stop()
	if a := w.want(t, 200, token, "GET", "/v1/reconcile", nil); a.field("servers") != 0.0 {
		t.Errorf("unexpected answer: %s", a.raw)
	}
}
