package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/ouvira/ouvira/dataplane/internal/httpapi"
	"github.com/ouvira/ouvira/shared/config"
	"github.com/ouvira/ouvira/shared/httpserver"
	"github.com/ouvira/ouvira/shared/seal"
	"github.com/ouvira/ouvira/shared/telemetry"
)

const usage = `usage: dataplane <command>

  serve           serve tenants
  keys generate   --data-key-file FILE --public-key-file FILE [--if-missing]
                  make the data plane's key, and the public half for the control plane
  keys add|promote  --data-key-file FILE --public-key-file FILE
                  put a new key into the files, which opens; let the newest one seal
  keys remove     --data-key-file FILE --public-key-file FILE --key ID
                  take a key out of the files
  verify-audit    prove the audit in a tenant's database, or in a restored dump of
                  one, against a head from outside (--help tells how)
  healthcheck     ask the node on this machine whether it is ready
  openapi         print the OpenAPI document (YAML)
  api-reference   print the API for readers (Markdown)
  gateway-guide   print what a gateway in front of the nodes must know (Markdown)
  config-table    print the settings (Markdown)
  version         print the version

  --print-config  print the effective settings of serve, secrets masked
`

// run is the program: the command's name, its flags, its environment.
func run(ctx context.Context, args, environ []string, out io.Writer) error {
	command := ""
	if len(args) > 0 {
		command, args = args[0], args[1:]
	}
	switch command {
	case "serve":
		if len(args) == 1 && args[0] == "--print-config" {
			return printConfig(environ, out)
		}
		return noArguments(args, func() error { return serve(ctx, environ, out) })
	case "--print-config":
		return printConfig(environ, out)
	case "keys":
		return keys(args, out)
	case "verify-audit":
		return verifyAudit(ctx, args, out)
	case "healthcheck":
		return noArguments(args, func() error { return healthcheck(ctx, environ) })
	case "openapi":
		return noArguments(args, func() error { return printDocument(out) })
	case "api-reference":
		return noArguments(args, func() error { return write(out, httpapi.Reference()) })
	case "gateway-guide":
		return noArguments(args, func() error { return write(out, httpapi.Gateway()) })
	case "config-table":
		return noArguments(args, func() error { return write(out, config.Table[settings]()) })
	case "version", "--version":
		return write(out, "dataplane "+telemetry.Version()+"\n")
	case "help", "-h", "--help":
		return write(out, usage)
	case "":
		return errors.New("which command?\n\n" + usage)
	}
	return errors.New("there is no such command\n\n" + usage)
}

func noArguments(args []string, then func() error) error {
	if len(args) > 0 {
		return errors.New("this command takes no arguments\n\n" + usage)
	}
	return then()
}

func write(out io.Writer, text string) error {
	_, err := io.WriteString(out, text)
	return err
}

func printConfig(environ []string, out io.Writer) error {
	s, err := config.LoadFrom[settings](environ)
	if err != nil {
		return err
	}
	return config.Print(out, s)
}

func printDocument(out io.Writer) error {
	document, err := httpapi.Document()
	if err != nil {
		return err
	}
	return write(out, string(document))
}

func keys(args []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("keys knows generate, add, promote and remove")
	}
	command := args[0]
	flags := flag.NewFlagSet("keys "+command, flag.ContinueOnError)
	var files seal.KeyFiles
	flags.StringVar(&files.Secret, "data-key-file", "", "where the key is (only nodes may read it)")
	flags.StringVar(&files.Public, "public-key-file", "", "where its public half is (for the control plane)")
	var ifMissing bool
	var id uint
	switch command {
	case "generate":
		flags.BoolVar(&ifMissing, "if-missing", false, "do nothing when both files are there (a container that runs at each start)")
	case "remove":
		flags.UintVar(&id, "key", 0, "id of the key, of which ouvira key list says that nothing needs it")
	}
	flags.SetOutput(io.Discard) // the error says it
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if files.Secret == "" || files.Public == "" || flags.NArg() > 0 {
		return fmt.Errorf("keys %s needs --data-key-file FILE and --public-key-file FILE", command)
	}
	switch command {
	case "generate":
		if ifMissing && exists(files.Secret) && exists(files.Public) {
			return nil
		}
		return seal.GenerateDataKey(files.Secret, files.Public)
	case "add":
		return told(out, files.Add, "Now restart all nodes, one by one, with the new key file, and the control plane with the new public half.")
	case "promote":
		return told(out, files.Promote, "Now restart all nodes, and the processes of the control plane, one by one; then run ouvira key rotate data --wait.")
	case "remove":
		return files.Remove(uint32(min(id, math.MaxUint32)))
	}
	return errors.New("keys knows generate, add, promote and remove")
}

// told does a step of a rotation, and tells the next one.
func told(out io.Writer, step func() (uint32, error), next string) error {
	id, err := step()
	if err != nil {
		return err
	}
	return write(out, fmt.Sprintf("key %d\n%s\n", id, next))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// probe is what healthcheck needs to know.
type probe struct {
	InternalListen string `env:"OUVIRA_INTERNAL_LISTEN" envDefault:"127.0.0.1:9000"`
}

// healthcheck is for container runtimes, whose images have no curl.
func healthcheck(ctx context.Context, environ []string) error {
	p, err := config.LoadFrom[probe](environ)
	if err != nil {
		return err
	}
	return httpserver.CheckReady(ctx, p.InternalListen)
}
