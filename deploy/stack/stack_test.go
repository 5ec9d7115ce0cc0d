package stack_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ouvira/ouvira/deploy/internal/fakeplane"
	"github.com/ouvira/ouvira/deploy/stack"
)

// The test binary plays the planes' programs, and under this name a process
// that runs a stack and gets killed.
const supervisorProgram = "supervisor"

func TestMain(m *testing.M) {
	if fakeplane.Main() {
		return
	}
	if filepath.Base(os.Args[0]) == supervisorProgram {
		supervise()
	}
	os.Exit(m.Run())
}

// programs links this binary under the names of all programs it plays.
func programs(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range append([]string{supervisorProgram}, fakeplane.Programs...) {
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// state is a folder that the user who runs Postgres can reach, which t.TempDir
// is not for root.
func state(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ouvira-stack-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "state")
}

type report struct {
	mu   sync.Mutex
	text strings.Builder
}

func (r *report) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *report) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

func options(t *testing.T) (stack.Options, *report) {
	t.Helper()
	base, release, err := stack.FreePortBase()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	said := &report{}
	return stack.Options{State: state(t), Bin: programs(t), PortBase: base, Disposable: true, Report: said}, said
}

// Two stacks that start at once, perhaps in two processes, both find their ports
// free, take some seconds to listen on them, and must not meet there.
func TestStacksOfTestsShareNoPort(t *testing.T) {
	t.Parallel()
	owner := map[int]int{}
	for range 5 {
		base, release, err := stack.FreePortBase()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(release)
		p, err := stack.PortsAt(base, 20)
		if err != nil {
			t.Fatal(err)
		}
		for _, port := range slices.Concat(p.Data, p.DataInternal, []int{p.Control, p.ControlInternal, p.WorkerInternal, p.SMTP, p.Mail, p.SMS, p.DNS, p.DNSRecords}) {
			if other, taken := owner[port]; taken {
				t.Errorf("the stacks with bases %d and %d share port %d", other, base, port)
			}
			owner[port] = base
		}
	}
}

func start(t *testing.T, o stack.Options) *stack.Stack {
	t.Helper()
	running, err := stack.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := running.Close(); err != nil {
			t.Error(err)
		}
	})
	return running
}

func allPIDs(d stack.Demo) []int {
	pids := append([]int{d.PIDs.Control, d.Postgres.ControlPID}, d.PIDs.Workers...)
	pids = append(pids, d.PIDs.Data...)
	for _, server := range d.Postgres.Servers {
		pids = append(pids, server.PID)
	}
	return pids
}

func TestAStackTellsItsStoryAndFindsItAgain(t *testing.T) {
	t.Parallel()
	o, said := options(t)
	running := start(t, o)
	demo, err := stack.ReadDemo(o.State)
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range allPIDs(demo) {
		if gone(pid) {
			t.Errorf("process %d of demo.json does not run: %+v", pid, demo)
		}
	}
	if len(demo.Tenants) != 2 || demo.Tenants[0].Slug != "acme" || demo.Tenants[0].Host != "acme.localhost" ||
		demo.BaseDomain != "localhost" || len(demo.DataURLs) != 2 ||
		demo.ControlURL != fmt.Sprintf("http://localhost:%d", 8080+o.PortBase) {
		t.Errorf("demo.json: %+v", demo)
	}
	checkShape(t, filepath.Join(o.State, "demo.json"))
	checkModes(t, o.State)
	login := func(d stack.Demo, api stack.API) {
		t.Helper()
		body := map[string]string{"identifier": d.Tenants[1].OwnerEmail, "password": d.Tenants[1].OwnerPassword}
		if err := api.Want(t.Context(), http.StatusOK, http.MethodPost, "/auth/login", body, nil); err != nil {
			t.Error(err)
		}
	}
	login(demo, running.TenantAPI(1, "globex"))
	if err := running.Close(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range allPIDs(demo) {
		if !gone(pid) {
			t.Errorf("process %d outlived the stack", pid)
		}
	}

	again := start(t, o)
	second := again.Demo()
	if second.Operator != demo.Operator || second.Tenants[1] != demo.Tenants[1] || second.Postgres.Servers[0].URL != demo.Postgres.Servers[0].URL {
		t.Errorf("the second run has other credentials: %+v, then %+v", demo, second)
	}
	login(second, again.TenantAPI(0, "globex"))
	if n := strings.Count(said.String(), "signing up"); n != 2 {
		t.Errorf("%d sign-ups in two runs, want 2:\n%s", n, said)
	}
}

// checkShape compares the names in demo.json with what others rely on.
func checkShape(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]json.RawMessage
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"control_url", "data_urls", "mail_url", "sms_url", "base_domain", "operator", "tenants", "postgres", "pids"} {
		if _, ok := got[name]; !ok {
			t.Errorf("demo.json has no %q", name)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("demo.json has more than it should: %v", got)
	}
	for name, want := range map[string]string{"pids": `"workers": [`, "postgres": `"control_pid": `} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s lacks %s", name, want)
		}
	}
}

