package httpserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/httpserver"
	"github.com/ouvira/ouvira/shared/problem"
	"github.com/ouvira/ouvira/shared/telemetry"
)

type personInput struct {
	Body struct {
		Email    string         `json:"email" format:"email" maxLength:"254"`
		Password string         `json:"password" minLength:"1" maxLength:"1024"`
		Age      int            `json:"age,omitempty" minimum:"0"`
		Role     string         `json:"role,omitempty" enum:"admin,employee"`
		Extra    map[string]any `json:"extra,omitempty"`
	}
}

// serve is a small service with everything in front that both planes have.
func serve(t *testing.T, log io.Writer, proxies httpserver.Proxies) http.Handler {
	t.Helper()
	router := chi.NewRouter()
	router.Use(httpserver.RequestID, httpserver.AccessLog(telemetry.NewLogger(log, slog.LevelDebug, "test"), httpserver.NewMetrics(prometheus.NewRegistry())),
		httpserver.Recover, httpserver.ClientAddr(proxies), httpserver.SecurityHeaders, httpserver.LimitBody, httpserver.TidyPath("/api"))
	router.NotFound(httpserver.NotFound)
	router.MethodNotAllowed(httpserver.MethodNotAllowed)
	api := httpserver.NewAPI(router, "Test", "1")
	httpserver.MountDocs(router, api)
	huma.Register(api, huma.Operation{OperationID: "create-person", Method: http.MethodPost, Path: "/person"},
		func(ctx context.Context, in *personInput) (*struct{ Body map[string]string }, error) {
			httpserver.Annotate(ctx, "tenant", "acme")
			switch in.Body.Email {
			case "taken@example.com":
				return nil, fault.Conflict("This address is taken.").Code("email_taken").OnField("email", "taken", "Choose another one.").Because(errors.New("users_email_key"))
			case "boom@example.com":
				return nil, fmt.Errorf("select: %w", errors.New("relation secret_table does not exist"))
			case "busy@example.com":
				return nil, fault.Unavailable("Too busy.").RetryAfter(1500 * time.Millisecond)
			case "panic@example.com":
				panic("hunter2 went wrong")
			}
			return &struct{ Body map[string]string }{Body: map[string]string{"client": httpserver.ClientIP(ctx).String()}}, nil
		})
	huma.Register(api, huma.Operation{OperationID: "get-person", Method: http.MethodGet, Path: "/person/{id}"},
		func(_ context.Context, _ *struct {
			ID int64 `path:"id" minimum:"1"`
		},
		) (*struct{}, error) {
			return &struct{}{}, nil
		})
	return router
}

func post(t *testing.T, h http.Handler, path, body string, edit ...func(*http.Request)) (*httptest.ResponseRecorder, problem.Problem) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	for _, e := range edit {
		e(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var p problem.Problem
	if w.Code >= 400 {
		if ct := w.Header().Get("Content-Type"); ct != problem.MediaType {
			t.Errorf("%s: Content-Type %q", path, ct)
		}
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
			t.Errorf("not a problem: %v: %.200s", err, w.Body)
		}
		if p.Status != w.Code || p.RequestID == "" || p.RequestID != w.Header().Get(httpserver.HeaderRequestID) || p.Detail == "" {
			t.Errorf("an incomplete problem: %+v (status %d)", p, w.Code)
		}
	}
	return w, p
}

