package catcher_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ouvira/ouvira/deploy/catcher"
)

func TestNames(t *testing.T) {
	t.Parallel()
	names := &catcher.DNS{}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- names.Serve(ctx, listener) }()
	rest := httptest.NewServer(names.Handler())
	t.Cleanup(func() {
		rest.Close()
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	put := func(body string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, rest.URL+"/records", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		return answer.StatusCode
	}
	var d net.Dialer
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return d.DialContext(ctx, network, listener.Addr().String())
	}}
	ask := func(name string) ([]string, error) { return resolver.LookupTXT(t.Context(), name) }

	var missing *net.DNSError
	for deadline := time.Now().Add(10 * time.Second); ; { // until it listens
		_, err := ask("_ouvira.shop.example.")
		if errors.As(err, &missing) && missing.IsNotFound {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a name that nobody has set: %v", err)
		}
	}
	if status := put(`{"name":"_Ouvira.shop.example","txt":["one","two"]}`); status != http.StatusOK {
		t.Fatalf("set: %d", status)
	}
	if got, err := ask("_ouvira.SHOP.example."); err != nil || strings.Join(got, " ") != "one two" {
		t.Errorf("%v, %v", got, err)
	}
	long := strings.Repeat("x", 255)
	names.Set("long.example", long, long, long) // more than a packet: asked again by TCP
	if got, err := ask("long.example."); err != nil || len(got) != 3 {
		t.Errorf("%d records, %v", len(got), err)
	}
	names.Set("long.example")
	if _, err := ask("long.example."); err == nil {
		t.Error("a record that was taken away is still there")
	}
	for _, wrong := range []string{`{`, `{"name":"","txt":["x"]}`, `{"name":"a.example","txt":[""]}`, `{"name":"a.example","txt":["` + long + `x"]}`} {
		if status := put(wrong); status != http.StatusBadRequest {
			t.Errorf("%s: %d", wrong, status)
		}
	}
	var records []catcher.Record
	if status := get(t, rest.URL+"/records", &records); status != http.StatusOK || len(records) != 1 || records[0].Name != "_ouvira.shop.example." {
		t.Errorf("%d %+v", status, records)
	}
}
