package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/ouvira/ouvira/controlplane/internal/backup"
	"github.com/ouvira/ouvira/shared/config"
	"github.com/ouvira/ouvira/shared/seal"
)

// archive seals and opens files as backups are, with nothing but the control key: for
// the control database's own backup, and when there is no control plane any more.
func (p *program) archive() *cobra.Command {
	group := &cobra.Command{Use: "archive", Short: "Seal and open files as backups are, from standard input to standard output", Args: cobra.NoArgs}
	group.AddCommand(
		p.pipe("seal", "Seal to the control key", func(key *seal.ControlKey, in io.Reader) error {
			sealed, err := backup.Seal(key, p.out)
			if err != nil {
				return fmt.Errorf("seal: %w", err)
			}
			if _, err := io.Copy(sealed, in); err != nil {
				return fmt.Errorf("seal: %w", err)
			}
			return sealed.Close()
		}),
		p.pipe("open", "Open what was sealed to the control key", func(key *seal.ControlKey, in io.Reader) error {
			plain, err := backup.Open(key, in)
			if err == nil {
				_, err = io.Copy(p.out, plain)
			}
			if err != nil {
				return fmt.Errorf("it was sealed to another key, or is damaged: what was written is not whole: %w", err)
			}
			return nil
		}),
	)
	return group
}

func (p *program) pipe(use, short string, work func(*seal.ControlKey, io.Reader) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := p.load()
			if err != nil {
				return err
			}
			if s.ControlKeyFile == "" {
				return config.Missing("OUVIRA_CONTROL_KEY_FILE")
			}
			key, err := seal.LoadControlKey(s.ControlKeyFile)
			if err != nil {
				return fmt.Errorf("OUVIRA_CONTROL_KEY_FILE: %w", err)
			}
			return work(key, cmd.InOrStdin())
		},
	}
}
