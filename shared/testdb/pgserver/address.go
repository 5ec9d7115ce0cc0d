package pgserver

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
)

// Exited is closed when the present process of the server ends.
func (s *Server) Exited() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.exited
}

// PID is the process id of the server, 0 when it does not run.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running() {
		return 0
	}
	return s.cmd.Process.Pid
}

// Port the server listens on.
func (s *Server) Port() int { return s.port }

// Dir holds the server's data, password and log.
func (s *Server) Dir() string { return s.dir }

// Binaries are those the server runs on.
func (s *Server) Binaries() Binaries { return s.binaries }

// LogFile is where the server writes.
func (s *Server) LogFile() string {
	if s.options.LogFile != "" {
		return s.options.LogFile
	}
	return filepath.Join(s.dir, "postgres.log")
}

// URL leads the superuser to the database "postgres".
func (s *Server) URL() string { return s.address(s.port, "postgres") }

// DatabaseURL leads the superuser to the database.
func (s *Server) DatabaseURL(database string) string { return s.address(s.port, database) }

func (s *Server) address(port int, database string) string {
	address := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(Superuser, s.password),
		Host:     net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return address.String()
}

// Free ports are looked for below the range from which systems give ports to
// outgoing connections (from 32768 on Linux): a server that is stopped and
// started again must find its port free. The stacks of tests have those below.
const (
	lowestPort  = 26000
	portChoices = 6500
	portTries   = 100
)

func freePort() (int, error) {
	var last error
	for range portTries {
		port := lowestPort + rand.IntN(portChoices)
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			_ = listener.Close()
			return port, nil
		}
		last = err
	}
	return 0, fmt.Errorf("find a free port for Postgres: %w", last)
}
