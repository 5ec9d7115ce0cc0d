// Command local runs all of Ouvira on this machine without Docker. It is what
// stands behind `make run`, `make start`, `make stop` and `make reset`:
//
//	local [run]         start everything and stay in the foreground until Ctrl-C
//	local start NAME    start one part of the running stack again
//	local stop NAME     stop one part of the running stack
//	local reset         forget the data
//
// OUVIRA_STATE moves the state folder (.ouvira), OUVIRA_PORT_BASE shifts every
// port, OUVIRA_PG_BIN names the folder with the Postgres binaries.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/ouvira/ouvira/deploy/stack"
)

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "ouvira:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("use: local [-bin folder] [run | start NAME | stop NAME | reset]")

func run(ctx context.Context, arguments []string, out io.Writer) error {
	flags := flag.NewFlagSet("local", flag.ContinueOnError)
	bin := flags.String("bin", "", "folder with the programs controlplane, dataplane and ouvira (default: beside this one)")
	if err := flags.Parse(arguments); err != nil {
		return errUsage
	}
	state := os.Getenv("OUVIRA_STATE")
	if state == "" {
		state = ".ouvira"
	}
	switch words := flags.Args(); {
	case len(words) == 0, len(words) == 1 && words[0] == "run":
		return serve(ctx, state, *bin, out)
	case len(words) == 1 && words[0] == "reset":
		return reset(state, out)
	case len(words) == 2 && (words[0] == "start" || words[0] == "stop"):
		if err := stack.Ask(ctx, state, words[0], words[1]); err != nil {
			return err
		}
		fmt.Fprintf(out, "%s: %s done.\n", words[1], words[0])
		return nil
	default:
		return errUsage
	}
}

func reset(state string, out io.Writer) error {
	removed, err := stack.Reset(state)
	if err != nil {
		return err
	}
	if len(removed) == 0 {
		fmt.Fprintf(out, "There is no stack in %s to forget.\n", state)
		return nil
	}
	fmt.Fprintf(out, "Forgot the stack in %s.\n", state)
	return nil
}

// serve stays until Ctrl-C, a request to end, or the end of the terminal.
func serve(ctx context.Context, state, bin string, out io.Writer) error {
	options := stack.Options{State: state, Bin: bin, Report: out}
	if options.Bin == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		options.Bin = filepath.Dir(self)
	}
	if base := os.Getenv("OUVIRA_PORT_BASE"); base != "" {
		var err error
		if options.PortBase, err = strconv.Atoi(strings.TrimSpace(base)); err != nil {
			return errors.New("OUVIRA_PORT_BASE has to be a number by which every port is shifted, such as 100")
		}
	}
	ctx, restore := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	running, err := stack.Start(ctx, options)
	if err != nil {
		asked := ctx.Err() != nil
		restore()
		if !asked {
			return err
		}
		fmt.Fprintln(out, "Stopped before it was ready.")
		return nil //nolint:nilerr // being told to stop is no failure
	}
	welcome(out, running.Demo(), state)
	<-ctx.Done()
	// A second Ctrl-C ends us at once, and the guardian everything else.
	restore()
	fmt.Fprintln(out, "\nStopping …")
	if err := running.Close(); err != nil {
		return err
	}
	fmt.Fprintln(out, "Stopped. `make run` finds the data again; `make reset` forgets it.")
	return nil
}
