package pgserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/shared/testdb/guardian"
)

const (
	// A start recovers what a kill left, which takes its time on a busy disk.
	startTimeout = 60 * time.Second
	// How long a polite stop may take before the next less polite one.
	stopTimeout = 15 * time.Second
	// A free port may be taken between our look and the server's bind.
	portAttempts = 5
)

// Server is one Postgres. Its methods may be called from several goroutines.
type Server struct {
	options  Options
	binaries Binaries
	account  account
	dir      string
	keep     func() // nil for a folder that stays
	password string
	port     int

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{}
}

// Start makes the data directory if need be, starts the server and waits until
// it answers. The caller stops it with [Server.Close].
func Start(ctx context.Context, options Options) (*Server, error) {
	s, err := newServer(ctx, options)
	if err != nil {
		return nil, err
	}
	if err := s.prepare(ctx); err != nil {
		_ = s.Close()
		return nil, err
	}
	if err := s.Start(ctx); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

func newServer(ctx context.Context, options Options) (*Server, error) {
	s := &Server{options: options, port: options.Port, exited: closed()}
	var err error
	if s.account, err = serverAccount(); err != nil {
		return nil, err
	}
	if options.Bin != "" {
		s.binaries, err = inspect(ctx, options.Bin)
	} else {
		major := 0
		if options.Dir != "" {
			if major, err = MajorOf(options.Dir); err != nil {
				return nil, err
			}
		}
		s.binaries, err = Locate(ctx, major, "")
	}
	if err != nil {
		return nil, err
	}
	if options.Dir == "" {
		err := s.useTemporary()
		return s, err
	}
	if s.dir, err = filepath.Abs(options.Dir); err != nil {
		return nil, err
	}
	if err := MakeFolder(s.dir); err != nil {
		return nil, fmt.Errorf("%s cannot be made: %w. Choose another folder with OUVIRA_STATE", s.dir, err)
	}
	// The server's user has to pass through.
	if err := os.Chmod(s.dir, 0o711); err != nil {
		return nil, fmt.Errorf("%s belongs to another user: %w. Run as that user, or choose another folder with OUVIRA_STATE", s.dir, err)
	}
	if !s.account.reaches(s.dir) {
		return nil, fmt.Errorf("the user %q, as whom Postgres runs, cannot reach %s: choose a folder below one that every user may enter", s.account.name, s.dir)
	}
	return s, nil
}

func (s *Server) useTemporary() error {
	dir, err := s.account.temporary()
	if err != nil {
		return err
	}
	s.dir = dir
	if s.keep, err = guardian.Sweep(dir); err != nil {
		_ = os.RemoveAll(dir)
		return err
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		_ = s.Close()
		return fmt.Errorf("open %s to Postgres: %w", dir, err)
	}
	return nil
}

// Start starts a server that was stopped or killed, on the port it had before,
// and waits until it answers.
func (s *Server) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for attempt := 1; ; attempt++ {
		port := s.port
		if port == 0 {
			free, err := freePort()
			if err != nil {
				return err
			}
			port = free
		}
		err := s.launch(ctx, port)
		if err == nil {
			s.port = port
			return nil
		}
		busy := strings.Contains(err.Error(), "Address already in use") || strings.Contains(err.Error(), "another server")
		if s.port == 0 && busy && attempt < portAttempts {
			continue
		}
		// The children of a killed server notice its death a moment later and
		// hold its shared memory until then.
		if strings.Contains(err.Error(), "pre-existing shared memory block") && ctx.Err() == nil {
			if waitErr := pause(ctx, 100*time.Millisecond); waitErr == nil {
				continue
			}
		}
		return err
	}
}

