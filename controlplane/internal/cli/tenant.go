package cli

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// tenant as the API shows it.
type tenant struct {
	ID            string         `json:"id"`
	Slug          string         `json:"slug"`
	Name          string         `json:"name"`
	Status        string         `json:"status"`
	StatusReason  string         `json:"status_reason"`
	Mode          string         `json:"mode"`
	Server        *string        `json:"server"`
	SchemaVersion int64          `json:"schema_version"`
	PrimaryDomain string         `json:"primary_domain"`
	Plan          string         `json:"plan"`
	OnTrial       bool           `json:"on_trial"`
	PaidUntil     *string        `json:"paid_until"`
	Settings      map[string]any `json:"settings"`
	PurgeAt       *time.Time     `json:"purge_at"`
	CreatedAt     time.Time      `json:"created_at"`
	UpdatedAt     time.Time      `json:"updated_at"`
}

var tenantColumns = []column[tenant]{
	{"slug", false, func(t tenant) string { return t.Slug }},
	{"name", false, func(t tenant) string { return t.Name }},
	{"status", false, func(t tenant) string { return t.Status }},
	{"server", false, func(t tenant) string { return deref(t.Server) }},
	{"domain", false, func(t tenant) string { return t.PrimaryDomain }},
	{"plan", true, func(t tenant) string { return t.Plan }},
	{"mode", true, func(t tenant) string { return t.Mode }},
	{"schema", true, func(t tenant) string { return strconv.FormatInt(t.SchemaVersion, 10) }},
	{"reason", true, func(t tenant) string { return t.StatusReason }},
	{"trial", true, func(t tenant) string { return mark(t.OnTrial) }},
	{"paid until", true, func(t tenant) string { return deref(t.PaidUntil) }},
	{"purge at", true, func(t tenant) string { return optionalMoment(t.PurgeAt) }},
	{"created", false, func(t tenant) string { return moment(t.CreatedAt) }},
	{"id", true, func(t tenant) string { return t.ID }},
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (a *app) tenant() *cobra.Command {
	group := &cobra.Command{Use: "tenant", Short: "Customers of the platform"}
	group.AddCommand(a.tenantCreate(), a.tenantRetry(), a.tenantList(), a.tenantShow(), a.tenantSet(), a.tenantMove(), a.tenantPayments(), a.tenantPay(), a.tenantUsage())
	group.AddCommand(a.tenantLife()...)
	group.AddCommand(a.tenantBackup(), a.tenantRestore(), a.tenantClone(), a.tenantExport(), a.tenantImport(), a.tenantAdopt())
	return group
}

func (a *app) tenantCreate() *cobra.Command {
	var name, email, owner, plan, server string
	var wait bool
	c := &cobra.Command{
		Use: "create SLUG", Short: "Create a tenant; its owner gets a link by mail", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			body := map[string]any{"slug": args[0], "name": name, "owner": map[string]string{"email": email, "full_name": owner}}
			if plan != "" {
				body["plan"] = plan
			}
			if server != "" {
				body["server"] = server
			}
			b, err := a.begin(cmd.Context(), client, "/v1/tenants", body, wait)
			if err != nil {
				return err
			}
			return a.printBegun(cmd.Context(), client, b, wait)
		},
	}
	c.Flags().StringVar(&name, "name", "", "name of the tenant and of its first company")
	c.Flags().StringVar(&email, "owner-email", "", "address of the first user")
	c.Flags().StringVar(&owner, "owner-name", "", "full name of the first user")
	c.Flags().StringVar(&plan, "plan", "", "code of the plan")
	c.Flags().StringVar(&server, "server", "", "name of the Postgres server (default: the emptiest)")
	c.Flags().BoolVar(&wait, "wait", false, "follow the operation to its end")
	for _, required := range []string{"name", "owner-email", "owner-name"} {
		_ = c.MarkFlagRequired(required)
	}
	return c
}

