package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ouvira/ouvira/deploy/internal/fakeplane"
	"github.com/ouvira/ouvira/deploy/stack"
)

// The test binary plays the planes' programs and this one.
func TestMain(m *testing.M) {
	if fakeplane.Main() {
		return
	}
	if filepath.Base(os.Args[0]) == "local" {
		main()
		return
	}
	os.Exit(m.Run())
}

// local is `make run` on a state folder and ports of its own.
type local struct {
	state, bin string
	base       int
}

func newLocal(t *testing.T) local {
	t.Helper()
	base, release, err := stack.FreePortBase()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range append([]string{"local"}, fakeplane.Programs...) {
		if err := os.Symlink(self, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	// For root this folder is one that Postgres's user cannot reach.
	l := local{state: filepath.Join(dir, "state"), bin: bin, base: base}
	t.Cleanup(func() { _, _ = l.command("reset").CombinedOutput() })
	return l
}

func (l local) command(arguments ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(l.bin, "local"), append([]string{"-bin", l.bin}, arguments...)...)
	cmd.Env = append(os.Environ(), "OUVIRA_STATE="+l.state, "OUVIRA_PORT_BASE="+strconv.Itoa(l.base))
	// As in a terminal: Ctrl-C goes to the group.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// run starts it and reads its output up to the line.
func (l local) run(t *testing.T, until string) (cmd *exec.Cmd, said string, rest *bufio.Reader) {
	t.Helper()
	cmd = l.command()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	rest = bufio.NewReader(out)
	for {
		line, err := rest.ReadString('\n')
		said += line
		if err != nil {
			t.Fatalf("it ended early: %s", said)
		}
		if strings.Contains(line, until) {
			return cmd, said, rest
		}
	}
}

func TestCtrlCStopsEverythingInOrder(t *testing.T) {
	t.Parallel()
	l := newLocal(t)
	cmd, said, rest := l.run(t, "Ctrl-C stops everything")
	demo, err := stack.ReadDemo(l.state)
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{demo.Operator.Email, demo.Operator.Password, "http://acme.localhost:", demo.Tenants[0].OwnerPassword, demo.MailURL, demo.Postgres.Servers[1].URL} {
		if !strings.Contains(said, shown) {
			t.Errorf("it does not show %q", shown)
		}
	}
	response, err := http.Get(strings.Replace(demo.MailURL, "localhost", "127.0.0.1", 1) + "/api/v1/messages")
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("the mail catcher answers with %d", response.StatusCode)
	}
	for _, arguments := range [][]string{{"stop", "data-1"}, {"start", "data-1"}} {
		if out, err := l.command(arguments...).CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", arguments, err, out)
		}
	}
	if out, err := l.command("stop", "nothing").CombinedOutput(); err == nil || !strings.Contains(string(out), "data-1") {
		t.Errorf("an unknown part: %v\n%s", err, out)
	}
	after, err := stack.ReadDemo(l.state)
	if err != nil {
		t.Fatal(err)
	}
	if after.PIDs.Data[1] == demo.PIDs.Data[1] || after.PIDs.Data[0] != demo.PIDs.Data[0] {
		t.Errorf("nodes before and after: %v %v", demo.PIDs.Data, after.PIDs.Data)
	}

	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	last, err := io.ReadAll(rest)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	if text := string(last); !strings.Contains(text, "Stopped.") || strings.Contains(text, "died") {
		t.Errorf("it said at the end: %s", text)
	}
	for _, pid := range []int{after.PIDs.Control, after.PIDs.Workers[0], after.PIDs.Data[0], after.PIDs.Data[1], after.Postgres.ControlPID, after.Postgres.Servers[0].PID, after.Postgres.Servers[1].PID} {
		if !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			t.Errorf("process %d is still there", pid)
		}
	}
}

func TestCtrlCDuringTheStart(t *testing.T) {
	t.Parallel()
	l := newLocal(t)
	cmd, _, rest := l.run(t, "Postgres")
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	last, err := io.ReadAll(rest)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(string(last), "Stopped before it was ready.") {
		t.Errorf("%v: %s", err, last)
	}
	// What it left half-made is no obstacle.
	again, _, _ := l.run(t, "Ctrl-C stops everything")
	if err := again.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- again.Wait() }()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Error("SIGTERM does not end it")
	}
}

func TestResetForgetsTheDataWhereverItLies(t *testing.T) {
	t.Parallel()
	l := newLocal(t)
	cmd, _, rest := l.run(t, "Ctrl-C stops everything")
	first, err := stack.ReadDemo(l.state)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := l.command("reset").CombinedOutput(); err == nil {
		t.Errorf("a running stack was forgotten: %s", out)
	}
	_ = cmd.Process.Signal(syscall.SIGINT)
	_, _ = io.Copy(io.Discard, rest)
	_ = cmd.Wait()
	if out, err := l.command("reset").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := os.Stat(l.state); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state folder is still there: %v", err)
	}
	cmd, _, rest = l.run(t, "Ctrl-C stops everything")
	second, err := stack.ReadDemo(l.state)
	if err != nil {
		t.Fatal(err)
	}
	if first.Operator.Password == second.Operator.Password {
		t.Error("the operator survived the reset")
	}
	_ = cmd.Process.Signal(syscall.SIGINT)
	_, _ = io.Copy(io.Discard, rest)
	_ = cmd.Wait()
}

func TestWrongUseIsExplained(t *testing.T) {
	t.Parallel()
	l := newLocal(t)
	for _, c := range []struct {
		arguments []string
		base      string
		say       string
	}{
		{[]string{"dance"}, "0", "start NAME"},
		{[]string{"start"}, "0", "start NAME"},
		{[]string{"start", "worker"}, "0", "make run"},
		{nil, "much", "OUVIRA_PORT_BASE"},
		{[]string{"-bin", "/nowhere"}, fmt.Sprint(l.base), "make build"},
	} {
		cmd := l.command(c.arguments...)
		cmd.Env = append(cmd.Env, "OUVIRA_PORT_BASE="+c.base)
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), c.say) {
			t.Errorf("%v: %v: %s", c.arguments, err, out)
		}
		if strings.Count(strings.TrimSpace(string(out)), "\n") > 0 && c.base != "much" && !strings.Contains(string(out), "usage") {
			t.Errorf("%v: more than a sentence: %s", c.arguments, out)
		}
	}
}
