package httpapi_test

import (
	"context"
	"log/slog"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ouvira/ouvira/controlplane/internal/httpapi"
	"github.com/ouvira/ouvira/controlplane/internal/operator"
	"github.com/ouvira/ouvira/controlplane/internal/pulse"
	"github.com/ouvira/ouvira/shared/testdb"
)

// The control database does not refuse, it says nothing: who waits for it, and
// who comes then, is told so, also before it is known who they are.
func TestASilentControlDatabaseIsA503(t *testing.T) {
	t.Parallel()
	var silent atomic.Bool
	heart := pulse.New(func(ctx context.Context) error {
		if silent.Load() {
			<-ctx.Done()
		}
		return ctx.Err()
	}, slog.New(slog.DiscardHandler))
	go heart.Run(t.Context())
	w := newWorld(t, func(o *httpapi.Options) { o.Pulse = heart })
	token := w.operator(t, operator.RoleOwner)

	// Whoever asks for a sign-up or an operator waits for this lock.
	lock := testdb.Connect(t, w.control.SuperuserURL)
	if _, err := lock.Exec(t.Context(), "BEGIN; LOCK TABLE control.tenants, control.operator_sessions IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	answers := make(chan answer, 2)
	go func() { answers <- w.call(t, "", http.MethodPost, "/v1/signups", form("silence")) }()
	go func() { answers <- w.call(t, token, http.MethodGet, "/v1/tenants", nil) }()
	other := testdb.Connect(t, w.control.SuperuserURL)
	eventually(t, "both to wait for the database", func() bool {
		var waiting int
		err := other.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'").Scan(&waiting)
		return err == nil && waiting == 2
	})
	silent.Store(true)
	begun := time.Now()
	check := func(a answer) {
		t.Helper()
		if a.status != http.StatusServiceUnavailable || a.text("code") != "database_unavailable" || a.header.Get("Retry-After") == "" ||
			a.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("got %d %v: %s", a.status, a.header, a.raw)
		}
	}
	check(<-answers)
	check(<-answers)
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("who waited was told after %v", took)
	}
	check(w.call(t, "", http.MethodPost, "/v1/signups", form("silence")))
	check(w.call(t, token, http.MethodGet, "/v1/tenants", nil))

	if _, err := lock.Exec(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	silent.Store(false)
	eventually(t, "the sign-up to be taken again", func() bool {
		return w.call(t, "", http.MethodPost, "/v1/signups", form("silence")).status == http.StatusCreated
	})
	w.want(t, http.StatusOK, token, http.MethodGet, "/v1/tenants", nil)
}
