package httpserver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"runtime/debug"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/problem"
	"github.com/ouvira/ouvira/shared/telemetry"
)

// HeaderRequestID carries the request id, both ways.
const HeaderRequestID = "X-Request-Id"

var wellFormedID = regexp.MustCompile(`^[A-Za-z0-9._-]{8,64}$`)

// RequestID gives each request an id, or keeps the well-formed one that it
// came with, and starts its record. It comes first.
func RequestID(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get(HeaderRequestID)
		if id == "" || !wellFormedID.MatchString(id) {
			id = rand.Text()
		}
		w.Header()[HeaderRequestID] = []string{id}
		ctx, _ := telemetry.WithRecord(r.Context(), id)
		next.ServeHTTP(w, r.WithContext(&clientContext{Context: ctx}))
	})
}

// Annotate adds a key to the request's canonical log line.
func Annotate(ctx context.Context, key string, value any) { telemetry.Annotate(ctx, key, value) }

// Recover answers a panic with a neutral 500; the value and the stack go to
// the log. It comes inside AccessLog, so that the line is written.
func Recover(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(v) // net/http's own word for "drop the connection"
			}
			telemetry.Annotate(r.Context(), "stack", string(debug.Stack()))
			problem.Write(w, r, fault.Internal(fmt.Errorf("panic: %v", v)))
		}()
		next.ServeHTTP(w, r)
	})
}

// AccessLog writes one line per request, when it has been answered: who asked
// what, how it went, how long it took, and what was annotated on the way. It
// also feeds the metrics, which may be nil.
func AccessLog(log *slog.Logger, metrics *Metrics) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			start := time.Now()
			ctx := r.Context()
			routing := chi.RouteContext(ctx)
			if routing == nil { // outside of the router: share the context that it will fill
				routing = chi.NewRouteContext()
				r = r.WithContext(context.WithValue(ctx, chi.RouteCtxKey, routing))
			}
			recorder := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
			defer func() {
				status := recorder.Status()
				if status == 0 {
					status = http.StatusOK
				}
				pattern := routePattern(routing)
				took := time.Since(start)
				metrics.observe(r.Method, pattern, status, took)
				var room [16]slog.Attr // so that the attributes stay on the stack
				attrs := append(room[:0],
					slog.String("method", r.Method),
					slog.String("route", pattern),
					slog.Int("status", status),
					slog.Float64("duration_ms", float64(took.Microseconds())/1000),
					slog.Int("bytes", recorder.BytesWritten()),
					slog.String("request_id", telemetry.RequestID(ctx)))
				if level := levelOf(status); log.Enabled(ctx, level) {
					// Without LogAttrs, which finds out from where it was called: always from here.
					line := slog.NewRecord(time.Now(), level, "request", 0)
					line.AddAttrs(telemetry.AppendAttrs(ctx, attrs)...)
					_ = log.Handler().Handle(ctx, line)
				}
			}()
			next.ServeHTTP(recorder, r)
		})
	}
}

// routePattern names the route, never the path: paths hold ids, and the number
// of their values has no bound.
func routePattern(routing *chi.Context) string {
	if pattern := routing.RoutePattern(); pattern != "" && pattern != "/*" {
		return pattern
	}
	return "unmatched"
}

func levelOf(status int) slog.Level {
	switch {
	case status == http.StatusServiceUnavailable:
		return slog.LevelWarn
	case status >= http.StatusInternalServerError:
		return slog.LevelError
	}
	return slog.LevelInfo
}

// What every answer of an API says to browsers. The slices are shared by all
// answers: Header.Set replaces them, and Header.Add copies.
var (
	nosniff    = []string{"nosniff"}
	deny       = []string{"DENY"}
	noReferrer = []string{"no-referrer"}
)

// SecurityHeaders says what every answer of an API says to browsers.
func SecurityHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h["X-Content-Type-Options"], h["X-Frame-Options"], h["Referrer-Policy"] = nosniff, deny, noReferrer
		next.ServeHTTP(w, r)
	})
}

// LimitBody refuses bodies over MaxBody: at once when they say so, else when
// they get there. It also bounds what plain handlers can read.
func LimitBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength > MaxBody {
			problem.Write(w, r, fault.TooLarge("The body is larger than 1 MiB. Send less at once."))
			return
		}
		if r.Body != http.NoBody { // as of nearly every GET
			r.Body = http.MaxBytesReader(w, r.Body, MaxBody)
		}
		next.ServeHTTP(w, r)
	})
}

// TidyPath brings the spellings of a path to one: without a trailing slash,
// and without the prefix ("/api", may be empty). An address with a NUL or with
// invalid UTF-8 is refused, because it would end up in a query that Postgres
// refuses.
func TidyPath(prefix string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !isText(r.URL) {
				problem.Write(w, r, fault.Malformed("The address contains a character that is not text (invalid UTF-8, or NUL)."))
				return
			}
			path, raw := tidy(r.URL.Path, prefix), r.URL.RawPath
			if raw != "" {
				raw = tidy(raw, prefix)
			}
			if path != r.URL.Path {
				u := *r.URL
				u.Path, u.RawPath = path, raw
				copied := *r
				copied.URL = &u
				r = &copied
			}
			next.ServeHTTP(w, r)
		})
	}
}

// isText tells whether path and query can be read at all and are what a
// database can store.
func isText(u *url.URL) bool {
	query, err := url.QueryUnescape(u.RawQuery)
	return err == nil && storable(u.Path) && storable(query)
}

func storable(text string) bool {
	return utf8.ValidString(text) && strings.IndexByte(text, 0) < 0
}

func tidy(path, prefix string) string {
	if prefix != "" && (path == prefix || strings.HasPrefix(path, prefix+"/")) {
		path = path[len(prefix):]
	}
	for len(path) > 1 && path[len(path)-1] == '/' {
		path = path[:len(path)-1]
	}
	if path == "" {
		return "/"
	}
	return path
}

// NotFound answers a path that leads nowhere.
func NotFound(w http.ResponseWriter, r *http.Request) {
	problem.Write(w, r, fault.NotFound("There is nothing at this address. The API is described at /swagger."))
}

// MethodNotAllowed answers a method that the path does not have.
func MethodNotAllowed(w http.ResponseWriter, r *http.Request) {
	problem.WriteStatus(w, r, http.StatusMethodNotAllowed,
		fault.Malformed("This address does not answer this method. The API is described at /swagger.").Code("method_not_allowed"))
}
