// Package telemetry makes the logger and the metrics registry of a process,
// and keeps the record from which each request's canonical log line is made.
//
// Log records are one JSON object per line: whatever a value contains, a
// newline in it is escaped.
package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// NewLogger writes JSON records of the level and above, each with the name of
// the service.
func NewLogger(w io.Writer, level slog.Level, service string) *slog.Logger {
	handler := slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})
	return slog.New(handler).With(slog.String("service", service))
}

// Level reads a level's name: debug, info, warn or error.
func Level(name string) (slog.Level, error) {
	var level slog.Level
	switch strings.ToLower(name) {
	case "debug", "info", "warn", "error":
		err := level.UnmarshalText([]byte(name))
		return level, err
	case "":
		return slog.LevelInfo, nil
	}
	return level, fmt.Errorf("the log level must be debug, info, warn or error")
}

// NewRegistry has the collectors that every process wants: the Go runtime, the
// process itself and what was built.
func NewRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewBuildInfoCollector(),
	)
	return registry
}

// Version of the running binary: the module's version, else the commit it was
// built from, else "devel".
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value[:min(12, len(s.Value))]
		}
	}
	return "devel"
}
