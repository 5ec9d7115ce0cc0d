package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ouvira/ouvira/shared/testdb/guardian"
)

const (
	// A program that is asked to end finishes its requests first.
	stopGrace = 20 * time.Second
	readyPoll = 50 * time.Millisecond
)

// part is one process of the stack that can be stopped and started.
type part interface {
	// start returns when the part is ready for work.
	start(ctx context.Context) error
	// stop ends it in order.
	stop() error
	// crash ends it as a power cut would end the process.
	crash() error
	pid() int
	// exited is closed when the present process ends.
	exited() <-chan struct{}
	// logFile is where it writes.
	logFile() string
}

// program is a part that is one of the planes' binaries.
type program struct {
	path      string
	arguments []string
	// environment is asked at each start, so that tests can change it between.
	environment func() []string
	log         string
	readyURL    string
	readyIn     time.Duration

	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{}
	cause error // why it ended; to be read after ended is closed
}

func (p *program) start(ctx context.Context) error {
	offset, err := p.launch()
	if err != nil {
		return err
	}
	if err := p.awaitReady(ctx); err != nil {
		_ = p.end(syscall.SIGTERM)
		return fmt.Errorf("%w. Its log: %s%s", err, p.log, tail(p.log, offset))
	}
	return nil
}

func (p *program) launch() (logOffset int64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running() {
		return 0, errors.New("it runs already")
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, fmt.Errorf("its log cannot be written: %w", err)
	}
	defer log.Close()
	offset, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("its log: %w", err)
	}
	cmd := exec.Command(p.path, p.arguments...)
	cmd.Env = p.environment()
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own: Ctrl-C at the terminal is for us, and we stop the
	// parts in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start %s: %w", p.path, err)
	}
	forget, err := guardian.Watch(cmd.Process.Pid, syscall.SIGTERM)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return 0, err
	}
	ended := make(chan struct{})
	go func() {
		p.cause = cmd.Wait()
		forget()
		close(ended)
	}()
	p.cmd, p.ended = cmd, ended
	return offset, nil
}

// awaitReady polls /readyz on the internal port.
func (p *program) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.readyIn)
	defer cancel()
	ended := p.exited()
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	last := "no answer"
	for {
		state, err := probe(ctx, p.readyURL)
		if err == nil && state == "" {
			return nil
		}
		if err == nil {
			last = state
		}
		select {
		case <-ended:
			return fmt.Errorf("it ended before it was ready: %w", p.cause)
		case <-ctx.Done():
			return fmt.Errorf("it is not ready (%s): %w", last, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// probe is "" for ready, else what the program says of itself.
func probe(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
	if response.StatusCode == http.StatusOK {
		return "", nil
	}
	return fmt.Sprintf("%s: %s", response.Status, strings.TrimSpace(string(body))), nil
}

func (p *program) stop() error  { return p.end(syscall.SIGTERM) }
func (p *program) crash() error { return p.end(syscall.SIGKILL) }

// end waits without the lock: others may ask for the part meanwhile.
func (p *program) end(signal syscall.Signal) error {
	p.mu.Lock()
	running, cmd, ended := p.running(), p.cmd, p.ended
	p.mu.Unlock()
	if !running {
		return nil
	}
	if err := cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop process %d: %w", cmd.Process.Pid, err)
	}
	select {
	case <-ended:
		return nil
	case <-time.After(stopGrace):
	}
	_ = cmd.Process.Kill()
	<-ended
	return fmt.Errorf("process %d did not end within %s and was killed; its log: %s", cmd.Process.Pid, stopGrace, p.log)
}

// running wants the lock held.
func (p *program) running() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

func (p *program) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return 0
	}
	return p.cmd.Process.Pid
}

func (p *program) exited() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended
}

func (p *program) logFile() string { return p.log }

// tail is the end of what a log got since the offset, for an error.
func tail(path string, offset int64) string {
	text, err := os.ReadFile(path)
	if err != nil || int64(len(text)) <= offset {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(text[offset:])), "\n")
	return "\n  " + strings.Join(lines[max(0, len(lines)-5):], "\n  ")
}
