package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/ouvira/ouvira/deploy/catcher"
	"github.com/ouvira/ouvira/shared/testdb/pgserver"
)

// Stack is a running one. Its methods may be called from several goroutines.
type Stack struct {
	options Options
	ports   Ports
	secrets secrets
	mail    *catcher.Mail
	sms     *catcher.SMS
	dns     *catcher.DNS

	lock      *os.File
	listening []func() // stops what this process serves itself
	databases map[string]*database

	// changing is held while a part is started or stopped, so that two requests
	// for the same part come one after the other.
	changing sync.Mutex

	mu    sync.Mutex
	parts map[string]part
	order []string // in which the parts were started
	// intended says whether a part is meant to run: what ends without that is a
	// death to report.
	intended map[string]bool
	demo     *Demo
	closed   bool
}

// Start brings up a whole stack and returns when it is ready: operator, servers
// and demo tenants are there and demo.json is written. When it fails, nothing
// is left running.
func Start(ctx context.Context, options Options) (*Stack, error) {
	options, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	ports, err := PortsAt(options.PortBase, options.DataNodes)
	if err != nil {
		return nil, err
	}
	s := &Stack{
		options: options, ports: ports, mail: &catcher.Mail{}, sms: &catcher.SMS{}, dns: &catcher.DNS{},
		databases: map[string]*database{}, parts: map[string]part{}, intended: map[string]bool{},
	}
	if err := s.up(ctx); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Stack) up(ctx context.Context) error {
	steps := []func(context.Context) error{
		s.takeState,
		s.awaitPorts,
		s.serveCatchers,
		s.startPostgres,
		s.makeKeys,
		s.migrate,
		s.startPrograms,
		s.serveControl,
		s.ensureOperator,
		s.ensureServers,
		s.ensureLimits,
		s.ensureTenants,
		func(context.Context) error { return s.writeDemo() },
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// takeState makes the folder, locks it and reads what an earlier run left.
func (s *Stack) takeState(context.Context) error {
	state := s.options.State
	for _, dir := range []string{state, filepath.Join(state, "log"), filepath.Join(state, "keys")} {
		if err := pgserver.MakeFolder(dir); err != nil {
			return unwritable(err)
		}
	}
	if err := os.Chmod(filepath.Join(state, "keys"), 0o700); err != nil {
		return unwritable(err)
	}
	lock, err := lockState(state)
	if err != nil {
		return err
	}
	s.lock = lock
	// An old demo.json would say "ready" to whoever waits for it.
	if err := os.Remove(s.demoPath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return unwritable(err)
	}
	return s.loadSecrets()
}

// awaitPorts gives the guardian of a stack that was just killed the time to end
// what it left; else a taken port is an error at once.
func (s *Stack) awaitPorts(ctx context.Context) error {
	err := s.portsFree()
	if err == nil || !exists(s.supervisorPath()) {
		return err
	}
	s.say("waiting for what the last run left")
	ctx, cancel := context.WithTimeout(ctx, leftoverTimeout)
	defer cancel()
	if poll(ctx, readyPoll, "", func(context.Context) (bool, string, error) { return s.portsFree() == nil, "", nil }) == nil {
		return nil
	}
	return err
}

// leftoverTimeout is longer than the guardian takes.
const leftoverTimeout = 12 * time.Second

// lockState keeps two stacks out of one folder; the kernel lets go of it
// however we end.
func lockState(state string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(state, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, unwritable(err)
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return file, nil
	}
	_ = file.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("a stack runs on %s already: stop it with Ctrl-C in its terminal, or run a second one beside it: make run OUVIRA_STATE=.ouvira-2 OUVIRA_PORT_BASE=100", state)
	}
	return nil, unwritable(err)
}

// add makes a part known. It is watched from its first start on.
func (s *Stack) add(name string, p part) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parts[name] = p
	s.order = append(s.order, name)
	if p.pid() != 0 {
		s.intended[name] = true
		go s.watch(name, p, p.exited(), p.pid())
	}
}

// watch reports an end that nobody asked for.
func (s *Stack) watch(name string, p part, exited <-chan struct{}, pid int) {
	<-exited
	s.mu.Lock()
	unexpected := s.intended[name] && !s.closed
	s.intended[name] = s.intended[name] && !unexpected
	s.mu.Unlock()
	if !unexpected {
		return
	}
	why := ""
	if program, ok := p.(*program); ok && program.cause != nil {
		why = " (" + program.cause.Error() + ")"
	}
	s.say("%s (process %d) died%s. Start it again with: make start NAME=%s. Its log: %s", name, pid, why, name, p.logFile())
}

