package tracing

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/ouvira/ouvira/shared/config"
)

// Config is the same in both planes: embed them. What else OpenTelemetry
// names (OTEL_EXPORTER_OTLP_HEADERS, OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_…) its
// own libraries read from the environment.
type Config struct {
	TelemetryEndpoint string `env:"OUVIRA_TELEMETRY_ENDPOINT"`
	TracesEndpoint    string `env:"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"`
	TracesProtocol    string `env:"OTEL_EXPORTER_OTLP_PROTOCOL" envDefault:"http/protobuf"`
	TracesSampler     string `env:"OTEL_TRACES_SAMPLER" envDefault:"parentbased_always_on"`
	TracesSamplerArg  string `env:"OTEL_TRACES_SAMPLER_ARG"`
	TelemetryDisabled bool   `env:"OTEL_SDK_DISABLED"`
}

// endpoint is where spans are sent; empty when nobody asks for them.
func (c Config) endpoint() string {
	switch {
	case c.TelemetryDisabled:
		return ""
	case c.TracesEndpoint != "":
		return c.TracesEndpoint
	case c.TelemetryEndpoint != "":
		return strings.TrimRight(c.TelemetryEndpoint, "/") + "/v1/traces"
	}
	return ""
}

// WrongTracing says what is wrong with the settings.
func (c Config) WrongTracing(env config.Environment) []error {
	if c.endpoint() == "" {
		return nil
	}
	var errs []error
	for name, address := range map[string]string{
		"OUVIRA_TELEMETRY_ENDPOINT": c.TelemetryEndpoint, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": c.TracesEndpoint,
	} {
		u, err := url.Parse(address)
		switch {
		case address == "":
		case err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https"):
			errs = append(errs, errors.New(name+": must be an address such as http://localhost:4318"))
		case u.User != nil:
			errs = append(errs, errors.New(name+": must not hold a password; send it in OTEL_EXPORTER_OTLP_HEADERS"))
		case env == config.Production && u.Scheme != "https" && !local(u.Hostname()):
			errs = append(errs, errors.New(name+": production wants https, or a collector on this machine"))
		}
	}
	if c.TracesProtocol != "http/protobuf" {
		errs = append(errs, errors.New("OTEL_EXPORTER_OTLP_PROTOCOL: only http/protobuf is spoken (collectors listen for it on port 4318)"))
	}
	if _, err := c.sampler(); err != nil {
		errs = append(errs, err)
	}
	return errs
}

func local(host string) bool { return host == "localhost" || host == "127.0.0.1" || host == "::1" }

// sampler decides which traces are kept. OpenTelemetry's own reading of these
// variables takes its default for what it cannot read.
func (c Config) sampler() (sdktrace.Sampler, error) {
	ratio := 1.0
	if c.TracesSamplerArg != "" {
		var err error
		if ratio, err = strconv.ParseFloat(c.TracesSamplerArg, 64); err != nil || !(ratio >= 0 && ratio <= 1) {
			return nil, errors.New("OTEL_TRACES_SAMPLER_ARG: must be a number from 0 to 1")
		}
	}
	name, parentBased := strings.CutPrefix(c.TracesSampler, "parentbased_")
	var sampler sdktrace.Sampler
	switch name {
	case "always_on":
		sampler = sdktrace.AlwaysSample()
	case "always_off":
		sampler = sdktrace.NeverSample()
	case "traceidratio":
		sampler = sdktrace.TraceIDRatioBased(ratio)
	default:
		return nil, fmt.Errorf("OTEL_TRACES_SAMPLER: must be always_on, always_off, traceidratio, or one of them with parentbased_ before it")
	}
	if parentBased {
		sampler = sdktrace.ParentBased(sampler)
	}
	return sampler, nil
}
