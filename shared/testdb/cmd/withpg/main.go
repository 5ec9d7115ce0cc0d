// Command withpg starts one Postgres for a whole test run:
//
//	withpg [-18] [-on18] [-keep] -- go test ./...
//
// The command finds the server's URL in OUVIRA_TEST_DATABASE_URL and, with -18,
// the binaries of Postgres 18 in OUVIRA_TEST_PG18_BIN; with -on18 the server is
// of that version instead of the system's. Where memory has room, the server and
// the command's temporary files lie there (TMPDIR), and what initdb makes for further
// servers of the run (OUVIRA_TEST_PG_TEMPLATES). withpg ends with the command's
// exit code, and the server with withpg. With -keep the server of a failed run
// stays until Ctrl-C, to look at the databases of the failed tests.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/ouvira/ouvira/shared/testdb"
	"github.com/ouvira/ouvira/shared/testdb/guardian"
	"github.com/ouvira/ouvira/shared/testdb/pgserver"
)

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "withpg:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func run(arguments []string) (code int, err error) {
	flags := flag.NewFlagSet("withpg", flag.ContinueOnError)
	with18 := flags.Bool("18", false, "make Postgres 18 available, fetched once if need be")
	on18 := flags.Bool("on18", false, "run the server itself on Postgres 18")
	keep := flags.Bool("keep", false, "when the command fails, keep the server until Ctrl-C")
	if err := flags.Parse(arguments); err != nil {
		return 2, nil // flag has said what is wrong
	}
	if flags.NArg() == 0 {
		return 2, errors.New("say which command to run: withpg [-18] [-on18] [-keep] -- go test ./...")
	}
	// Ctrl-C reaches the command too: it ends first, then we stop the server.
	interrupts := make(chan os.Signal, 2)
	signal.Notify(interrupts, os.Interrupt, syscall.SIGTERM)

	ctx := context.Background()
	environment := os.Environ()
	bin18 := os.Getenv(testdb.PG18Variable)
	if (*with18 || *on18) && bin18 == "" {
		if bin18, err = pgserver.Fetch18(ctx, ""); err != nil {
			return 1, err
		}
		environment = append(environment, testdb.PG18Variable+"="+bin18)
	}
	bin := "" // the system's
	if *on18 {
		bin = bin18
	}
	options := pgserver.Test(bin, nil)
	temporary, remove, err := inMemory()
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	if temporary != "" {
		options.Dir = filepath.Join(temporary, "postgres")
		// What Go builds is large and stays where it was.
		environment = append(environment, "GOTMPDIR="+cmp.Or(os.Getenv("GOTMPDIR"), os.TempDir()), "TMPDIR="+temporary)
		templates := filepath.Join(temporary, "templates")
		if err := os.Setenv(pgserver.TemplatesVariable, templates); err != nil {
			return 1, err
		}
		environment = append(environment, pgserver.TemplatesVariable+"="+templates)
	}
	server, err := pgserver.Start(ctx, options)
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	environment = append(environment, testdb.URLVariable+"="+server.URL())

	code, err = command(flags.Args(), environment, interrupts)
	if code != 0 && *keep {
		fmt.Fprintf(os.Stderr, "withpg: the server stays until Ctrl-C: psql '%s'\n", server.URL())
		<-interrupts
	}
	return code, err
}

// command runs to its end; a request to end is passed on.
func command(arguments, environment []string, interrupts <-chan os.Signal) (int, error) {
	cmd := exec.Command(arguments[0], arguments[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = environment
	if err := cmd.Start(); err != nil {
		return 127, err
	}
	forget, err := guardian.Watch(cmd.Process.Pid, syscall.SIGTERM)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return 1, err
	}
	defer forget()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case err := <-ended:
			if exit, ok := errors.AsType[*exec.ExitError](err); ok {
				if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
					return 128 + int(status.Signal()), nil
				}
				return exit.ExitCode(), nil
			}
			return 0, err
		case asked := <-interrupts:
			// The terminal has told the command of Ctrl-C itself.
			if asked != os.Interrupt {
				_ = cmd.Process.Signal(asked)
			}
		}
	}
}