func TestSec33BadInput(t *testing.T) {
	t.Parallel()
	h := serve(t, io.Discard, nil)
	const secret = "hunter2hunter2"
	pad := func(n int) string { // a valid body of n bytes
		head := `{"email":"a@example.com","password":"x","extra":{"pad":"`
		return head + strings.Repeat("p", n-len(head)-3) + `"}}`
	}
	for name, tc := range map[string]struct {
		body   string
		status int
		code   string
		field  string
	}{
		"good":              {`{"email":"a@example.com","password":"x"}`, 200, "", ""},
		"duplicate key":     {`{"email":"a@example.com","password":"x","password":"hunter2hunter2"}`, 400, "duplicate_key", ""},
		"duplicate by case": {`{"email":"a@example.com","password":"x","Password":"hunter2hunter2"}`, 422, "invalid", "Password"},
		"duplicate deep":    {`{"email":"a@example.com","password":"x","extra":{"a":[{"b":1,"b":2}]}}`, 400, "duplicate_key", ""},
		"depth 32":          {`{"email":"a@example.com","password":"x","extra":{"a":` + strings.Repeat("[", 30) + strings.Repeat("]", 30) + `}}`, 200, "", ""},
		"depth 33":          {`{"email":"a@example.com","password":"x","extra":{"a":` + strings.Repeat("[", 31) + strings.Repeat("]", 31) + `}}`, 400, "too_deep", ""},
		"bomb":              {strings.Repeat("[", 1<<20), 400, "too_deep", ""},
		"not JSON":          {`{"password":"hunter2hunter2"`, 400, "not_json", ""},
		"not JSON at all":   {`hunter2hunter2`, 400, "not_json", ""},
		"two values":        {`{"email":"a@example.com","password":"x"} {"password":"hunter2hunter2"}`, 400, "not_json", ""},
		"bad UTF-8":         {"{\"email\":\"a@example.com\",\"password\":\"hunter2hunter2\xff\"}", 400, "not_text", ""},
		"NUL":               {`{"email":"a@example.com","password":"hunter2hunter2\u0000"}`, 400, "not_text", ""},
		"empty":             {``, 400, "body_required", ""},
		"null":              {`null`, 422, "invalid", ""},
		"a list":            {`["hunter2hunter2"]`, 422, "invalid", ""},
		"missing":           {`{"password":"hunter2hunter2"}`, 422, "invalid", "email"},
		"unknown field":     {`{"email":"a@example.com","password":"hunter2hunter2","is_admin":true}`, 422, "invalid", "is_admin"},
		"unknown odd field": {`{"email":"a@example.com","password":"x","hunter2hunter2 \n":1}`, 422, "invalid", ""},
		"wrong type":        {`{"email":"a@example.com","password":["hunter2hunter2"]}`, 422, "invalid", "password"},
		"fraction":          {`{"email":"a@example.com","password":"x","age":1.5}`, 422, "invalid", "age"},
		"written as float":  {`{"email":"a@example.com","password":"x","age":1.0}`, 422, "wrong_type", ""},
		"huge number":       {`{"email":"a@example.com","password":"x","age":1e400}`, 400, "wrong_type", ""},
		"email":             {`{"email":"hunter2hunter2","password":"x"}`, 422, "invalid", "email"},
		"choice":            {`{"email":"a@example.com","password":"x","role":"hunter2hunter2"}`, 422, "invalid", "role"},
		"1 MiB":             {pad(1 << 20), 200, "", ""},
		"1 MiB + 1":         {pad(1<<20 + 1), 413, "too_large", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, chunked := range []bool{false, true} {
				w, p := post(t, h, "/person", tc.body, func(r *http.Request) {
					if chunked {
						r.ContentLength = -1
					}
				})
				field := ""
				if len(p.Errors) > 0 {
					field = p.Errors[0].Field
				}
				if w.Code != tc.status || p.Code != tc.code || field != tc.field {
					t.Errorf("chunked %v: got %d %q on %q, want %d %q on %q: %.300s", chunked, w.Code, p.Code, field, tc.status, tc.code, tc.field, w.Body)
				}
				if strings.Contains(w.Body.String(), secret) {
					t.Errorf("the answer repeats what it refused: %s", w.Body)
				}
			}
		})
	}
}

