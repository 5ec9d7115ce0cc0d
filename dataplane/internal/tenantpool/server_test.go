package tenantpool

import (
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/shared/route"
)

// fakePool is a pool of a tenant of its own that has no pgx pool and is waited
// for by somebody.
func fakePool(p *Pools, s *server, limit int) *pool {
	e := &pool{owner: p, server: s, made: &route.Route{TenantID: uuid.New(), MaxConnections: limit}}
	e.acquiring.Add(1)
	return e
}

// hold gives the pool n permits.
func hold(s *server, e *pool, n int) {
	for range n {
		s.grant(&waiter{pool: e, ready: make(chan error, 1)})
	}
}

func queue(s *server, pools ...*pool) {
	for _, e := range pools {
		s.queue = append(s.queue, &waiter{pool: e, ready: make(chan error, 1)})
	}
	s.press()
}

func TestInvariant07PermitsGoToThePoorestTenant(t *testing.T) {
	t.Parallel()
	p := &Pools{}
	s := newServer(&route.Server{}, nil, slog.New(slog.DiscardHandler))
	rich, poor, poorest, capped := fakePool(p, s, 9), fakePool(p, s, 9), fakePool(p, s, 9), fakePool(p, s, 1)
	hold(s, rich, 3)
	hold(s, poor, 2)
	hold(s, capped, 1)
	queue(s, rich, capped, poor, poorest, poorest)
	for i, want := range []*pool{poorest, poorest, poor, rich, nil} {
		w := s.takePoorest()
		switch {
		case w == nil && want == nil:
			continue
		case w == nil || w.pool != want:
			t.Fatalf("permit %d went to the wrong tenant", i)
		}
		s.grant(w)
	}
	if s.hungry() != 0 {
		t.Error("a tenant at its cap counts as one who could use a permit")
	}
}

func TestInvariant07ARicherTenantYieldsAReleasedConnection(t *testing.T) {
	t.Parallel()
	p := &Pools{}
	s := newServer(&route.Server{}, nil, slog.New(slog.DiscardHandler))
	s.limit = 3
	rich, poor := fakePool(p, s, 9), fakePool(p, s, 9)
	hold(s, rich, 2)
	hold(s, poor, 1)
	if s.yields(rich, &socket{}) {
		t.Error("yields to nobody")
	}
	queue(s, rich)
	if s.yields(rich, &socket{}) || s.yields(poor, &socket{}) {
		t.Error("yields to a tenant that has more, or to itself")
	}
	queue(s, poor)
	if s.yields(poor, &socket{}) {
		t.Error("the poor one yields")
	}
	if !s.yields(rich, &socket{}) {
		t.Error("the rich one does not yield")
	}
	s.limit = 1
	if !s.yields(poor, &socket{}) {
		t.Error("nobody yields to a limit that has been lowered")
	}
}

// Our end is closed, the server's is not yet: the backend lives, and so does
// the permit.
func TestInvariant01APermitReturnsWhenTheServerHasClosed(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	p := &Pools{}
	s := newServer(&route.Server{}, nil, slog.New(slog.DiscardHandler))
	e := fakePool(p, s, 9)
	hold(s, e, 1)
	conn, err := (&permit{pool: e, report: func(error) {}}).dial(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	// Our end has arrived there, and more time than a permit needs has passed.
	if n, err := server.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Fatalf("read %d, %v", n, err)
	}
	select {
	case <-returned(p):
		t.Fatal("the permit came back while the server's end was open")
	case <-time.After(100 * time.Millisecond):
	}
	if _, open, _, _ := s.counts(); open != 1 {
		t.Fatalf("%d permits are out", open)
	}
	_ = server.Close()
	select {
	case <-returned(p):
	case <-time.After(10 * time.Second):
		t.Fatal("the permit did not come back")
	}
	if _, open, _, _ := s.counts(); open != 0 {
		t.Fatalf("%d permits are out", open)
	}
}

// A server that never closes its end costs its permit for a bounded time.
func TestInvariant01AServerThatNeverClosesIsNotWaitedForForEver(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	p := &Pools{}
	s := newServer(&route.Server{}, nil, slog.New(slog.DiscardHandler))
	e := fakePool(p, s, 9)
	hold(s, e, 1)
	conn, err := (&permit{pool: e, report: func(error) {}}).dial(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	select {
	case <-returned(p):
	case <-time.After(5 * closeWithin):
		t.Fatal("the permit did not come back")
	}
}

func returned(p *Pools) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		p.open.Wait()
		close(done)
	}()
	return done
}

func TestInvariant12Verdicts(t *testing.T) {
	t.Parallel()
	for sql, want := range map[string]bool{
		"SELECT 1":                                true,
		"-- name: GetUser :one\nSELECT 1":         true,
		"/* why */ insert into x values (1);":     true,
		"with a as (select 1) select * from a":    true,
		"SET LOCAL lock_timeout = '1s'":           true,
		"set transaction read only":               true,
		"SELECT set_config('a.b', $1, true)":      true,
		"begin isolation level serializable":      true,
		"SET lock_timeout = '1s'":                 false,
		"SELECT 1; set lock_timeout = 0":          false,
		"SELECT set_config('a.b', $1, false)":     false,
		"select Set_Config('a.b', $1, $2)":        false,
		"SELECT '/*'; SET a.b = 1 --*/":           false,
		"/* ; */ SET a.b = 1":                     false,
		"RESET ALL":                               false,
		"LISTEN x":                                false,
		"PREPARE x AS SELECT 1":                   false,
		"DECLARE x CURSOR WITH HOLD FOR SELECT 1": false,
		"CREATE TEMP TABLE x (a int)":             false,
		"LOAD 'x'":                                false,
		"CALL x()":                                false,
		"SET SESSION AUTHORIZATION x":             false,
		"SET ROLE x":                              false,
		"ALTER ROLE x SET search_path = y":        false,
	} {
		if got := judge(sql); got != want {
			t.Errorf("judge(%q) = %v", sql, got)
		}
	}
}
