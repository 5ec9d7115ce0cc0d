package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ouvira/ouvira/dataplane/internal/directory"
	"github.com/ouvira/ouvira/dataplane/internal/load"
	tenantusage "github.com/ouvira/ouvira/dataplane/internal/usage"
	"github.com/ouvira/ouvira/shared/httpserver"
	"github.com/ouvira/ouvira/shared/telemetry"
	"github.com/ouvira/ouvira/shared/tracing"
)

// watch is by what the requests of the node are watched.
type watch struct {
	tracing *tracing.Tracing
	load    *load.Tenants
	usage   *tenantusage.Counter
}

func newWatch(ctx context.Context, s settings, log *slog.Logger, registry *prometheus.Registry, auditing *auditing) (watch, error) {
	tenants, err := load.New(s.TopTenants, registry)
	if err != nil {
		return watch{}, err
	}
	traces, err := tracing.Open(ctx, s.Config, "ouvira-dataplane", telemetry.Version(), s.NodeID, log)
	return watch{traces, tenants, tenantusage.New(auditing.control, s.NodeID, log)}, err
}

// counting reports what tenants use until the returned function is called, after the
// last request.
func counting(ctx context.Context, counter *tenantusage.Counter) (stop func()) {
	reporting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		counter.Run(reporting)
		close(ended)
	}()
	return func() {
		cancel()
		<-ended
	}
}

// routesOld is an age of the routes that says something: they are pulled every
// second.
const routesOld = 10 * time.Second

const (
	// sharesOld is an age of the shares that says something: they are renewed
	// every second.
	sharesOld = 10 * time.Second
	// sharesUnknown is an age that none has: they were never renewed.
	sharesUnknown = 10 * 365 * 24 * time.Hour
)

// routesCheck tells how old the routes are that the node serves by. Old ones
// are no reason not to be ready: the tenants that they name are served.
func routesCheck(routes *directory.Directory) httpserver.Check {
	return httpserver.Check{
		Name: "routes",
		Ready: func(context.Context) error {
			if !routes.Ready() {
				return errors.New("the route table has not been read from the control database yet (OUVIRA_NODE_DATABASE_URL)")
			}
			return nil
		},
		Say: func() string {
			age := routes.Age()
			switch {
			case !routes.Ready():
				return ""
			case routes.FromSnapshot():
				return fmt.Sprintf("served from the snapshot on disk, taken at %s: the control database has not answered since this node began", time.Now().Add(-age).UTC().Format(time.RFC3339))
			case age > routesOld:
				return "the control database does not answer: tenants are served as they were then, and unknown addresses get 503"
			}
			return ""
		},
		Age: func() time.Duration {
			if !routes.Ready() {
				return -1
			}
			return routes.Age()
		},
	}
}

// sharesCheck tells whether the node has a share of the connection budgets, and
// how old it is. It keeps to an old one, so age is no reason not to be ready.
func sharesCheck(leased *shares) httpserver.Check {
	known := func() bool { return leased.Age() < sharesUnknown }
	return httpserver.Check{
		Name: "connections",
		Ready: func(context.Context) error {
			if !leased.Ready() {
				return errors.New("this node has no share of the servers' connection budgets yet: the others have to give some up first (OUVIRA_NODE_DATABASE_URL)")
			}
			return nil
		},
		Say: func() string {
			switch age := leased.Age(); {
			case !leased.Ready():
				return ""
			case !known():
				return "those of the process before, not renewed by the control database since this node began"
			case age > sharesOld:
				return "the control database does not answer: the node keeps to the shares that it has"
			}
			return ""
		},
		Age: func() time.Duration {
			if !known() {
				return -1
			}
			return leased.Age()
		},
	}
}

// busiestTenant is a tenant as /debug/tenants shows it.
type busiestTenant struct {
	Tenant   string    `json:"tenant"`
	TenantID uuid.UUID `json:"tenant_id"`
	Requests int64     `json:"requests"`
	Errors   int64     `json:"errors"`
	Seconds  float64   `json:"database_seconds"`
}

// busiestTenants answers who loads this node: ?by=requests|seconds|errors and
// &limit=.
func busiestTenants(tenants *load.Tenants, shown int) http.HandlerFunc {
	answer := func(w http.ResponseWriter, status int, body any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body) // an operator who has gone cannot be told
	}
	refuse := func(w http.ResponseWriter, why string) {
		answer(w, http.StatusBadRequest, map[string]string{"error": why})
	}
	return func(w http.ResponseWriter, r *http.Request) {
		by, limit := load.ByRequests, shown
		if asked := r.URL.Query().Get("by"); asked != "" {
			by = load.Order(asked)
		}
		if by != load.ByRequests && by != load.BySeconds && by != load.ByErrors {
			refuse(w, "by must be requests, seconds or errors")
			return
		}
		if asked := r.URL.Query().Get("limit"); asked != "" {
			var err error
			if limit, err = strconv.Atoi(asked); err != nil || limit < 1 {
				refuse(w, "limit must be a whole number from 1")
				return
			}
		}
		busiest, exact := tenants.Busiest(by, limit)
		shown := make([]busiestTenant, len(busiest))
		for i, t := range busiest {
			shown[i] = busiestTenant{t.Slug, t.ID, t.Requests, t.Errors, t.Database.Seconds()}
		}
		answer(w, http.StatusOK, map[string]any{
			"by": by, "window_seconds": load.Window.Seconds(), "exact": exact, "tenants": shown,
		})
	}
}
