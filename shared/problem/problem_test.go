package problem_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/problem"
	"github.com/ouvira/ouvira/shared/telemetry"
)

func TestWrite(t *testing.T) {
	t.Parallel()
	ctx, record := telemetry.WithRecord(t.Context(), "req-12345")
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/", http.NoBody)
	w := httptest.NewRecorder()
	problem.Write(w, r, fault.RateLimited("Too many attempts.").Code("login_rate").RetryAfter(100*time.Millisecond).Because(errors.New("bucket 7")))

	var p problem.Problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatal(err)
	}
	want := problem.Problem{Title: "Too Many Requests", Status: 429, Detail: "Too many attempts.", Code: "login_rate", RequestID: "req-12345"}
	if w.Code != 429 || p.Title != want.Title || p.Status != want.Status || p.Detail != want.Detail || p.Code != want.Code || p.RequestID != want.RequestID {
		t.Errorf("got %+v", p)
	}
	if w.Header().Get("Retry-After") != "1" {
		t.Errorf("Retry-After %q: a part of a second must be rounded up", w.Header().Get("Retry-After"))
	}
	logged := ""
	for _, a := range record.Attrs() {
		logged += a.Key + "=" + a.Value.String() + " "
	}
	if !strings.Contains(logged, "error=bucket 7") || !strings.Contains(logged, "code=login_rate") {
		t.Errorf("logged %q", logged)
	}
}

func TestUnauthenticatedSaysHowToSignIn(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	problem.Write(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody), fault.Unauthenticated("Sign in."))
	if w.Code != 401 || w.Header().Get("WWW-Authenticate") != "Bearer" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

func TestSec33MessagesThatMayQuoteTheValueAreReplaced(t *testing.T) {
	t.Parallel()
	problem.Install()
	for _, message := range []string{
		`expected string to be RFC 5322 email: mail: expected single address, got "hunter2"`,
		`expected string to be RFC 3986 uri: parse "hunter2"`,
		`expected string to be RFC 4122 uuid: hunter2`,
		`expected duration: "hunter2"`,
		`something nobody has foreseen: hunter2`,
	} {
		err := huma.NewError(422, "hunter2", &huma.ErrorDetail{Message: message, Location: "body.field", Value: "hunter2"})
		raw, _ := json.Marshal(err)
		var p problem.Problem
		if unmarshalErr := json.Unmarshal(raw, &p); unmarshalErr != nil || len(p.Errors) != 1 || p.Errors[0].Field != "field" || strings.Contains(string(raw), "hunter2") {
			t.Errorf("%s became %s", message, raw)
		}
	}
}

func TestRequestThatIsWrongEverywhereGetsABoundedAnswer(t *testing.T) {
	t.Parallel()
	problem.Install()
	errs := make([]error, 10_000)
	for i := range errs {
		errs[i] = &huma.ErrorDetail{Message: "unexpected property", Location: "body.f" + strings.Repeat("x", i%100)}
	}
	var p *problem.Problem
	if !errors.As(huma.NewError(422, "", errs...), &p) || len(p.Errors) == 0 || len(p.Errors) > 32 {
		t.Errorf("%d field errors", len(p.Errors))
	}
}
