// Package guardian makes sure that no child outlives this process, not even
// when this process is killed with a signal that nobody can catch.
//
// It keeps one small shell per process that reads from a pipe whose only
// writing end is ours. The kernel closes that end however we die; the shell
// then reads the end of the file, signals every process that is still on its
// list, waits for them, kills what is left and removes the folders it was told
// to sweep. A shell and a pipe are on every system that runs Postgres, so this
// needs no second binary and works inside `go test`.
//
// Invariants:
//   - a process id is on the list only while the caller vouches for it: take it
//     off (the returned function) as soon as the child was waited for, because
//     the kernel gives ids to others again;
//   - the shell leads a process group of its own and ignores Ctrl-C, so what
//     stops us does not stop it;
//   - when the shell itself was killed, the next call starts another one with
//     the whole list.
package guardian

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// The list is a string of "pid:signal" words, which every POSIX shell can hold.
// Folders are one per line because their names may contain spaces.
const script = `
trap '' INT TERM HUP QUIT PIPE
list=
dirs=
nl='
'
while read -r op what; do
	case $op in
	watch) list="$list $what" ;;
	forget)
		rest=
		for entry in $list; do [ "${entry%%:*}" = "$what" ] || rest="$rest $entry"; done
		list=$rest ;;
	sweep) dirs="$dirs$what$nl" ;;
	keep) dirs=$(printf '%s' "$dirs" | while IFS= read -r d; do [ "$d" = "$what" ] || printf '%s\n' "$d"; done)
		[ -z "$dirs" ] || dirs="$dirs$nl" ;;
	esac
done
for entry in $list; do kill -s "${entry#*:}" "${entry%%:*}" 2>/dev/null; done
tries=0
while [ $tries -lt 50 ]; do
	alive=
	for entry in $list; do kill -s 0 "${entry%%:*}" 2>/dev/null && alive=yes; done
	[ -z "$alive" ] && break
	sleep 0.1
	tries=$((tries + 1))
done
for entry in $list; do kill -s KILL "${entry%%:*}" 2>/dev/null; done
printf '%s' "$dirs" | while IFS= read -r d; do [ -n "$d" ] && rm -rf -- "$d"; done
exit 0
`

// one is the guardian of this process; a process needs no second.
var one guardian

type guardian struct {
	mu      sync.Mutex
	pipe    io.WriteCloser
	watched map[int]syscall.Signal
	swept   map[string]bool
}

// Watch asks for the signal to be sent to the process when this one ends, by
// whatever cause. Call forget once the child was waited for.
func Watch(pid int, signal syscall.Signal) (forget func(), err error) {
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.watched == nil {
		one.watched = map[int]syscall.Signal{}
	}
	one.watched[pid] = signal
	if err := one.tell(watchLine(pid, signal)); err != nil {
		delete(one.watched, pid)
		return func() {}, err
	}
	return func() {
		one.mu.Lock()
		defer one.mu.Unlock()
		if _, known := one.watched[pid]; !known {
			return
		}
		delete(one.watched, pid)
		_ = one.tell(fmt.Sprintf("forget %d", pid))
	}, nil
}

// Sweep asks for the folder to be removed when this process ends without having
// called keep. Only for folders this process made for itself.
func Sweep(dir string) (keep func(), err error) {
	clean := filepath.Clean(dir)
	if !filepath.IsAbs(clean) || clean == "/" || strings.ContainsAny(clean, "\n\r") || strings.TrimSpace(clean) != clean {
		return func() {}, fmt.Errorf("guardian: %q is not a folder that may be swept", dir)
	}
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.swept == nil {
		one.swept = map[string]bool{}
	}
	one.swept[clean] = true
	if err := one.tell("sweep " + clean); err != nil {
		delete(one.swept, clean)
		return func() {}, err
	}
	return func() {
		one.mu.Lock()
		defer one.mu.Unlock()
		if !one.swept[clean] {
			return
		}
		delete(one.swept, clean)
		_ = one.tell("keep " + clean)
	}, nil
}

func watchLine(pid int, signal syscall.Signal) string {
	return fmt.Sprintf("watch %d:%s", pid, strings.TrimPrefix(unix.SignalName(signal), "SIG"))
}

// tell writes one line, starting the shell when there is none (any more). The
// maps hold the new entry already, so a fresh shell learns it with the rest.
func (g *guardian) tell(line string) error {
	if g.pipe != nil {
		if _, err := io.WriteString(g.pipe, line+"\n"); err == nil {
			return nil
		}
		_ = g.pipe.Close()
		g.pipe = nil
	}
	if err := g.start(); err != nil {
		return err
	}
	for pid, signal := range g.watched {
		if _, err := io.WriteString(g.pipe, watchLine(pid, signal)+"\n"); err != nil {
			return fmt.Errorf("guardian: tell the guarding shell: %w", err)
		}
	}
	for dir := range g.swept {
		if _, err := io.WriteString(g.pipe, "sweep "+dir+"\n"); err != nil {
			return fmt.Errorf("guardian: tell the guarding shell: %w", err)
		}
	}
	return nil
}

func (g *guardian) start() error {
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("guardian: %w", err)
	}
	defer read.Close()
	cmd := exec.Command("/bin/sh", "-c", script, "ouvira-guardian")
	cmd.Stdin = read
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		_ = write.Close()
		return fmt.Errorf("guardian: start /bin/sh, which stops the children when this process is killed: %w", err)
	}
	go func() { _ = cmd.Wait() }()
	g.pipe = write
	return nil
}
