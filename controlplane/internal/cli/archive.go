package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
	"github.com/spf13/cobra"
)

func (a *app) tenantExport() *cobra.Command {
	var file, recipient, id string
	c := &cobra.Command{
		Use: "export SLUG|ID -f FILE", Short: "Download a tenant as a portable archive", Args: cobra.ExactArgs(1),
		Long: "Takes a backup (or, with --backup, uses one) and downloads it as a portable archive: a tar of the\n" +
			"dump for pg_restore, its manifest, the checkpoint of the audit, and checksums. It holds all of the\n" +
			"tenant's data: seal it to somebody's age key with --recipient.",
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			// Before a backup is taken for it.
			if err := recipientFlag(recipient); err != nil {
				return err
			}
			if err := writable(file); err != nil {
				return err
			}
			if id == "" {
				b, err := a.begin(cmd.Context(), client, tenantPath(args[0], "export"), nil, true)
				if err != nil {
					return err
				}
				made, err := taken(cmd.Context(), client, args[0], b.Operation.ID)
				if err != nil {
					return err
				}
				id = made.ID
			}
			path := "/v1/backups/" + url.PathEscape(id) + "/archive"
			if recipient != "" {
				path += "?recipient=" + url.QueryEscape(recipient)
			}
			size, err := client.download(cmd.Context(), path, file)
			if err != nil {
				return err
			}
			fmt.Fprintf(a.Err, "  %s written to %s\n", bytesText(size), clean(file))
			return nil
		},
	}
	c.Flags().StringVarP(&file, "file", "f", "", "where to write the archive; an existing file is kept")
	c.Flags().StringVar(&recipient, "recipient", "", "an age public key (age1…) to seal the archive to")
	c.Flags().StringVar(&id, "backup", "", "id of a backup to export instead of a new one")
	_ = c.MarkFlagRequired("file")
	return c
}

func recipientFlag(key string) error {
	if key == "" {
		return nil
	}
	if keys, err := age.ParseRecipients(strings.NewReader(key)); err != nil || len(keys) != 1 {
		return usageError{errors.New("--recipient is an age public key (age1…), as age-keygen prints it")}
	}
	return nil
}

func unused(file string) error {
	if _, err := os.Stat(file); err == nil {
		return fmt.Errorf("the file %s exists already and is kept", file)
	}
	return nil
}

// writable tells of a file that cannot be made, by making one beside it.
func writable(file string) error {
	if err := unused(file); err != nil {
		return err
	}
	probe, err := os.CreateTemp(filepath.Dir(file), ".ouvira-export-*")
	if err != nil {
		return fmt.Errorf("write the archive: %w", err)
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}

// download writes an answer to a new file, which is there when all of it is.
func (c *client) download(ctx context.Context, path, file string) (size int64, err error) {
	if err := unused(file); err != nil {
		return 0, err
	}
	out, err := os.CreateTemp(filepath.Dir(file), ".ouvira-export-*") // mode 0600
	if err != nil {
		return 0, fmt.Errorf("write the archive: %w", err)
	}
	defer os.Remove(out.Name()) // gone already when all went well
	answer, err := c.long(ctx, http.MethodGet, path, nil)
	if err != nil {
		return 0, errors.Join(err, out.Close())
	}
	defer answer.Body.Close()
	size, err = io.Copy(out, answer.Body)
	if _, here := errors.AsType[*fs.PathError](err); here {
		return 0, errors.Join(fmt.Errorf("write the archive: %w", err), out.Close())
	}
	if err != nil {
		return 0, errors.Join(errors.New("the download broke off: the archive is not whole, and nothing is kept of it"), out.Close())
	}
	if err := errors.Join(out.Sync(), out.Close(), unused(file)); err != nil { // it may have been made meanwhile
		return 0, fmt.Errorf("write the archive: %w", err)
	}
	return size, os.Rename(out.Name(), file)
}

func (a *app) tenantImport() *cobra.Command {
	var wait bool
	var slug, name, plan string
	c := &cobra.Command{
		Use: "import FILE --slug SLUG", Short: "Make a new tenant of a portable archive", Args: cobra.ExactArgs(1),
		Long: "Uploads an archive of ouvira tenant export and makes a new tenant of it. One that is sealed must be\n" +
			"opened first (age --decrypt). Rows are loaded of it and nothing else: it may come from anybody.",
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			file, err := os.Open(args[0])
			if err != nil {
				return fmt.Errorf("read the archive: %w", err)
			}
			defer file.Close()
			query := url.Values{"slug": {slug}}
			for key, value := range map[string]string{"name": name, "plan": plan} {
				if value != "" {
					query.Set(key, value)
				}
			}
			b, err := client.upload(cmd.Context(), "/v1/imports?"+query.Encode(), file)
			if err != nil {
				return err
			}
			if err := a.pursue(cmd.Context(), client, b, wait); err != nil {
				return err
			}
			return a.printBegun(cmd.Context(), client, b, wait)
		},
	}
	c.Flags().StringVar(&slug, "slug", "", "slug of the new tenant")
	c.Flags().StringVar(&name, "name", "", "its name (default: as it was)")
	c.Flags().StringVar(&plan, "plan", "", "code of its plan")
	_ = c.MarkFlagRequired("slug")
	waitFlag(c, &wait)
	return c
}