func TestOtherRefusals(t *testing.T) {
	t.Parallel()
	h := serve(t, io.Discard, nil)
	w, p := post(t, h, "/person", "<a/>", func(r *http.Request) { r.Header.Set("Content-Type", "application/xml; x=hunter2") })
	if w.Code != 415 || p.Code != "unsupported_media_type" || strings.Contains(w.Body.String(), "hunter2") {
		t.Errorf("XML: %d %s", w.Code, w.Body)
	}
	if w, p = post(t, h, "/nowhere", "{}"); w.Code != 404 || p.Code != "not_found" {
		t.Errorf("unknown path: %d %s", w.Code, w.Body)
	}
	if w, p = post(t, h, "/person/7", "{}"); w.Code != 405 || p.Code != "method_not_allowed" {
		t.Errorf("wrong method: %d %s", w.Code, w.Body)
	}
	if w, _ = post(t, h, "/person/%00", "{}"); w.Code != 400 {
		t.Errorf("NUL in the path: %d %s", w.Code, w.Body)
	}
	get := func(r *http.Request) { r.Method = http.MethodGet }
	if w, p = post(t, h, "/person/hunter2", "", get); w.Code != 422 || p.Errors[0].Field != "id" || strings.Contains(w.Body.String(), "hunter2") {
		t.Errorf("id that is no number: %d %s", w.Code, w.Body)
	}
}

func TestFaultsOfHandlers(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	h := serve(t, &log, nil)
	ask := func(email string) (*httptest.ResponseRecorder, problem.Problem, string) {
		log.Reset()
		w, p := post(t, h, "/api/person/", `{"email":"`+email+`","password":"x"}`)
		return w, p, log.String()
	}

	w, p, line := ask("taken@example.com")
	if w.Code != 409 || p.Code != "email_taken" || p.Detail != "This address is taken." || len(p.Errors) != 1 || p.Errors[0].Code != "taken" {
		t.Errorf("conflict: %d %+v", w.Code, p)
	}
	if strings.Contains(w.Body.String(), "users_email_key") || !strings.Contains(line, "users_email_key") {
		t.Errorf("the cause belongs into the log, not into the answer: %s / %s", w.Body, line)
	}

	w, p, line = ask("boom@example.com")
	if w.Code != 500 || p.Code != "internal" || strings.Contains(w.Body.String(), "secret_table") || !strings.Contains(line, "secret_table") {
		t.Errorf("internal: %d %s / %s", w.Code, w.Body, line)
	}
	var record map[string]any
	if err := json.Unmarshal([]byte(line), &record); err != nil || strings.Count(line, "\n") != 1 {
		t.Fatalf("not one canonical line: %q", line)
	}
	if record["route"] != "/person" || record["status"] != 500.0 || record["tenant"] != "acme" || record["method"] != "POST" || record["level"] != "ERROR" || record["request_id"] != p.RequestID {
		t.Errorf("the canonical line lacks something: %v", record)
	}

	w, _, _ = ask("busy@example.com")
	if w.Code != 503 || w.Header().Get("Retry-After") != "2" {
		t.Errorf("unavailable: %d, Retry-After %q", w.Code, w.Header().Get("Retry-After"))
	}

	w, _, line = ask("panic@example.com")
	if w.Code != 500 || strings.Contains(w.Body.String(), "hunter2") || !strings.Contains(line, "hunter2") || !strings.Contains(line, "stack") {
		t.Errorf("panic: %d %s / %s", w.Code, w.Body, line)
	}
}

func TestRequestIDIsKeptOnlyWhenWellFormed(t *testing.T) {
	t.Parallel()
	h := serve(t, io.Discard, nil)
	for given, kept := range map[string]bool{"0191-abcd.efgh": true, "short": false, "a\nb\nc\nd\ne": false, strings.Repeat("x", 65): false, "<script>alert": false} {
		w, _ := post(t, h, "/person", "", func(r *http.Request) { r.Header.Set(httpserver.HeaderRequestID, given) })
		if got := w.Header().Get(httpserver.HeaderRequestID); (got == given) != kept || got == "" {
			t.Errorf("%q became %q", given, got)
		}
	}
}

// The values that all answers share stay as they are, whatever a handler makes
// of its own headers.
func TestAnswersDoNotShareWhatTheyChange(t *testing.T) {
	t.Parallel()
	h := httpserver.SecurityHeaders(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/frame" {
			w.Header().Set("X-Frame-Options", "SAMEORIGIN")
			w.Header().Add("Referrer-Policy", "origin")
		}
	}))
	for path, want := range map[string]string{"/frame": "SAMEORIGIN no-referrer,origin nosniff", "/": "DENY no-referrer nosniff"} {
		for range 2 {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, http.NoBody))
			header := w.Header()
			got := header.Get("X-Frame-Options") + " " + strings.Join(header.Values("Referrer-Policy"), ",") + " " + header.Get("X-Content-Type-Options")
			if got != want {
				t.Errorf("%s: %s, want %s", path, got, want)
			}
		}
	}
}

