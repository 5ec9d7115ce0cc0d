package cli

import (
	"context"
	"errors"
	"net/url"
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
