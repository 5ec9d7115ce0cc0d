//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/ouvira/ouvira/deploy/stack"
	"github.com/ouvira/ouvira/shared/testdb/pgserver"
)

const (
	// smallDisk makes this test binary the child of TestRel19.
	smallDisk = "OUVIRA_TEST_SMALL_DISK"
	diskSize  = 400 << 20
	// ballast is what a full disk is filled with.
	ballast = "ballast"
)

// A tenant's server has no space left on its disk: its tenants hear 503 and never
// another failure, a tenant that is to be made there waits and says why, the other
// server's tenants notice nothing, and with space again all is well without a restart
// of a node: what was acknowledged is there.
//
// The disk is a small one of its own in a mount namespace of its own, so this test
// runs as a child.
func TestRel19AFullDiskIsItsTenantsOwnTrouble(t *testing.T) {
	t.Parallel()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOnASmallDisk$", "-test.v", fmt.Sprintf("-chaos=%s", *chaos))
	child.Env = append(os.Environ(), smallDisk+"="+t.TempDir())
	child.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if id := os.Getuid(); id != 0 { // who is not root may mount in a user namespace
		const sysAdmin = 21
		child.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: id, HostID: id, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}},
			AmbientCaps: []uintptr{sysAdmin},
		}
	}
	out, err := child.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// TestOnASmallDisk is the child of TestRel19AFullDiskIsItsTenantsOwnTrouble.
func TestOnASmallDisk(t *testing.T) {
	state := os.Getenv(smallDisk)
	if state == "" {
		return // an ordinary run
	}
	place, _, err := pgserver.Place(state)
	must(t, err)
	disk := filepath.Join(place, stack.PGA)
	must(t, pgserver.MakeFolder(disk))
	must(t, syscall.Mount("tmpfs", disk, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0711", diskSize)))
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	s, end, err := up(t.Context(), state, stack.Options{Bin: bin, Disposable: true})
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(logs(s.State()))
		}
		if err := end(); err != nil {
			t.Errorf("stop the stack: %v", err)
		}
	})
	generous(t, s)
	fullDisk(t, s, disk)
}

func fullDisk(t *testing.T, s *stack.Stack, disk string) {
	t.Helper()
	b := newBalancer(t, s)
	on := onBoth(t, s, b)
	operator, err := s.OperatorAPI(t.Context())
	must(t, err)
	hit := work(t, on["a"].app, on["a"].slug, 4, 3000) // of a tenth of a second
	neighbour := work(t, on["b"].app, on["b"].slug, 4, 0)
	hit.more(t, 50)
	pids := fmt.Sprint(s.PID(stack.DataNode(0)), s.PID(stack.DataNode(1)), s.PID(stack.Control), s.PID(stack.Worker))

	fill(t, disk)
	refused := 0
	eventually(t, time.Minute, func() (bool, string) {
		answer, err := on["a"].app.Call(t.Context(), http.MethodPost, "/company", map[string]string{"name": on["a"].slug + " too much"})
		must(t, err)
		switch answer.Status {
		case http.StatusServiceUnavailable:
			refused++
			if answer.Header.Get("Retry-After") == "" {
				t.Errorf("the refusal says not when to try again: %s", answer)
			}
		case http.StatusCreated:
		default:
			t.Errorf("a write to a full disk is answered with %s", answer)
		}
		return refused >= 5, fmt.Sprintf("%d writes were refused", refused)
	})
	neighbour.more(t, 50)
	waits(t, s, operator)

	must(t, os.Remove(filepath.Join(disk, ballast)))
	must(t, s.Start(t.Context(), stack.PGA)) // where Postgres had given up
	hit.more(t, 50)
	idle(t, s)
	if now := fmt.Sprint(s.PID(stack.DataNode(0)), s.PID(stack.DataNode(1)), s.PID(stack.Control), s.PID(stack.Worker)); now != pids {
		t.Errorf("something was restarted: %s before, %s now", pids, now)
	}
	for _, l := range []*load{hit, neighbour} {
		l.stop()
		l.flawless(t)
		address, _ := tenantDatabase(t, s, l.prefix)
		l.replay(t, address)
	}
	if status := column[string](t, s.Demo().Postgres.Control, "SELECT status FROM control.tenants WHERE slug = 'no-space'"); len(status) != 1 || status[0] != "active" {
		t.Errorf("the tenant that waited for space is %v", status)
	}
	clean(t, s)
}

// waits asks for a tenant on the full server: it says that there is no space, and waits
// for it.
func waits(t *testing.T, s *stack.Stack, operator stack.API) {
	t.Helper()
	must(t, operator.Want(t.Context(), http.StatusAccepted, http.MethodPost, "/v1/tenants", map[string]any{
		"slug": "no-space", "name": "Company", "server": "a", "owner": map[string]string{"email": "owner@no-space.example", "full_name": "Owner"},
	}, nil))
	eventually(t, time.Minute, func() (bool, string) {
		why := column[string](t, s.Demo().Postgres.Control, "SELECT o.status || ' ' || COALESCE(o.error::text, '') FROM control.operations o JOIN control.tenants t ON t.id = o.tenant_id WHERE t.slug = 'no-space'")
		if len(why) == 1 && len(why[0]) > len("running ") {
			t.Logf("a tenant on a full server: %s", why[0])
			return true, ""
		}
		return false, fmt.Sprintf("the operation says nothing: %v", why)
	})
}

// fill leaves no byte free.
func fill(t *testing.T, disk string) {
	t.Helper()
	f, err := os.Create(filepath.Join(disk, ballast))
	must(t, err)
	defer f.Close()
	for size := 1 << 20; size >= 1; {
		if _, err := f.Write(make([]byte, size)); err == nil {
			continue
		} else if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		size /= 16
	}
}