func checkModes(t *testing.T, state string) {
	t.Helper()
	for _, name := range []string{"keys/control.key", "keys/data.key", "demo.json", "secrets.json", "supervisor.json"} {
		info, err := os.Stat(filepath.Join(state, name))
		if err != nil {
			t.Error(err)
			continue
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
}

func TestPartsAreKilledReportedAndStarted(t *testing.T) {
	t.Parallel()
	o, said := options(t)
	o.NoTenants = true
	running := start(t, o)

	// Not by us: reported, and not started again.
	worker := running.PID(stack.Worker)
	if err := syscall.Kill(worker, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, "the report of the death", func() bool {
		return strings.Contains(said.String(), fmt.Sprintf("worker (process %d) died", worker))
	})
	if running.PID(stack.Worker) != 0 {
		t.Error("the worker was started again")
	}
	if err := stack.Ask(t.Context(), o.State, "start", "worker"); err != nil {
		t.Fatal(err)
	}
	demo, err := stack.ReadDemo(o.State)
	if err != nil {
		t.Fatal(err)
	}
	if now := running.PID(stack.Worker); now == 0 || now == worker || demo.PIDs.Workers[0] != now {
		t.Errorf("the worker is process %d, demo.json says %v", now, demo.PIDs.Workers)
	}

	// By us, each way, through both doors: silent.
	for _, name := range running.Names() {
		if err := stack.Ask(t.Context(), o.State, "stop", name); err != nil {
			t.Fatalf("stop %s: %v", name, err)
		}
		if running.PID(name) != 0 {
			t.Errorf("%s runs after its stop", name)
		}
		if err := running.Start(t.Context(), name); err != nil {
			t.Fatalf("start %s: %v", name, err)
		}
		if err := running.Kill9(name); err != nil {
			t.Fatalf("kill %s: %v", name, err)
		}
		if err := running.Start(t.Context(), name); err != nil {
			t.Fatalf("start %s after kill -9: %v", name, err)
		}
	}
	if err := running.StopImmediate(stack.PGA); err != nil {
		t.Fatal(err)
	}
	if err := running.Start(t.Context(), stack.PGA); err != nil {
		t.Fatal(err)
	}
	if err := running.StopImmediate(stack.Control); err == nil {
		t.Error("the control plane took an immediate stop")
	}
	if n := strings.Count(said.String(), "died"); n != 1 {
		t.Errorf("%d deaths reported, want 1:\n%s", n, said)
	}
	if err := stack.Ask(t.Context(), o.State, "stop", "nobody"); err == nil || !strings.Contains(err.Error(), "pg-control") {
		t.Errorf("an unknown part: %v", err)
	}
}

// supervise is the process that the test below kills.
func supervise() {
	var o stack.Options
	if err := json.NewDecoder(os.Stdin).Decode(&o); err != nil {
		panic(err)
	}
	if _, err := stack.Start(context.Background(), o); err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	fmt.Println("ready")
	select {}
}

func TestAKilledSupervisorLeavesNothing(t *testing.T) {
	t.Parallel()
	o, _ := options(t)
	o.Report = nil
	given, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(o.Bin, supervisorProgram))
	cmd.Stdin = strings.NewReader(string(given))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Fatalf("%q %v", line, err)
	}
	demo, err := stack.ReadDemo(o.State)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	t.Cleanup(func() {
		for _, pid := range allPIDs(demo) {
			if t.Failed() {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	})
	for _, pid := range allPIDs(demo) {
		await(t, fmt.Sprintf("process %d to end", pid), func() bool { return gone(pid) })
	}
	// The next run takes over at once.
	running := start(t, o)
	if again := running.Demo(); again.Operator != demo.Operator {
		t.Errorf("the next run made another operator: %v", again.Operator)
	}
}

func TestOneStackPerFolder(t *testing.T) {
	t.Parallel()
	o, _ := options(t)
	o.NoTenants = true
	running := start(t, o)
	if _, err := stack.Start(t.Context(), o); err == nil || !strings.Contains(err.Error(), "runs on") {
		t.Errorf("a second stack on the same folder: %v", err)
	}
	if _, err := stack.Reset(o.State); err == nil {
		t.Error("a running stack was reset")
	}
	if running.PID(stack.Control) == 0 {
		t.Error("the first stack suffered")
	}
	if err := running.Close(); err != nil {
		t.Fatal(err)
	}
	stranger := filepath.Join(o.State, "somebody-elses.txt")
	if err := os.WriteFile(stranger, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if removed, err := stack.Reset(o.State); err != nil || len(removed) == 0 {
		t.Errorf("reset removed %v, %v", removed, err)
	}
	left, err := os.ReadDir(o.State)
	if err != nil || len(left) != 1 {
		t.Errorf("the reset left %v, %v", left, err)
	}
	if removed, err := stack.Reset(o.State); err != nil || len(removed) != 0 {
		t.Errorf("the second reset removed %v, %v", removed, err)
	}
}

func TestWhatStandsInTheWayIsNamed(t *testing.T) {
	t.Parallel()
	o, _ := options(t)
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 8001+o.PortBase))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*stack.Options)
		say    []string
	}{
		"busy port":      {func(*stack.Options) {}, []string{fmt.Sprint(8001 + o.PortBase), "OUVIRA_PORT_BASE"}},
		"no binaries":    {func(o *stack.Options) { o.Bin = t.TempDir() }, []string{"controlplane", "make build"}},
		"no folder":      {func(o *stack.Options) { o.State = filepath.Join(file, "state") }, []string{"OUVIRA_STATE"}},
		"ports too high": {func(o *stack.Options) { o.PortBase = 60000 }, []string{"OUVIRA_PORT_BASE"}},
	} {
		broken := o
		c.change(&broken)
		running, err := stack.Start(t.Context(), broken)
		if err == nil {
			_ = running.Close()
			t.Errorf("%s: it started", name)
			continue
		}
		for _, say := range c.say {
			if !strings.Contains(err.Error(), say) {
				t.Errorf("%s: the error does not name %q: %v", name, say, err)
			}
		}
	}
}