func TestDocsComeFromTheBinary(t *testing.T) {
	t.Parallel()
	h := serve(t, io.Discard, nil)
	get := func(path string) *httptest.ResponseRecorder {
		w, _ := post(t, h, path, "", func(r *http.Request) { r.Method = http.MethodGet })
		return w
	}
	for _, path := range []string{"/openapi.json", "/swagger.json", "/api/swagger.json"} {
		var document struct {
			OpenAPI    string                           `json:"openapi"`
			Paths      map[string]any                   `json:"paths"`
			Components struct{ Schemas map[string]any } `json:"components"`
		}
		w := get(path)
		if err := json.Unmarshal(w.Body.Bytes(), &document); err != nil || !strings.HasPrefix(document.OpenAPI, "3.1") || document.Paths["/person"] == nil || document.Components.Schemas["Problem"] == nil {
			t.Errorf("%s: %d %v %.300s", path, w.Code, err, w.Body)
		}
	}
	if w := get("/swagger.yaml"); w.Code != 200 || !strings.Contains(w.Body.String(), "openapi: 3.1") {
		t.Errorf("yaml: %d", w.Code)
	}
	for _, path := range []string{"/swagger", "/swagger/"} {
		w := get(path)
		page := w.Body.String()
		if w.Code != 200 || !strings.Contains(page, "swagger-ui") || strings.Contains(page, "//cdn") || strings.Contains(page, "https://unpkg") {
			t.Errorf("%s: %d %.500s", path, w.Code, page)
		}
	}
	if w := get("/swagger/swagger-ui-bundle.js"); w.Code != 200 || w.Body.Len() < 100_000 {
		t.Errorf("the page's script: %d, %d bytes", w.Code, w.Body.Len())
	}
}

func TestSec02ClientAddr(t *testing.T) {
	t.Parallel()
	proxies, err := httpserver.ParseProxies([]string{"10.0.0.0/8", " 192.0.2.1", ""})
	if err != nil {
		t.Fatal(err)
	}
	h := serve(t, io.Discard, proxies)
	for name, tc := range map[string]struct {
		peer, forwarded, want string
	}{
		"no proxy":                 {"198.51.100.7:1234", "", "198.51.100.7"},
		"an untrusted peer's word": {"198.51.100.7:1234", "203.0.113.9", "198.51.100.7"},
		"a trusted proxy's word":   {"10.1.2.3:1234", "203.0.113.9", "203.0.113.9"},
		"two proxies":              {"10.1.2.3:1234", "203.0.113.9, 192.0.2.1", "203.0.113.9"},
		"what the client wrote":    {"10.1.2.3:1234", "8.8.8.8, 203.0.113.9", "203.0.113.9"},
		"nonsense":                 {"10.1.2.3:1234", "hunter2", "10.1.2.3"},
		"nonsense before":          {"10.1.2.3:1234", "hunter2, 203.0.113.9", "203.0.113.9"},
		"IPv4 in IPv6":             {"[::ffff:10.1.2.3]:1234", "203.0.113.9", "203.0.113.9"},
		"IPv6":                     {"10.1.2.3:1234", "2001:db8::7", "2001:db8::7"},
	} {
		w, _ := post(t, h, "/person", `{"email":"a@example.com","password":"x"}`, func(r *http.Request) {
			r.RemoteAddr = tc.peer
			if tc.forwarded != "" {
				r.Header.Set("X-Forwarded-For", tc.forwarded)
			}
			r.Header.Set("Forwarded", "for=8.8.8.8")
			r.Header.Set("X-Real-Ip", "8.8.8.8")
		})
		if !strings.Contains(w.Body.String(), `"`+tc.want+`"`) {
			t.Errorf("%s: %s, want %s", name, w.Body, tc.want)
		}
	}
	if _, err := httpserver.ParseProxies([]string{"hunter2"}); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("ParseProxies of nonsense: %v", err)
	}
}
