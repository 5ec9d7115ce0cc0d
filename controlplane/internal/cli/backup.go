package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

// backup as the API shows it.
type backup struct {
	ID              string     `json:"id"`
	TenantID        string     `json:"tenant_id"`
	OperationID     *string    `json:"operation_id"`
	Reason          string     `json:"reason"`
	Status          string     `json:"status"`
	Incarnation     int        `json:"incarnation"`
	SchemaVersion   int64      `json:"schema_version"`
	PostgresVersion int        `json:"postgres_version"`
	Size            int64      `json:"size"`
	SHA256          string     `json:"sha256"`
	CreatedAt       time.Time  `json:"created_at"`
	FinishedAt      *time.Time `json:"finished_at"`
}

var backupColumns = []column[backup]{
	{"id", false, func(b backup) string { return b.ID }},
	{"status", false, func(b backup) string { return b.Status }},
	{"reason", false, func(b backup) string { return b.Reason }},
	{"size", false, func(b backup) string { return bytesText(b.Size) }},
	{"created", false, func(b backup) string { return moment(b.CreatedAt) }},
	{"schema", true, func(b backup) string { return strconv.FormatInt(b.SchemaVersion, 10) }},
	{"incarnation", true, func(b backup) string { return strconv.Itoa(b.Incarnation) }},
	{"sha256", true, func(b backup) string { return b.SHA256 }},
}

func bytesText(n int64) string {
	const unit = 1024
	if n < unit {
		return strconv.FormatInt(n, 10) + " B"
	}
	value, names := float64(n)/unit, []string{"KiB", "MiB", "GiB", "TiB"}
	i := 0
	for ; value >= unit && i < len(names)-1; i++ {
		value /= unit
	}
	return fmt.Sprintf("%.1f %s", value, names[i])
}

func (a *app) backup() *cobra.Command {
	group := &cobra.Command{Use: "backup", Short: "Backups of tenants"}
	var limit int
	list := &cobra.Command{
		Use: "list SLUG|ID", Short: "List the backups of a tenant, the newest first", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			items, err := all[backup](cmd.Context(), client, tenantPath(args[0], "backups"), url.Values{}, limit)
			if err != nil {
				return err
			}
			return printList(a, items, backupColumns)
		},
	}
	list.Flags().IntVar(&limit, "limit", 0, "at most so many (0: all)")
	group.AddCommand(list, a.backupRules(), a.backupRule())
	return group
}

// backupRule as the API shows it.
type backupRule struct {
	Plan          string `json:"plan"`
	IntervalHours int    `json:"interval_hours"`
	Keep          int    `json:"keep"`
	KeepDays      int    `json:"keep_days"`
}

var backupRuleColumns = []column[backupRule]{
	{"plan", false, func(r backupRule) string { return r.Plan }},
	{"every (hours)", false, func(r backupRule) string { return strconv.Itoa(r.IntervalHours) }},
	{"keep", false, func(r backupRule) string { return strconv.Itoa(r.Keep) }},
	{"days", false, func(r backupRule) string { return strconv.Itoa(r.KeepDays) }},
}

func (a *app) backupRules() *cobra.Command {
	return &cobra.Command{
		Use: "rules", Short: "How often tenants of each plan are backed up, and how long that is kept", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.printRules(cmd.Context(), http.MethodGet, "/v1/backup-rules", nil)
		},
	}
}

func (a *app) backupRule() *cobra.Command {
	var changed backupRule
	c := &cobra.Command{
		Use: "rule PLAN", Short: "Change how often tenants of a plan are backed up", Args: cobra.ExactArgs(1),
		Long: "Changes how often tenants of a plan are backed up, and how long that is kept: what is given, and\nleaves the rest as it is.",
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			var rules struct {
				Items []backupRule `json:"items"`
			}
			if err := client.call(cmd.Context(), http.MethodGet, "/v1/backup-rules", nil, &rules); err != nil {
				return err
			}
			at := slices.IndexFunc(rules.Items, func(r backupRule) bool { return r.Plan == args[0] })
			if at < 0 {
				return notFoundError{errors.New("there is no such plan; see: ouvira plan list")}
			}
			now := rules.Items[at]
			for flag, value := range map[string]struct{ now, changed *int }{
				"every-hours": {&now.IntervalHours, &changed.IntervalHours}, "keep": {&now.Keep, &changed.Keep}, "keep-days": {&now.KeepDays, &changed.KeepDays},
			} {
				if cmd.Flags().Changed(flag) {
					*value.now = *value.changed
				}
			}
			return a.printRules(cmd.Context(), http.MethodPut, "/v1/backup-rules/"+url.PathEscape(args[0]),
				map[string]int{"interval_hours": now.IntervalHours, "keep": now.Keep, "keep_days": now.KeepDays})
		},
	}
	c.Flags().IntVar(&changed.IntervalHours, "every-hours", 0, "hours from one to the next; 0 takes none")
	c.Flags().IntVar(&changed.Keep, "keep", 0, "how many of a tenant are kept at most")
	c.Flags().IntVar(&changed.KeepDays, "keep-days", 0, "how long one is kept at most; the last one is kept for longer")
	return c
}