func (a *app) tenantRetry() *cobra.Command {
	var wait bool
	c := &cobra.Command{
		Use: "retry SLUG|ID", Short: "Provision a tenant again that has failed", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			b, err := a.begin(cmd.Context(), client, tenantPath(args[0], "retry"), nil, wait)
			if err != nil {
				return err
			}
			if !wait {
				return a.printBegun(cmd.Context(), client, b, wait)
			}
			return a.printTenant(cmd.Context(), client, args[0])
		},
	}
	c.Flags().BoolVar(&wait, "wait", false, "follow the operation to its end")
	return c
}

// printTenant shows the tenant as it is now.
func (a *app) printTenant(ctx context.Context, client *client, name string) error {
	var t tenant
	if err := client.call(ctx, http.MethodGet, "/v1/tenants/"+url.PathEscape(name), nil, &t); err != nil {
		return err
	}
	return printOne(a, t, tenantColumns)
}

func (a *app) tenantList() *cobra.Command {
	var q, status, sort string
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List tenants", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			query := url.Values{}
			for name, value := range map[string]string{"q": q, "status": status, "sort": sort} {
				if value != "" {
					query.Set(name, value)
				}
			}
			items, err := all[tenant](cmd.Context(), client, "/v1/tenants", query, limit)
			if err != nil {
				return err
			}
			return printList(a, items, tenantColumns)
		},
	}
	c.Flags().StringVarP(&q, "query", "q", "", "part of the slug or the name")
	c.Flags().StringVar(&status, "status", "", "provisioning, active, suspended, deleted, purged or failed")
	c.Flags().StringVar(&sort, "sort", "", "created_at, slug or name; with - in front for the other direction")
	c.Flags().IntVar(&limit, "limit", 0, "at most so many (0: all)")
	return c
}

func (a *app) tenantShow() *cobra.Command {
	return &cobra.Command{
		Use: "show SLUG|ID", Short: "Show a tenant", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			return a.printTenant(cmd.Context(), client, args[0])
		},
	}
}

func (a *app) tenantSet() *cobra.Command {
	var name, plan string
	var settings []string
	c := &cobra.Command{
		Use: "set SLUG|ID", Short: "Change the name, the plan or settings of a tenant", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			body := map[string]any{}
			for field, value := range map[string]string{"name": name, "plan": plan} {
				if value != "" {
					body[field] = value
				}
			}
			if len(settings) > 0 {
				if body["settings"], err = settingsOf(settings); err != nil {
					return err
				}
			}
			if len(body) == 0 {
				return usageError{errors.New("say what to change: --name, --plan or --setting")}
			}
			var t tenant
			if err := client.call(cmd.Context(), http.MethodPatch, "/v1/tenants/"+url.PathEscape(args[0]), body, &t); err != nil {
				return err
			}
			return printOne(a, t, tenantColumns)
		},
	}
	c.Flags().StringVar(&name, "name", "", "what people call it")
	c.Flags().StringVar(&plan, "plan", "", "code of another plan; it counts from now on")
	c.Flags().StringArrayVar(&settings, "setting", nil, "NAME=VALUE, or NAME= to take it back: self_registration, require_2fa and redirect_to_primary (true or false),\ncors_origins (by commas), reset_url, invite_url, locale; may be repeated")
	return c
}

// settingsOf reads NAME=VALUE as the API has the settings.
func settingsOf(given []string) (map[string]any, error) {
	settings := map[string]any{}
	for _, g := range given {
		name, value, said := strings.Cut(g, "=")
		switch name {
		case "self_registration", "require_2fa", "redirect_to_primary":
			yes, err := strconv.ParseBool(value)
			if err != nil {
				return nil, usageError{errors.New("--setting " + name + " is true or false")}
			}
			settings[name] = yes
		case "cors_origins":
			settings[name] = strings.FieldsFunc(value, func(r rune) bool { return r == ',' })
		case "reset_url", "invite_url", "locale":
			settings[name] = value
		default:
			said = false
		}
		if !said {
			return nil, usageError{errors.New("--setting is written NAME=VALUE; the names: ouvira tenant set --help")}
		}
	}
	return settings, nil
}
