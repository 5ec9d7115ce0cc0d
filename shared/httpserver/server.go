// Package httpserver is how both planes serve HTTP: the listeners and their
// end, the middleware in front of every handler, strict JSON, and the API's
// own description.
//
// It promises: every request gets an id and exactly one log line; the internal
// listener (health, metrics) is apart from the public one; a server that is
// told to stop finishes what it has begun, within a bound.
package httpserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// Timeouts against clients that are slow on purpose. Handlers have deadlines
// of their own; streams extend theirs with http.ResponseController.
const (
	readHeaderTimeout = 10 * time.Second
	readTimeout       = 30 * time.Second
	writeTimeout      = 60 * time.Second
	idleTimeout       = 120 * time.Second
	maxHeaderBytes    = 64 << 10
)

// DefaultDrain is how long requests in flight may take after the end was
// asked for.
const DefaultDrain = 20 * time.Second

// Options of Run. Logger, Addr and Handler are required.
type Options struct {
	Logger  *slog.Logger
	Addr    string // public listener, "host:port"
	Handler http.Handler

	InternalAddr string       // empty: no internal listener
	Internal     http.Handler // of NewInternal

	Drain time.Duration // 0 means DefaultDrain
	// Linger is how long the public listener goes on serving after the end was
	// asked for: as long as whoever spreads the requests needs to see that
	// readiness is off. Answers then close their connection, so that no client
	// sends its next request into one that is about to close.
	Linger time.Duration
	// Draining is called when the end was asked for, before the listeners
	// close: readiness turns false there.
	Draining func()
	// Listening is called when both listeners accept, with their addresses.
	Listening func(public, internal net.Addr)
}

// Run serves until ctx ends, then drains and returns. It returns an error when
// a listener cannot be had, fails, or requests outlast the drain.
func Run(ctx context.Context, o Options) error {
	public, err := listen(ctx, o.Addr)
	if err != nil {
		return err
	}
	var ending atomic.Bool
	servers := []*http.Server{newServer(closeWhen(&ending, o.Handler), o.Logger)}
	listeners := []net.Listener{public}
	var internalAddr net.Addr
	if o.InternalAddr != "" {
		internal, err := listen(ctx, o.InternalAddr)
		if err != nil {
			return errors.Join(err, public.Close())
		}
		internalAddr = internal.Addr()
		servers = append(servers, newServer(o.Internal, o.Logger))
		listeners = append(listeners, internal)
	}

	failed := make(chan error, len(servers))
	for i, s := range servers {
		go func() { failed <- s.Serve(listeners[i]) }()
	}
	attrs := []slog.Attr{slog.String("public", public.Addr().String())}
	if internalAddr != nil {
		attrs = append(attrs, slog.String("internal", internalAddr.String()))
	}
	o.Logger.LogAttrs(ctx, slog.LevelInfo, "listening", attrs...)
	if o.Listening != nil {
		o.Listening(public.Addr(), internalAddr)
	}

	var cause error
	select {
	case <-ctx.Done():
	case cause = <-failed:
		cause = fmt.Errorf("serve: %w", cause)
	}
	ending.Store(true)
	if o.Draining != nil {
		o.Draining()
	}
	if cause == nil && o.Linger > 0 {
		select {
		case <-time.After(o.Linger):
		case err := <-failed:
			cause = fmt.Errorf("serve: %w", err)
		}
	}
	return errors.Join(cause, drain(context.WithoutCancel(ctx), o, servers))
}

// closeWhen lets answers close their connection once the end was asked for.
func closeWhen(ending *atomic.Bool, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ending.Load() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// drain ends the public server first; the internal one answers probes until
// the last request is done.
func drain(ctx context.Context, o Options, servers []*http.Server) error {
	limit := o.Drain
	if limit == 0 {
		limit = DefaultDrain
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var errs []error
	for _, s := range servers {
		if err := s.Shutdown(ctx); err != nil {
			errs = append(errs, fmt.Errorf("requests were still running %s after the end was asked for: %w", limit, err), s.Close())
		}
	}
	return errors.Join(errs...)
}

func newServer(handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

func listen(ctx context.Context, addr string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w. Is another process there? Stop it, or choose another address", addr, err)
	}
	return l, nil
}
