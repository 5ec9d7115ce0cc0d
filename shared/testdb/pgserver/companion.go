package pgserver

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/ouvira/ouvira/shared/testdb/guardian"
)

// Companion is a program beside a server that, like it, neither runs as root
// nor outlives this process: a pooler in front of it, or another service that a
// benchmark compares with. It has a temporary folder of its own.
type Companion struct {
	dir    string
	keep   func()
	cmd    *exec.Cmd
	exited chan struct{}
}

// companionLog is the file in its folder that a companion writes to.
const companionLog = "output.log"

// StartCompanion writes the files, which may lie in folders, into a temporary
// folder and starts the program there. "{dir}" in an argument or a file stands for the folder. Nobody
// has waited for the program to be ready: see [Companion.Running].
func StartCompanion(files map[string]string, environment []string, program string, arguments ...string) (*Companion, error) {
	who, err := serverAccount()
	if err != nil {
		return nil, err
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return nil, err
	}
	dir, err := who.temporary()
	if err != nil {
		return nil, err
	}
	c := &Companion{dir: dir, exited: closed()}
	if c.keep, err = guardian.Sweep(dir); err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	if err := c.start(who, files, environment, path, arguments); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", program, err), c.Close())
	}
	return c, nil
}

func (c *Companion) start(who account, files map[string]string, environment []string, path string, arguments []string) error {
	inDir := strings.NewReplacer("{dir}", c.dir)
	for name, text := range files {
		file := filepath.Join(c.dir, name)
		if folder := filepath.Dir(file); folder != c.dir {
			if err := errors.Join(os.MkdirAll(folder, 0o755), who.own(folder)); err != nil {
				return err
			}
		}
		if err := os.WriteFile(file, []byte(inDir.Replace(text)), 0o600); err != nil {
			return err
		}
		if err := who.own(file); err != nil {
			return err
		}
	}
	if err := who.own(c.dir); err != nil {
		return err
	}
	output, err := os.OpenFile(filepath.Join(c.dir, companionLog), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer output.Close()
	own := make([]string, len(arguments))
	for i, argument := range arguments {
		own[i] = inDir.Replace(argument)
	}
	c.cmd = exec.Command(path, own...)
	c.cmd.SysProcAttr = who.attributes()
	c.cmd.Dir = c.dir
	c.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + c.dir, "LANG=C.UTF-8", "TZ=UTC"}, environment...)
	c.cmd.Stdout, c.cmd.Stderr = output, output
	if err := c.cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	c.exited = exited
	forget, err := guardian.Watch(c.cmd.Process.Pid, syscall.SIGTERM)
	go func() {
		_ = c.cmd.Wait()
		forget()
		close(exited)
	}()
	return err
}

// Running is nil while the program runs, and otherwise an error with the last
// that it wrote.
func (c *Companion) Running() error {
	select {
	case <-c.exited:
		text, _ := os.ReadFile(filepath.Join(c.dir, companionLog))
		return fmt.Errorf("the program has ended; it said: %s", lastLines(string(text), 8))
	default:
		return nil
	}
}

// Close ends the program and removes its folder.
func (c *Companion) Close() error {
	var err error
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if c.Running() != nil {
			break
		}
		if err = c.cmd.Process.Signal(signal); errors.Is(err, os.ErrProcessDone) {
			err = nil
		}
		select {
		case <-c.exited:
		case <-time.After(stopTimeout):
			err = fmt.Errorf("process %d does not end", c.cmd.Process.Pid)
		}
	}
	err = errors.Join(err, os.RemoveAll(c.dir))
	c.keep()
	return err
}

// FreePort is one that nobody listens on at the moment.
func FreePort() (int, error) { return freePort() }