func (s *Server) launch(ctx context.Context, port int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running() {
		return nil
	}
	logPath := s.LogFile()
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("the log of Postgres cannot be written: %w. Make its folder writable, or choose another with OUVIRA_STATE", err)
	}
	defer log.Close()
	before, err := log.Seek(0, 2)
	if err != nil {
		return fmt.Errorf("the log of Postgres: %w", err)
	}
	arguments := append([]string{
		"-D", s.dataDir(), "-p", strconv.Itoa(port),
		"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
	}, s.options.arguments()...)
	cmd := exec.Command(filepath.Join(s.binaries.Dir, "postgres"), arguments...)
	cmd.SysProcAttr = s.account.attributes()
	cmd.Env = s.environment()
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s/postgres%s: %w", s.binaries.Dir, s.asUser(), err)
	}
	forget, err := guardian.Watch(cmd.Process.Pid, syscall.SIGQUIT)
	if err != nil {
		_ = cmd.Process.Signal(syscall.SIGQUIT)
		_ = cmd.Wait()
		return err
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		forget()
		close(exited)
	}()
	s.cmd, s.exited = cmd, exited
	if err := s.await(ctx, port, exited); err != nil {
		_ = cmd.Process.Signal(syscall.SIGQUIT)
		<-exited
		return fmt.Errorf("Postgres %s did not start on port %d: %w%s", s.binaries.Version, port, err, complaints(logPath, before))
	}
	return nil
}

// await polls until the server lets us in and proves to be ours.
func (s *Server) await(ctx context.Context, port int, exited <-chan struct{}) error {
	// What holds the port may accept and never speak: the server's end has to
	// cut our question short.
	asking, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-exited:
			cancel()
		case <-asking.Done():
		}
	}()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		ours, err := s.answers(asking, port)
		if ours {
			return nil
		}
		if err != nil {
			last = err
		}
		select {
		case <-exited:
			return errors.New("it ended")
		case <-ctx.Done():
			return fmt.Errorf("it does not answer: %w", errors.Join(last, ctx.Err()))
		case <-tick.C:
		}
	}
}

// answers asks for the data directory, because somebody else's server may have
// the port.
func (s *Server) answers(ctx context.Context, port int) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.address(port, "postgres"))
	if err != nil {
		return false, err
	}
	defer conn.Close(ctx)
	var dir string
	if err := conn.QueryRow(ctx, "SELECT current_setting('data_directory')").Scan(&dir); err != nil {
		return false, err
	}
	theirs, err := os.Stat(dir)
	if err != nil {
		return false, fmt.Errorf("another server answers on port %d, with its data in %s", port, dir)
	}
	mine, err := os.Stat(s.dataDir())
	if err != nil {
		return false, err
	}
	if !os.SameFile(theirs, mine) {
		return false, fmt.Errorf("another server answers on port %d, with its data in %s", port, dir)
	}
	return true, nil
}

// Stop ends the server in order (a fast shutdown): open transactions are rolled
// back, the data is checkpointed. It may be started again.
func (s *Server) Stop() error { return s.end(syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL) }

// StopImmediate ends the server as a crash would, without a checkpoint; the
// next start recovers.
func (s *Server) StopImmediate() error { return s.end(syscall.SIGQUIT, syscall.SIGKILL) }

// Kill sends kill -9 to the server.
func (s *Server) Kill() error { return s.end(syscall.SIGKILL) }

// Close stops the server for good and removes what was temporary.
func (s *Server) Close() error {
	first := syscall.SIGINT
	if s.keep != nil {
		first = syscall.SIGQUIT // no checkpoint for data that goes anyway
	}
	err := s.end(first, syscall.SIGQUIT, syscall.SIGKILL)
	if s.keep == nil {
		return err
	}
	if removeErr := os.RemoveAll(s.dir); removeErr != nil {
		return errors.Join(err, fmt.Errorf("remove the data of a temporary Postgres: %w", removeErr))
	}
	s.keep()
	return err
}

func (s *Server) end(signals ...syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, signal := range signals {
		if !s.running() {
			return nil
		}
		if err := s.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("stop Postgres (process %d): %w", s.cmd.Process.Pid, err)
		}
		select {
		case <-s.exited:
			return nil
		case <-time.After(stopTimeout):
		}
	}
	return fmt.Errorf("Postgres (process %d) does not end", s.cmd.Process.Pid)
}

// running wants the lock held.
func (s *Server) running() bool {
	select {
	case <-s.exited:
		return false
	default:
		return true
	}
}

// complaints are the last lines the server wrote since it was started: it says
// best what it misses.
func complaints(path string, since int64) string {
	text, err := os.ReadFile(path)
	if err != nil || int64(len(text)) <= since {
		return ""
	}
	return "; it said: " + lastLines(string(text[since:]), 6)
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func closed() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}
