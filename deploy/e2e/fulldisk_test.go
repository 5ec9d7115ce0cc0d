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
// another failure. A tenant that is to be made there, one that moves there and one that
// is put back to a backup wait and say why, and are served meanwhile; the other server's
// tenants notice nothing. With space again all is well without a restart of a node: what
// was acknowledged is there.
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
	finished(t, s, operator, "/v1/tenants", newTenant("put-back"))
	finished(t, s, operator, "/v1/tenants/put-back/backup", nil)
	backup := column[string](t, s.Demo().Postgres.Control, "SELECT b.id::text FROM control.backups b JOIN control.tenants t ON t.id = b.tenant_id WHERE t.slug = 'put-back'")[0]
	_, moved := tenantDatabase(t, s, on["b"].slug)
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
	for slug, call := range map[string]struct {
		path string
		body any
	}{
		"no-space":   {"/v1/tenants", newTenant("no-space")},
		"put-back":   {"/v1/tenants/put-back/restore", map[string]string{"backup_id": backup}},
		on["b"].slug: {"/v1/tenants/" + on["b"].slug + "/move", map[string]string{"server": "a"}},
	} {
		must(t, operator.Want(t.Context(), http.StatusAccepted, http.MethodPost, call.path, call.body, nil))
		waits(t, s, slug)
	}
	neighbour.more(t, 50)

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
	for _, slug := range []string{"no-space", "put-back", on["b"].slug} {
		is := column[string](t, s.Demo().Postgres.Control, `
			SELECT concat_ws(' ', t.status, t.route_mode, 'on', s.name, o.status, o.error)
			FROM control.tenants t JOIN control.servers s ON s.id = t.server_id
			JOIN LATERAL (SELECT o.status, o.error FROM control.operations o WHERE o.tenant_id = t.id ORDER BY o.id DESC LIMIT 1) o ON true
			WHERE t.slug = $1`, slug)
		if len(is) != 1 || is[0] != "active serve on a succeeded" {
			t.Errorf("%s, which waited for space, is %v", slug, is)
		}
	}
	clean(t, s, moved) // where it was, it is kept for a while
}

func newTenant(slug string) map[string]any {
	return map[string]any{"slug": slug, "name": "Company", "server": "a", "owner": map[string]string{"email": "owner@" + slug + ".example", "full_name": "Owner"}}
}

// waits until the tenant's operation says that it is in want of something.
func waits(t *testing.T, s *stack.Stack, slug string) {
	t.Helper()
	eventually(t, time.Minute, func() (bool, string) {
		why := column[string](t, s.Demo().Postgres.Control, `
			SELECT COALESCE(o.error ->> 'code', '') FROM control.operations o JOIN control.tenants t ON t.id = o.tenant_id
			WHERE t.slug = $1 ORDER BY o.id DESC LIMIT 1`, slug)
		return len(why) == 1 && why[0] == "server_full", fmt.Sprintf("the operation of %s says %q", slug, why)
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
