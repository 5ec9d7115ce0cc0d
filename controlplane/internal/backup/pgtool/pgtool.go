// Package pgtool runs Postgres' own programs pg_dump and pg_restore.
//
// They are told where to connect by their environment, never by their arguments,
// which everybody on the machine can read.
package pgtool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ouvira/ouvira/shared/pgbin"
)

// Programs are those of one release of Postgres.
type Programs struct {
	Dir   string
	Major int
}

// ErrNone says that this machine has no programs that are new enough.
var ErrNone = errors.New("no pg_dump and pg_restore that are new enough")

// Find looks for the programs that fit a server of the major version best: the
// oldest that are at least as new. They are looked for in OUVIRA_PG_BIN alone when
// that is set, else where machines have them. Errors: ErrNone, with what to do.
func Find(ctx context.Context, getenv func(string) string, major int) (Programs, error) {
	dirs := pgbin.Folders(ctx, getenv, pgbin.UsualFolders, "pg_dump")
	if dir := getenv("OUVIRA_PG_BIN"); dir != "" {
		dirs = []string{dir}
	}
	var best Programs
	var seen []string
	for _, dir := range slices.Compact(dirs) {
		found, err := inspect(ctx, dir)
		if err != nil {
			continue // no such folder, or nothing of use in it
		}
		seen = append(seen, fmt.Sprintf("%d in %s", found.Major, dir))
		if found.Major >= major && (best.Dir == "" || found.Major < best.Major) {
			best = found
		}
	}
	if best.Dir != "" {
		return best, nil
	}
	there := "there are none"
	if len(seen) > 0 {
		there = "there are " + strings.Join(seen, ", ")
	}
	return Programs{}, fmt.Errorf("%w: Postgres %d or newer is wanted, and %s. Install them where the workers run (Debian: apt install postgresql-client-%d), or set OUVIRA_PG_BIN to the folder that holds them",
		ErrNone, major, there, major)
}

func inspect(ctx context.Context, dir string) (Programs, error) {
	if _, err := os.Stat(filepath.Join(dir, "pg_restore")); err != nil {
		return Programs{}, err
	}
	// Debian's /usr/bin/pg_dump is a script that chooses a release by itself, anew for
	// every call; the releases have folders of their own.
	if target, err := filepath.EvalSymlinks(filepath.Join(dir, "pg_dump")); err != nil || filepath.Base(target) == "pg_wrapper" {
		return Programs{}, errors.New("it is not the program itself")
	}
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "pg_dump"), "--version").Output() //nolint:gosec // one of the machine's own programs
	if err != nil {
		return Programs{}, err
	}
	match := pgbin.VersionLine.FindStringSubmatch(string(out))
	if match == nil {
		return Programs{}, errors.New("it does not say its version")
	}
	major, err := strconv.Atoi(match[2])
	return Programs{Dir: dir, Major: major}, err
}

// Dump writes the database that env leads to in pg_dump's custom format, as the
// exported snapshot shows it, without one schema.
func (p Programs) Dump(ctx context.Context, env []string, snapshot, without string, out io.Writer) error {
	return p.run(ctx, "pg_dump", []string{
		"--format=custom", "--no-unlogged-table-data", "--no-publications", "--no-subscriptions", "--lock-wait-timeout=60000",
		"--snapshot=" + snapshot, "--exclude-schema=" + without,
	}, env, nil, out)
}

// Contents reads the table of contents of a dump. It may leave the rest unread.
func (p Programs) Contents(ctx context.Context, dump io.Reader) (string, error) {
	var list bytes.Buffer
	err := p.run(ctx, "pg_restore", []string{"--list"}, nil, dump, &list)
	return list.String(), err
}

// Structure reads the table of contents of what the database that env leads to is made
// of, without its rows.
func (p Programs) Structure(ctx context.Context, env []string, without string) (string, error) {
	var dump bytes.Buffer
	err := p.run(ctx, "pg_dump", []string{"--format=custom", "--schema-only", "--no-publications", "--no-subscriptions", "--exclude-schema=" + without}, env, nil, &dump)
	if err != nil {
		return "", err
	}
	return p.Contents(ctx, &dump)
}

// RestoreRows loads the rows that are named in contents out of the dump into the
// database that env leads to: all of them, or none, as long as the dump is what
// pg_dump writes. What is in it is run as it stands: let env be of a role that may do
// nothing else.
func (p Programs) RestoreRows(ctx context.Context, env []string, database, contents string, dump io.Reader) error {
	file, err := os.CreateTemp("", "ouvira-contents-*")
	if err != nil {
		return fmt.Errorf("write the table of contents: %w", err)
	}
	defer os.Remove(file.Name())
	_, err = file.WriteString(contents)
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("write the table of contents: %w", err)
	}
	return p.run(ctx, "pg_restore", []string{"--single-transaction", "--exit-on-error", "--data-only", "--no-owner", "--no-privileges", "--use-list=" + file.Name(), "--dbname=" + database}, env, dump, nil)
}

// Error is what a program said when it failed.
type Error struct {
	Program string
	Said    string
	Cause   error
}

// Error is for logs.
func (e *Error) Error() string { return fmt.Sprintf("%s: %v: %s", e.Program, e.Cause, e.Said) }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Cause }

func (p Programs) run(ctx context.Context, program string, args, env []string, in io.Reader, out io.Writer) error {
	cmd := exec.CommandContext(ctx, filepath.Join(p.Dir, program), args...) //nolint:gosec // likewise
	cmd.Env = append([]string{"LC_ALL=C", "PATH=" + os.Getenv("PATH"), "PGPASSFILE=" + os.DevNull}, env...)
	cmd.Stdin, cmd.Stdout = in, out
	said := &tail{}
	cmd.Stderr = said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &Error{Program: program, Said: strings.TrimSpace(said.String()), Cause: err}
	}
	return nil
}

// tail keeps the end of what a program says.
type tail struct{ bytes.Buffer }

const tailSize = 4096

func (t *tail) Write(p []byte) (int, error) {
	t.Buffer.Write(p)
	if over := t.Len() - tailSize; over > 0 {
		t.Next(over)
	}
	return len(p), nil
}