func (a *app) printRules(ctx context.Context, method, path string, body any) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	var rules struct {
		Items []backupRule `json:"items"`
	}
	if err := client.call(ctx, method, path, body, &rules); err != nil {
		return err
	}
	return printList(a, rules.Items, backupRuleColumns)
}

// begun is what the API answers that takes long.
type begun struct {
	Tenant    *tenant   `json:"tenant"`
	Operation operation `json:"operation"`
}

// begin asks for an operation, and follows it if wished.
func (a *app) begin(ctx context.Context, client *client, path string, body any, wait bool) (begun, error) {
	var b begun
	if err := client.call(ctx, http.MethodPost, path, body, &b); err != nil {
		return b, err
	}
	return b, a.pursue(ctx, client, b, wait)
}

// pursue follows what was begun if wished, and else says how.
func (a *app) pursue(ctx context.Context, client *client, b begun, wait bool) error {
	switch {
	case wait:
		return a.follow(ctx, client, b.Operation.ID)
	case b.Tenant != nil: // it is what is shown
		fmt.Fprintln(a.Err, "It goes on; follow it: ouvira operation watch "+b.Operation.ID)
	}
	return nil
}

// printBegun shows the tenant that is made, or the operation: as it was begun, or as
// it is after the wait.
func (a *app) printBegun(ctx context.Context, client *client, b begun, waited bool) error {
	switch {
	case b.Tenant != nil && waited:
		return a.printTenant(ctx, client, b.Tenant.ID)
	case b.Tenant != nil:
		return printOne(a, *b.Tenant, tenantColumns)
	case waited:
		return a.printOperation(ctx, client, b.Operation.ID)
	}
	return printOne(a, b.Operation, operationColumns)
}

// taken is the backup that an operation took.
func taken(ctx context.Context, client *client, tenant, operationID string) (backup, error) {
	items, err := all[backup](ctx, client, tenantPath(tenant, "backups"), url.Values{}, 0)
	if err != nil {
		return backup{}, err
	}
	for _, b := range items {
		if b.OperationID != nil && *b.OperationID == operationID {
			return b, nil
		}
	}
	return backup{}, errors.New("the backup is not listed any more: see ouvira backup list")
}

func (a *app) tenantBackup() *cobra.Command {
	var wait bool
	c := &cobra.Command{
		Use: "backup SLUG|ID", Short: "Take a backup now", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			b, err := a.begin(cmd.Context(), client, tenantPath(args[0], "backup"), nil, wait)
			if err != nil {
				return err
			}
			if !wait {
				return a.printBegun(cmd.Context(), client, b, wait)
			}
			made, err := taken(cmd.Context(), client, args[0], b.Operation.ID)
			if err != nil {
				return err
			}
			return printOne(a, made, backupColumns)
		},
	}
	waitFlag(c, &wait)
	return c
}

func waitFlag(c *cobra.Command, wait *bool) {
	c.Flags().BoolVar(wait, "wait", false, "follow the operation to its end")
}

func (a *app) tenantRestore() *cobra.Command {
	var wait bool
	var id, as string
	c := &cobra.Command{
		Use: "restore SLUG|ID --backup ID", Short: "Restore a backup: in place, or as a new tenant (--as)", Args: cobra.ExactArgs(1),
		Long: "Restores a backup.\n\nIn place, the tenant's database is replaced: what was written since the backup is no more\n" +
			"served, everybody is signed out, and API keys and messages that have not left are void. The\n" +
			"database that was replaced is kept for a day. With --as, the tenant is left alone and a new one\n" +
			"is made.",
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			body := map[string]any{"backup_id": id}
			if as != "" {
				body["as_slug"] = as
			}
			b, err := a.begin(cmd.Context(), client, tenantPath(args[0], "restore"), body, wait)
			if err != nil {
				return err
			}
			return a.printBegun(cmd.Context(), client, b, wait)
		},
	}
	c.Flags().StringVar(&id, "backup", "", "id of the backup (ouvira backup list)")
	c.Flags().StringVar(&as, "as", "", "slug of a new tenant")
	_ = c.MarkFlagRequired("backup")
	waitFlag(c, &wait)
	return c
}

func (a *app) tenantClone() *cobra.Command {
	var wait, sandbox bool
	c := &cobra.Command{
		Use: "clone SLUG|ID NEW-SLUG", Short: "Make a new tenant of what a tenant holds now", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			b, err := a.begin(cmd.Context(), client, tenantPath(args[0], "clone"), map[string]any{"slug": args[1], "sandbox": sandbox}, wait)
			if err != nil {
				return err
			}
			return a.printBegun(cmd.Context(), client, b, wait)
		},
	}
	c.Flags().BoolVar(&sandbox, "sandbox", false, "its mail and SMS go nowhere")
	waitFlag(c, &wait)
	return c
}

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
			if err := writable(file); err != nil { // before a backup is taken for it
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
	if err != nil {
		return 0, errors.Join(errors.New("the download broke off: the archive is not whole, and nothing is kept of it"), out.Close())
	}
	if err := errors.Join(out.Sync(), out.Close()); err != nil {
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