// Names are the parts in the order in which they are started.
func (s *Stack) Names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.order)
}

func (s *Stack) part(name string) (part, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.parts[name]; ok {
		return p, nil
	}
	return nil, fmt.Errorf("the stack has no part %q; it has %v", name, s.order)
}

// Start starts a part that was stopped or died and waits until it is ready. A
// part that runs is left alone.
func (s *Stack) Start(ctx context.Context, name string) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	p, err := s.part(name)
	if err != nil {
		return err
	}
	if p.pid() != 0 {
		return nil
	}
	if err := s.launch(ctx, name); err != nil {
		return err
	}
	s.say("%s started (process %d)", name, p.pid())
	s.mu.Lock()
	ready := s.demo != nil
	s.mu.Unlock()
	if ready {
		return s.writeDemo()
	}
	return nil
}

// launch starts a part and watches it once it is ready; before that, its end is
// the error of its start.
func (s *Stack) launch(ctx context.Context, name string) error {
	p, err := s.part(name)
	if err != nil {
		return err
	}
	if err := p.start(ctx); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.intended[name] = true
	go s.watch(name, p, p.exited(), p.pid())
	return nil
}

// Stop ends a part in order and waits for its end.
func (s *Stack) Stop(name string) error { return s.end(name, "stopped", part.stop) }

// Kill9 ends a part with kill -9.
func (s *Stack) Kill9(name string) error { return s.end(name, "killed", part.crash) }

// Pause has a program stand still in the middle of what it does, as a machine
// does that is overloaded or moved (SIGSTOP); Resume has it go on.
func (s *Stack) Pause(name string) error { return s.signal(name, syscall.SIGSTOP) }

// Resume is the end of Pause.
func (s *Stack) Resume(name string) error { return s.signal(name, syscall.SIGCONT) }

func (s *Stack) signal(name string, signal syscall.Signal) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	p, err := s.part(name)
	if err != nil {
		return err
	}
	pid := p.pid()
	if pid == 0 {
		return fmt.Errorf("%s does not run", name)
	}
	return syscall.Kill(pid, signal)
}

// StopImmediate ends a Postgres server without a checkpoint, as its crash would.
func (s *Stack) StopImmediate(name string) error {
	return s.end(name, "stopped at once", func(p part) error {
		d, ok := p.(*database)
		if !ok {
			return errors.New("only a Postgres server knows an immediate stop")
		}
		return d.server.StopImmediate()
	})
}

func (s *Stack) end(name, how string, end func(part) error) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	p, err := s.part(name)
	if err != nil {
		return err
	}
	if p.pid() == 0 {
		return nil
	}
	s.mu.Lock()
	s.intended[name] = false
	s.mu.Unlock()
	err = end(p)
	if p.pid() != 0 {
		s.mu.Lock()
		s.intended[name] = true
		s.mu.Unlock()
	}
	if err != nil {
		return fmt.Errorf("stop %s: %w", name, err)
	}
	s.say("%s %s", name, how)
	return nil
}

// Close stops everything: first what takes requests, last what holds data.
func (s *Stack) Close() error {
	s.changing.Lock()
	defer s.changing.Unlock()
	s.mu.Lock()
	already := s.closed
	s.closed = true
	order := slices.Clone(s.order)
	s.mu.Unlock()
	if already {
		return nil
	}
	// What says "ready" and where goes first.
	_ = os.Remove(s.supervisorPath())
	var failures []error
	fail := func(name string, err error) {
		if err != nil {
			failures = append(failures, fmt.Errorf("stop %s: %w", name, err))
		}
	}
	var group sync.WaitGroup
	var mu sync.Mutex
	stop := func(wanted func(name string) bool) {
		for _, name := range slices.Backward(order) {
			if !wanted(name) {
				continue
			}
			group.Go(func() {
				err := s.parts[name].stop()
				mu.Lock()
				defer mu.Unlock()
				fail(name, err)
			})
		}
		group.Wait()
	}
	isDatabase := func(name string) bool { return s.databases[name] != nil }
	isControl := func(name string) bool { return name == Control || name == Worker }
	stop(func(name string) bool { return !isDatabase(name) && !isControl(name) })
	stop(isControl)
	for _, stopListening := range slices.Backward(s.listening) {
		stopListening()
	}
	stop(isDatabase)
	if s.lock != nil {
		fail("the lock", s.lock.Close())
	}
	return errors.Join(failures...)
}

func (s *Stack) say(format string, arguments ...any) {
	_, _ = fmt.Fprintf(s.options.Report, format+"\n", arguments...)
}
