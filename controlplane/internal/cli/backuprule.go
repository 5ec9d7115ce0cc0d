package cli

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/spf13/cobra"
)

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