func TestAPostgresPortThatIsTakenIsNamed(t *testing.T) {
	t.Parallel()
	o, _ := options(t)
	o.NoTenants = true
	running := start(t, o)
	address, err := url.Parse(running.PostgresURL(stack.PGB))
	if err != nil {
		t.Fatal(err)
	}
	if err := running.Close(); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", address.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	again, err := stack.Start(t.Context(), o)
	if err == nil {
		_ = again.Close()
		t.Fatal("it started")
	}
	if !strings.Contains(err.Error(), address.Port()) || !strings.Contains(err.Error(), "pg-b") || !strings.Contains(err.Error(), "make reset") {
		t.Errorf("the error does not help: %v", err)
	}
}

func TestAPlaneThatDoesNotStartIsShownWithItsLog(t *testing.T) {
	t.Parallel()
	o, _ := options(t)
	o.Env = map[string]map[string]string{stack.Control: {"OUVIRA_DATA_KEY_FILE": "leaked"}}
	running, err := stack.Start(t.Context(), o)
	if err == nil {
		_ = running.Close()
		t.Fatal("it started")
	}
	for _, say := range []string{"start control", "told of the data plane's key", "control.log"} {
		if !strings.Contains(err.Error(), say) {
			t.Errorf("the error does not say %q: %v", say, err)
		}
	}
	if _, err := stack.ReadDemo(o.State); err == nil {
		t.Error("demo.json was written")
	}
}

// gone also counts a zombie as gone: where process 1 does not wait for orphans,
// a dead child keeps its entry.
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
