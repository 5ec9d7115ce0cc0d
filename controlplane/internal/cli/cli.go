// Package cli is the operators' command line. It talks to the API only, as any
// other client would; only `operator create`, which makes the first account,
// works straight on the control database.
//
// It promises: tables for people by default and -o json or yaml for scripts,
// on standard output; everything else (progress, errors) on standard error;
// an exit code that says what went wrong (see the codes below); a saved token
// is sent to no address but the one that gave it.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/ouvira/ouvira/shared/telemetry"
)

// Exit codes.
const (
	ExitOK       = 0
	ExitFailure  = 1 // it did not work; also an operation that failed
	ExitUsage    = 2 // the command line is wrong
	ExitNotFound = 3
	ExitConflict = 4 // the state of things does not allow it
	ExitRefused  = 5 // not signed in, or not allowed

	ExitInterrupted = 130 // by Ctrl-C: what was asked for goes on
)

const help = `The operators' command line of Ouvira.

Where to go:  OUVIRA_URL (default http://localhost:8080)
Who you are:  ouvira login, or an access token in OUVIRA_TOKEN
Exit codes:   0 done · 1 failed · 2 wrong command line · 3 not found
              4 conflict with the state of things · 5 not signed in or not allowed
              130 interrupted: an operation that was waited for goes on
Times:        of this machine's zone in tables, UTC in JSON and YAML`

// Process is what a command line touches of the process, so that tests can bring their own.
type Process struct {
	In        io.Reader
	Out, Err  io.Writer
	Getenv    func(string) string
	ConfigDir func() (string, error)
	// ReadSecret asks a person without showing what is typed; nil when there
	// is no terminal.
	ReadSecret func(prompt string) (string, error)
	Terminal   bool // Err is shown to a person as it is written
}

// Run runs one command line and gives the exit code.
func Run(ctx context.Context, args []string, p Process) int {
	a := &app{Process: p}
	root := &cobra.Command{
		Use: "ouvira", Short: "The operators' command line of Ouvira", Long: help,
		SilenceUsage: true, SilenceErrors: true, Version: telemetry.Version(),
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.prepare() },
	}
	root.PersistentFlags().StringVarP(&a.format, "output", "o", "table", "table, wide, json or yaml")
	root.PersistentFlags().StringVar(&a.url, "url", "", "address of the control plane (default $OUVIRA_URL)")
	root.SetFlagErrorFunc(wrongFlag)
	root.AddCommand(a.login(), a.logout(), a.secondFactor(), a.operator(), a.apikey(), a.support(), a.tenant(), a.signup(), a.server(), a.pool(), a.domain(), a.plan(), a.backup(),
		a.operation(), a.webhook(), a.audit(), a.key(), a.doctor(), a.version())
	exemplify(root)
	a.completions(root)
	refuseStrangers(root)
	root.SetArgs(args)
	root.SetIn(p.In)
	root.SetOut(p.Out)
	root.SetErr(p.Err)
	err := root.ExecuteContext(ctx)
	if err != nil {
		report(p.Err, err)
	}
	return exitCode(err)
}

// app is what the commands share.
type app struct {
	Process

	format string
	url    string
}

func (a *app) prepare() error {
	switch a.format {
	case "table", "wide", "json", "yaml":
	default:
		return usageError{errors.New("-o must be table, wide, json or yaml")}
	}
	if a.url == "" {
		a.url = a.Getenv("OUVIRA_URL")
	}
	return nil
}

// usageError is a wrong command line.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

// notFoundError is something that a list does not have.
type notFoundError struct{ error }

// refuseStrangers makes groups without a command of their own refuse words
// that they do not know, with cobra's suggestions, and arguments count as
// usage.
func refuseStrangers(c *cobra.Command) {
	check := c.Args
	c.Args = func(cmd *cobra.Command, args []string) error {
		var err error
		switch {
		case check != nil:
			err = check(cmd, args)
		case cmd.HasSubCommands() && len(args) > 0:
			err = unknownCommand(cmd, args[0])
		}
		if err == nil {
			err = spoken(cmd, args)
		}
		if err == nil { // cobra would look later, and call it a failure
			err = cmd.ValidateRequiredFlags()
		}
		if err != nil {
			return usageError{fmt.Errorf("%w\n  usage: %s (more: --help)", err, cmd.UseLine())}
		}
		return nil
	}
	if c.HasSubCommands() && c.RunE == nil {
		c.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	for _, sub := range c.Commands() {
		refuseStrangers(sub)
	}
}

// exitCode says what went wrong, for scripts.
func exitCode(err error) int {
	var usage usageError
	var missing notFoundError
	var answer *apiError
	var interrupted errInterrupted
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &interrupted):
		return ExitInterrupted
	case errors.As(err, &missing):
		return ExitNotFound
	case errors.As(err, &usage):
		return ExitUsage
	case errors.As(err, &answer):
		return answer.exitCode()
	}
	return ExitFailure
}

// report prints an error with what the API said about single fields.
func report(w io.Writer, err error) {
	var answer *apiError
	if !errors.As(err, &answer) {
		fmt.Fprintln(w, "ouvira:", err)
		return
	}
	if answer.Problem.Code == "unauthenticated" { // the API says it to programs
		err = errors.New("you are not signed in, or the login has ended")
	}
	fmt.Fprintln(w, "ouvira:", err)
	for _, f := range answer.Problem.Errors {
		if f.Field != "" && !strings.Contains(strings.ToLower(answer.Problem.Detail), strings.ToLower(f.Message)) {
			fmt.Fprintf(w, "  %s: %s\n", f.Field, f.Message)
		}
	}
	if answer.Status == http.StatusUnauthorized || answer.Problem.Code == "fresh_login_required" {
		fmt.Fprintln(w, "  sign in: ouvira login --email ADDRESS")
	}
	if answer.Status >= 500 && answer.Problem.RequestID != "" {
		fmt.Fprintln(w, "  request id:", answer.Problem.RequestID)
	}
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if a.format == "json" || a.format == "yaml" {
				return a.document(map[string]string{"version": telemetry.Version()})
			}
			fmt.Fprintln(a.Out, "ouvira", telemetry.Version())
			return nil
		},
	}
}

// System is the process that runs.
func System() Process {
	return Process{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv,
		ConfigDir: os.UserConfigDir, ReadSecret: terminalSecret(),
		Terminal: term.IsTerminal(int(os.Stderr.Fd())),
	}
}
