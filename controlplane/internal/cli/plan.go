package cli

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// plan as the API shows it.
type plan struct {
	ID                 string         `json:"id"`
	Code               string         `json:"code"`
	Name               string         `json:"name"`
	MaxConnections     int            `json:"max_connections"`
	StatementTimeoutMS int            `json:"statement_timeout_ms"`
	TrialDays          int            `json:"trial_days"`
	Limits             map[string]int `json:"limits"`
	MaxStorageMB       int            `json:"max_storage_mb"`
	MaxUsers           int            `json:"max_users"`
	OverQuota          string         `json:"over_quota"`
	GraceDays          int            `json:"grace_days"`
	LapseAction        string         `json:"lapse_action"`
	RetentionDays      int            `json:"retention_days"`
	CreatedAt          time.Time      `json:"created_at"`
	UpdatedAt          time.Time      `json:"updated_at"`
}

var planColumns = []column[plan]{
	{"code", false, func(p plan) string { return p.Code }},
	{"name", false, func(p plan) string { return p.Name }},
	{"connections", false, func(p plan) string { return strconv.Itoa(p.MaxConnections) }},
	{"timeout", false, func(p plan) string { return (time.Duration(p.StatementTimeoutMS) * time.Millisecond).String() }},
	{"storage", false, func(p plan) string { return quota(p.MaxStorageMB, " MB") }},
	{"users", false, func(p plan) string { return quota(p.MaxUsers, "") }},
	{"trial", false, func(p plan) string { return strconv.Itoa(p.TrialDays) + " d" }},
	{"lapse", false, func(p plan) string { return p.LapseAction + " after " + strconv.Itoa(p.GraceDays) + " d" }},
	{"over quota", true, func(p plan) string { return p.OverQuota }},
	{"retention", true, func(p plan) string { return strconv.Itoa(p.RetentionDays) + " d" }},
	{"id", true, func(p plan) string { return p.ID }},
}

func quota(n int, unit string) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n) + unit
}

func (a *app) plan() *cobra.Command {
	group := &cobra.Command{Use: "plan", Short: "What tenants may use"}
	list := &cobra.Command{
		Use: "list", Short: "List the plans", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			items, err := all[plan](cmd.Context(), client, "/v1/plans", url.Values{}, 0)
			if err != nil {
				return err
			}
			return printList(a, items, planColumns)
		},
	}
	remove := &cobra.Command{
		Use: "delete CODE", Short: "Remove a plan that no tenant has", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			return client.call(cmd.Context(), http.MethodDelete, planPath(args[0]), nil, nil)
		},
	}
	group.AddCommand(
		list, remove,
		a.onePlan("show", "Show a plan", http.MethodGet, false),
		a.onePlan("create", "Make a plan", http.MethodPost, true),
		a.onePlan("update", "Change a plan, for all its tenants", http.MethodPatch, true),
	)
	return group
}

func planPath(code string) string { return "/v1/plans/" + url.PathEscape(code) }

// onePlan is a command that shows one plan, perhaps after it was made or changed.
func (a *app) onePlan(name, short, method string, writes bool) *cobra.Command {
	var values planFlags
	c := &cobra.Command{
		Use: name + " CODE", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			path := planPath(args[0])
			var body any
			if writes {
				said, err := values.body(cmd)
				if err != nil {
					return err
				}
				if method == http.MethodPost {
					path, said["code"] = "/v1/plans", args[0]
				}
				body = said
			}
			var p plan
			if err := client.call(cmd.Context(), method, path, body, &p); err != nil {
				return err
			}
			return printOne(a, p, planColumns)
		},
	}
	if writes {
		values.declare(c)
	}
	return c
}

// planFlags are the values of a plan on a command line; those that are not given
// are not sent.
type planFlags struct{ limits []string }

// The flags and how the API calls them.
var (
	planNumbers = [][3]string{
		{"connections", "max_connections", "connections that one tenant may hold"},
		{"statement-timeout", "statement_timeout_ms", "milliseconds after which a query is ended"},
		{"trial-days", "trial_days", "days before something is due (0: nothing before a first payment)"},
		{"storage-mb", "max_storage_mb", "quota of the database (0: none)"},
		{"users", "max_users", "quota of users (0: none)"},
		{"retention-days", "retention_days", "days for which a deleted tenant can be undeleted"},
		{"grace-days", "grace_days", "days between the end of what is paid and the lapse"},
	}
	planTexts = [][3]string{
		{"name", "name", "what people call it"},
		{"over-quota", "over_quota", "notify, or refuse (no more users; nothing new in a database that is too large)"},
		{"lapse", "lapse_action", "notify or suspend"},
	}
)

func (f *planFlags) declare(c *cobra.Command) {
	for _, n := range planNumbers {
		c.Flags().Int(n[0], 0, n[2])
	}
	for _, s := range planTexts {
		c.Flags().String(s[0], "", s[2])
	}
	c.Flags().StringArrayVar(&f.limits, "limit", nil, "NAME=COUNT, or NAME= for the default; may be repeated")
}

func (f *planFlags) body(c *cobra.Command) (map[string]any, error) {
	body := map[string]any{}
	for _, n := range planNumbers {
		if value, err := c.Flags().GetInt(n[0]); err == nil && c.Flags().Changed(n[0]) {
			body[n[1]] = value
		}
	}
	for _, s := range planTexts {
		if value, err := c.Flags().GetString(s[0]); err == nil && c.Flags().Changed(s[0]) {
			body[s[1]] = value
		}
	}
	if len(f.limits) == 0 {
		return body, nil
	}
	limits := map[string]*int{}
	for _, l := range f.limits {
		name, text, said := strings.Cut(l, "=")
		count, err := strconv.Atoi(text)
		switch {
		case !said || text != "" && err != nil:
			return nil, usageError{errors.New("--limit is written NAME=COUNT, or NAME= for the default")}
		case text == "":
			limits[name] = nil
		default:
			limits[name] = &count
		}
	}
	body["limits"] = limits
	return body, nil
}
