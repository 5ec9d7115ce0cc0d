package guardian_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ouvira/ouvira/shared/testdb/guardian"
)

// The test binary plays the process that gets killed: started with this
// variable it begins one child, puts it and a folder under guard, reports the
// child's id and waits for its end.
const actAsParent = "GUARDIAN_TEST_FOLDER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(actAsParent); dir != "" {
		parent(dir)
	}
	os.Exit(m.Run())
}

func parent(dir string) {
	sleeper := func() *exec.Cmd {
		child := exec.Command("/bin/sh", "-c", "while :; do sleep 1; done")
		child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := child.Start(); err != nil {
			panic(err)
		}
		return child
	}
	guarded, forgotten := sleeper(), sleeper()
	if _, err := guardian.Watch(guarded.Process.Pid, syscall.SIGTERM); err != nil {
		panic(err)
	}
	forget, err := guardian.Watch(forgotten.Process.Pid, syscall.SIGTERM)
	if err != nil {
		panic(err)
	}
	forget()
	if _, err := guardian.Sweep(filepath.Join(dir, "swept away")); err != nil {
		panic(err)
	}
	keep, err := guardian.Sweep(filepath.Join(dir, "kept"))
	if err != nil {
		panic(err)
	}
	keep()
	fmt.Println(guarded.Process.Pid, forgotten.Process.Pid)
	select {}
}

func TestKilledParentLeavesNoChild(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"swept away", "kept"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), actAsParent+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pids := strings.Fields(line)
	guarded, _ := strconv.Atoi(pids[0])
	forgotten, _ := strconv.Atoi(pids[1])
	t.Cleanup(func() { _ = syscall.Kill(forgotten, syscall.SIGKILL) })

	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()

	await(t, "the guarded child to end", func() bool { return gone(guarded) })
	await(t, "the folder to be swept", func() bool {
		_, err := os.Stat(filepath.Join(dir, "swept away"))
		return errors.Is(err, os.ErrNotExist)
	})
	if gone(forgotten) {
		t.Error("the guardian signalled a process that was taken off its list")
	}
	if _, err := os.Stat(filepath.Join(dir, "kept")); err != nil {
		t.Errorf("the guardian removed a folder that was taken off its list: %v", err)
	}
}

func TestSweepRefusesDangerousFolders(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"", "/", "relative", "/tmp/a\nb", "//"} {
		if _, err := guardian.Sweep(dir); err == nil {
			t.Errorf("Sweep(%q) was accepted", dir)
		}
	}
}

// gone also counts a zombie as gone: where process 1 does not wait for
// orphans, a dead child keeps its entry.
func gone(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(stat), ") Z ")
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(15 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
