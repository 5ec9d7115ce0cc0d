package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strconv"
	"strings"
	"testing"

	"github.com/ouvira/ouvira/shared/telemetry"
)

func TestSec44NewlineInAFieldStaysOneRecord(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := telemetry.NewLogger(&out, slog.LevelInfo, "dataplane")
	log.Info("said\n{\"level\":\"ERROR\"}", slog.String("name", "a\r\nb\u2028c"))
	if n := strings.Count(out.String(), "\n"); n != 1 {
		t.Fatalf("%d lines: %q", n, out.String())
	}
	var record map[string]any
	if err := json.Unmarshal(out.Bytes(), &record); err != nil || record["service"] != "dataplane" {
		t.Errorf("not one JSON record: %v %v", record, err)
	}
}

func TestLevel(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]slog.Level{"": slog.LevelInfo, "debug": slog.LevelDebug, "WARN": slog.LevelWarn} {
		if got, err := telemetry.Level(name); got != want || err != nil {
			t.Errorf("Level(%q) = %v, %v", name, got, err)
		}
	}
	if _, err := telemetry.Level("loud"); err == nil || strings.Contains(err.Error(), "loud") {
		t.Errorf("Level of nonsense: %v", err)
	}
}

func TestAnnotate(t *testing.T) {
	t.Parallel()
	if telemetry.Annotate(context.Background(), "tenant", "acme") {
		t.Error("an annotation outside of a request claims to be kept")
	}
	ctx, record := telemetry.WithRecord(t.Context(), "req-1")
	telemetry.Annotate(ctx, "tenant", "acme")
	telemetry.Annotate(ctx, "tenant", "globex")
	attrs := record.Attrs()
	if telemetry.RequestID(ctx) != "req-1" || len(attrs) != 1 || attrs[0].Value.String() != "globex" {
		t.Errorf("got %q %v", telemetry.RequestID(ctx), attrs)
	}
	before := record.Attrs()
	for i := range 20 { // more than there is room for at first
		telemetry.Add(ctx, slog.Int("n"+strconv.Itoa(i), i), slog.String("tenant", "initech"))
	}
	after := telemetry.AppendAttrs(ctx, nil)
	if len(after) != 21 || after[0].Value.String() != "initech" || after[20].Value.Int64() != 19 || before[0].Value.String() != "globex" {
		t.Errorf("got %v, and before %v", after, before)
	}
}

func TestRegistryGathers(t *testing.T) {
	t.Parallel()
	families, err := telemetry.NewRegistry().Gather()
	if err != nil || len(families) == 0 {
		t.Errorf("Gather: %d families, %v", len(families), err)
	}
}
