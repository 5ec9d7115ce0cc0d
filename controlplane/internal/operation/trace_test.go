package operation

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/ouvira/ouvira/shared/tracing"
	"github.com/ouvira/ouvira/shared/tracing/tracetest"
)

// Each run is a trace with its steps, and what they ask of the control
// database; why a step failed is told by its kind alone.
func TestARunIsATrace(t *testing.T) {
	t.Parallel()
	collector := tracetest.New(t)
	traces, err := tracing.Open(t.Context(), tracing.Config{TelemetryEndpoint: collector.URL, TracesSampler: "always_on"}, "test", "1", "worker-1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	e := newEngine(t)
	e.runner.Tracing = traces
	e.script.step = func(ctx context.Context, _ *Run, name string) error {
		if _, err := e.db.Exec(ctx, "SELECT 'canary'"); err != nil {
			return err
		}
		if name == "two" {
			return errors.New("canary")
		}
		return nil
	}
	id := e.enqueue(t)
	e.run(t, id)
	if err := traces.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	spans := collector.Spans("")
	run, ok := spans.Find(func(s tracetest.Span) bool { return s.GetName() == "operation test" })
	if !ok || run.Attribute("ouvira.operation_id") != id.String() || run.Attribute("error.type") == "" {
		t.Errorf("the run: %v", run)
	}
	for _, name := range []string{"step one", "step two", "SELECT"} {
		if !spans.Below(run, name) {
			t.Errorf("the run has no %s", name)
		}
	}
	two, _ := spans.Find(func(s tracetest.Span) bool { return s.GetName() == "step two" })
	one, _ := spans.Find(func(s tracetest.Span) bool { return s.GetName() == "step one" })
	if two.Attribute("error.type") == "" || one.Attribute("error.type") != "" {
		t.Errorf("the steps: %v, %v", one, two)
	}
	if collector.Holds("canary") {
		t.Error("values were sent")
	}
	if t.Failed() {
		t.Log(spans)
	}
}
