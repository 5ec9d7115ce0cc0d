package server_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/shared/budget"
	"github.com/ouvira/ouvira/shared/testdb"
)

// fixed is a budget as a test sets it.
type fixed struct {
	mu    sync.Mutex
	limit int
	age   time.Duration
}

func (f *fixed) Limit(uuid.UUID, int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.limit
}

func (f *fixed) Age() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.age
}

func (f *fixed) set(limit int, age time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.limit, f.age = limit, age
}

func (*fixed) Instance() string { return "abcdefghij" }
func (*fixed) Short()           {}

// More runs than the share allows wait for a seat.
func TestInvariant01SeatsAreBoundByTheShare(t *testing.T) {
	t.Parallel()
	b := &fixed{limit: 5}
	s, _ := newService(t, server.Options{Budget: b})
	added, err := s.Add(t.Context(), spec("a", testdb.Server(t, testdb.System).URL()), nil)
	if err != nil {
		t.Fatal(err)
	}
	demand := func() budget.Demand { return s.Connections().Demands()[added.ID] }
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			access, err := s.Open(context.Background(), added.ID, 2)
			if err != nil {
				t.Error(err)
				return
			}
			if d := demand(); d.Open > 5 || d.Open < 2 {
				t.Errorf("%d connections of a share of 5", d.Open)
			}
			access.Close()
			access.Close() // a second time gives nothing back
		})
	}
	group.Wait()
	held, err := s.Open(t.Context(), added.ID, 5)
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Open(ended, added.ID, 1); err == nil {
		t.Error("a sixth connection was allowed")
	}
	// The share grows: who waits is let in.
	got := make(chan error, 1)
	go func() {
		access, err := s.Open(context.Background(), added.ID, 2)
		if err == nil {
			access.Close()
		}
		got <- err
	}()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); demand() != (budget.Demand{Open: 5, Wanted: 7}); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", demand())
		}
	}
	b.set(7, 0)
	s.Connections().LimitsChanged()
	if err := <-got; err != nil {
		t.Error(err)
	}
	conn, err := held.Connect(t.Context(), server.Target{ApplicationName: "ouvira/x"})
	if err != nil {
		t.Fatal(err)
	}
	var name string
	if err := conn.QueryRow(t.Context(), "SHOW application_name").Scan(&name); err != nil || name != "ouvira/x/abcdefghij" {
		t.Errorf("the connection is named %q: %v", name, err)
	}
	_ = conn.Close(t.Context())
	// Whom nobody has heard of opens nothing more: its seats may be another's.
	b.set(7, time.Minute)
	if _, err := held.Connect(t.Context(), server.Target{}); err == nil {
		t.Error("a process that may be expelled has connected")
	}
	held.Close()
	if d := demand(); d != (budget.Demand{}) {
		t.Errorf("%+v is left", d)
	}
}

// A server that is new belongs to all processes, not to the one that hears of it
// first and may be killed with all of it.
func TestANewServerIsSharedOut(t *testing.T) {
	t.Parallel()
	s, control := newService(t, server.Options{})
	sequence := 0
	lease := func(instance string) (limit int) {
		t.Helper()
		sequence++
		err := control.Pool.QueryRow(t.Context(), `
			SELECT COALESCE(sum((share ->> 'limit')::int), 0)
			FROM jsonb_array_elements(node.lease_shares($1, $1, 'node', $2, 1, 1, NULL, NULL, 0, '[]') -> 'shares') AS share`, instance, sequence).Scan(&limit)
		if err != nil {
			t.Fatal(err)
		}
		return limit
	}
	// What nobody has been heard of for some time is given out.
	if _, err := control.Pool.Exec(t.Context(), "UPDATE control.share_history SET since = now() - interval '1 hour'"); err != nil {
		t.Fatal(err)
	}
	for _, instance := range []string{"firstfirst", "secondseco"} {
		if limit := lease(instance); limit != 0 {
			t.Errorf("%s may hold %d connections to no server", instance, limit)
		}
	}
	if _, err := s.Add(t.Context(), spec("a", testdb.Server(t, testdb.System).URL()), nil); err != nil {
		t.Fatal(err)
	}
	first, second := lease("firstfirst"), lease("secondseco")
	if first == 0 || second == 0 || max(first, second) > min(first, second)+1 {
		t.Errorf("the first may hold %d connections, the second %d", first, second)
	}
}
