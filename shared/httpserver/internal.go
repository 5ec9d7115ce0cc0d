package httpserver

import (
	"cmp"
	"context"
	"encoding/json"
	"math"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// checkTimeout bounds one readiness check.
const checkTimeout = 2 * time.Second

// Check is one thing that must be so for the process to be ready.
type Check struct {
	Name string
	// Ready says why not, in a sentence for operators, or nil. A nil Ready is
	// always ready: the check is there for its note.
	Ready func(ctx context.Context) error
	Note  string // what operators should know though it is no reason not to be ready
	// Say is a note that changes; it goes before Note where it is not empty.
	Say func() string
	// Age is how old that is which the process goes by; negative: nobody knows.
	Age func() time.Duration
}

// Internal is the handler of the internal listener: /healthz (the process
// lives), /readyz (it can serve; names what is missing) and /metrics.
type Internal struct {
	mux      *http.ServeMux
	checks   []Check
	draining atomic.Bool
}

// NewInternal makes the handler.
func NewInternal(gatherer prometheus.Gatherer, checks ...Check) *Internal {
	in := &Internal{mux: http.NewServeMux(), checks: checks}
	in.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	in.mux.HandleFunc("GET /readyz", in.readyz)
	in.mux.Handle("GET /metrics", promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{}))
	return in
}

// Drain turns readiness off for good.
func (in *Internal) Drain() { in.draining.Store(true) }

// Handle adds a handler for operators, such as profiles.
func (in *Internal) Handle(pattern string, h http.Handler) { in.mux.Handle(pattern, h) }

func (in *Internal) ServeHTTP(w http.ResponseWriter, r *http.Request) { in.mux.ServeHTTP(w, r) }

type checkResult struct {
	Name   string `json:"name"`
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitempty"`
	Note   string `json:"note,omitempty"`

	AgeSeconds *float64 `json:"age_seconds,omitempty"`
}

// result asks the check.
func (c Check) result(ctx context.Context) checkResult {
	result := checkResult{Name: c.Name, Ready: true, Note: c.Note}
	if c.Ready != nil {
		if err := c.Ready(ctx); err != nil {
			result.Ready, result.Reason = false, err.Error()
		}
	}
	if c.Say != nil {
		result.Note = cmp.Or(c.Say(), c.Note)
	}
	if c.Age != nil {
		if age := c.Age(); age >= 0 {
			seconds := math.Round(age.Seconds()*10) / 10
			result.AgeSeconds = &seconds
		}
	}
	return result
}

func (in *Internal) readyz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
	defer cancel()
	status, word := http.StatusOK, "ready"
	results := make([]checkResult, 0, len(in.checks)+1)
	if in.draining.Load() {
		results = append(results, checkResult{Name: "draining", Reason: "The process was told to stop and finishes its requests."})
	}
	for _, c := range in.checks {
		results = append(results, c.result(ctx))
	}
	for _, result := range results {
		if !result.Ready {
			status, word = http.StatusServiceUnavailable, "not ready"
		}
	}
	answer(w, status, map[string]any{"status": word, "checks": results})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a prober that has gone cannot be told
}
