// Package tracetest is a collector for tests: it takes what a process sends by
// OTLP over HTTP, and tells which spans came.
package tracetest

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Collector listens at URL until the test ends.
type Collector struct {
	URL string

	mu    sync.Mutex
	raw   bytes.Buffer
	spans Spans
}

// New starts a collector.
func New(t testing.TB) *Collector {
	t.Helper()
	c := &Collector{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := c.take(r); err != nil {
			t.Errorf("%s was sent what is no trace: %v", r.URL.Path, err)
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(server.Close)
	c.URL = server.URL
	return c
}

func (c *Collector) take(r *http.Request) error {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		unpacked, err := gzip.NewReader(body)
		if err != nil {
			return err
		}
		body = unpacked
	}
	raw, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	var sent collector.ExportTraceServiceRequest
	if err := proto.Unmarshal(raw, &sent); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raw.Write(raw)
	for _, resource := range sent.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				c.spans = append(c.spans, Span{s})
			}
		}
	}
	return nil
}

// Holds tells whether a text was sent, wherever.
func (c *Collector) Holds(text string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Contains(c.raw.Bytes(), []byte(text))
}

// Spans are those that were sent, of one trace or, for "", of all.
func (c *Collector) Spans(traceID string) (spans Spans) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if traceID == "" || hex.EncodeToString(s.GetTraceId()) == traceID {
			spans = append(spans, s)
		}
	}
	return spans
}

// Span is one span.
type Span struct{ *trace.Span }

// Parent is the id of the span that this one is part of.
func (s Span) Parent() string { return hex.EncodeToString(s.GetParentSpanId()) }

// Attribute is the value of an attribute as text, or "".
func (s Span) Attribute(key string) string {
	i := slices.IndexFunc(s.GetAttributes(), func(a *common.KeyValue) bool { return a.GetKey() == key })
	if i < 0 {
		return ""
	}
	if v, ok := s.GetAttributes()[i].GetValue().GetValue().(*common.AnyValue_IntValue); ok {
		return fmt.Sprint(v.IntValue)
	}
	return s.GetAttributes()[i].GetValue().GetStringValue()
}

// Spans are several.
type Spans []Span

// Find gives the first span that fits.
func (s Spans) Find(fits func(Span) bool) (Span, bool) {
	if i := slices.IndexFunc(s, fits); i >= 0 {
		return s[i], true
	}
	return Span{}, false
}

// Below tells whether there is a span of the name that is part of top, at any
// depth.
func (s Spans) Below(top Span, name string) bool {
	_, found := s.Find(func(span Span) bool {
		if span.GetName() != name {
			return false
		}
		for ok := true; ok; span, ok = s.Find(func(p Span) bool { return bytes.Equal(p.GetSpanId(), span.GetParentSpanId()) }) {
			if bytes.Equal(span.GetSpanId(), top.GetSpanId()) {
				return true
			}
		}
		return false
	})
	return found
}

// String is for failed tests.
func (s Spans) String() string {
	var out bytes.Buffer
	for _, span := range s {
		fmt.Fprintf(&out, "%x below %s: %s %s %v\n", span.GetSpanId(), span.Parent(), span.GetName(), span.Attribute("ouvira.tenant"), span.GetStatus())
	}
	return out.String()
}
