package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/ouvira/ouvira/controlplane/internal/httpapi"
	"github.com/ouvira/ouvira/shared/config"
	"github.com/ouvira/ouvira/shared/httpserver"
	"github.com/ouvira/ouvira/shared/seal"
	"github.com/ouvira/ouvira/shared/telemetry"
)

const (
	commandServe  = "serve"
	commandWorker = "worker"
	commandAll    = "all"
)

// run is the program: its arguments, its environment, where it writes.
func run(ctx context.Context, args, environ []string, out io.Writer) error {
	p := &program{environ: environ, out: out}
	root := &cobra.Command{
		Use:           "controlplane",
		Short:         "The control plane of Ouvira: tenants, sign-ups, servers, operators",
		Version:       telemetry.Version(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if p.printConfig {
				return p.showConfig()
			}
			return cmd.Help()
		},
	}
	root.PersistentFlags().BoolVar(&p.printConfig, "print-config", false, "print the effective settings, secrets masked, and end")
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(
		p.process(commandServe, "Answer the API and the jobs page"),
		p.process(commandWorker, "Work the operations and jobs of the fleet"),
		p.process(commandAll, "serve and worker in one process"),
		p.migrate(), p.keys(), p.archive(), p.openapi(), p.configTable(), p.healthcheck(), p.version(),
	)
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(out)
	return root.ExecuteContext(ctx)
}

// program is what the commands share.
type program struct {
	environ     []string
	out         io.Writer
	printConfig bool
}

func (p *program) load() (settings, error) { return config.LoadFrom[settings](p.environ) }

func (p *program) showConfig() error {
	s, err := p.load()
	if err != nil {
		return err
	}
	return config.Print(p.out, s)
}

func (p *program) process(command, short string) *cobra.Command {
	return &cobra.Command{
		Use: command, Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if p.printConfig {
				return p.showConfig()
			}
			s, err := p.load()
			if err != nil {
				return err
			}
			if err := s.needed(); err != nil {
				return err
			}
			return runProcess(cmd.Context(), command, s, p.out)
		},
	}
}

func (p *program) migrate() *cobra.Command {
	var bootstrapURL string
	c := &cobra.Command{
		Use: "migrate", Short: "Bring the control database to the schema of this release", Args: cobra.NoArgs,
		Long: "Brings the control database to the schema of this release.\n\n" +
			"With --bootstrap-url, a superuser's address of the server, it first makes the database and the\n" +
			"roles ouvira_control and ouvira_node, with the names and passwords of OUVIRA_CONTROL_DATABASE_URL\n" +
			"and OUVIRA_NODE_DATABASE_URL, or sets their passwords anew. The superuser's password is not kept.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if p.printConfig {
				return p.showConfig()
			}
			s, err := p.load()
			if err != nil {
				return err
			}
			return migrate(cmd.Context(), s, bootstrapURL, p.out)
		},
	}
	c.Flags().StringVar(&bootstrapURL, "bootstrap-url", "", "a superuser's postgres:// URL: makes roles and database first")
	return c
}

func (p *program) keys() *cobra.Command {
	var file string
	var ifMissing bool
	generate := &cobra.Command{
		Use: "generate", Short: "Make the control plane's key; an existing file is kept", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if _, err := os.Stat(file); ifMissing && err == nil {
				return nil
			}
			return seal.GenerateControlKey(file)
		},
	}
	generate.Flags().BoolVar(&ifMissing, "if-missing", false, "do nothing when the file is there (a container that runs at each start)")
	generate.Flags().StringVar(&file, "control-key-file", "", "where to write the key (mode 0600)")
	_ = generate.MarkFlagRequired("control-key-file")
	keys := &cobra.Command{Use: "keys", Short: "Keys of the control plane", Args: cobra.NoArgs}
	keys.AddCommand(generate,
		p.rotate("add", "Put a new key into the file: it opens, and seals nothing yet", "Now restart all processes of the control plane, one by one, with the new file.", seal.KeyFiles.Add),
		p.rotate("promote", "Let the newest key of the file seal", "Now restart all processes of the control plane, one by one; then run ouvira key rotate control --wait.", seal.KeyFiles.Promote),
		p.removeKey(),
	)
	return keys
}

// rotate is a step of a rotation that changes the key file.
func (p *program) rotate(use, short, next string, step func(seal.KeyFiles) (uint32, error)) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			id, err := step(seal.KeyFiles{Secret: file})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(p.out, "key %d\n%s\n", id, next)
			return err
		},
	}
	c.Flags().StringVar(&file, "control-key-file", "", "the key file to change")
	_ = c.MarkFlagRequired("control-key-file")
	return c
}

func (p *program) removeKey() *cobra.Command {
	var file string
	var id uint32
	c := &cobra.Command{
		Use: "remove", Short: "Take a key out of the file, of which ouvira key list says that nothing needs it", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return seal.KeyFiles{Secret: file}.Remove(id) },
	}
	c.Flags().StringVar(&file, "control-key-file", "", "the key file to change")
	c.Flags().Uint32Var(&id, "key", 0, "id of the key")
	_ = c.MarkFlagRequired("control-key-file")
	_ = c.MarkFlagRequired("key")
	return c
}

func (p *program) openapi() *cobra.Command {
	return &cobra.Command{
		Use: "openapi", Short: "Print the OpenAPI document (YAML)", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			document, err := httpapi.Document()
			if err != nil {
				return err
			}
			_, err = p.out.Write(document)
			return err
		},
	}
}

func (p *program) configTable() *cobra.Command {
	return &cobra.Command{
		Use: "config-table", Short: "Print the settings (Markdown)", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := io.WriteString(p.out, config.Table[settings]())
			return err
		},
	}
}

func (p *program) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(p.out, "controlplane", telemetry.Version())
			return err
		},
	}
}

// probe is what healthcheck needs to know.
type probe struct {
	InternalListen string `env:"OUVIRA_INTERNAL_LISTEN" envDefault:"127.0.0.1:9080"`
}

// healthcheck is for container runtimes, whose images have no curl.
func (p *program) healthcheck() *cobra.Command {
	return &cobra.Command{
		Use: "healthcheck", Short: "Ask the process on this machine whether it is ready", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			settings, err := config.LoadFrom[probe](p.environ)
			if err != nil {
				return err
			}
			return httpserver.CheckReady(cmd.Context(), settings.InternalListen)
		},
	}
}
