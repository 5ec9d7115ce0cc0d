package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
)

// finding of the control plane's look at the servers.
type finding struct {
	Code     string  `json:"code"`
	Severity string  `json:"severity"`
	Server   string  `json:"server"`
	TenantID *string `json:"tenant_id"`
	Object   string  `json:"object"`
	Message  string  `json:"message"`
	Action   string  `json:"action"`
}

var findingColumns = []column[finding]{
	{"severity", false, func(f finding) string { return f.Severity }},
	{"server", false, func(f finding) string { return f.Server }},
	{"object", false, func(f finding) string { return f.Object }},
	{"what", false, func(f finding) string { return f.Message }},
	{"what to do", false, func(f finding) string { return f.Action }},
	{"code", true, func(f finding) string { return f.Code }},
}

// look at one server, or at several.
type look struct {
	Findings []finding `json:"findings"`
	Servers  int       `json:"servers"`
	Tenants  int       `json:"tenants"`
}

// eachServer does something for one server after the other, of those that are not
// offline: a look visits every database, and one at all of them would take longer than a
// proxy waits for an answer.
func (a *app) eachServer(servers []server, do func(query string) error) error {
	for i, s := range servers {
		if s.Status == "offline" {
			continue
		}
		if a.Terminal {
			fmt.Fprintf(a.Err, "\r\x1b[K  looking at %s (%d of %d)", clean(s.Name), i+1, len(servers))
		}
		err := do("?server=" + url.QueryEscape(s.ID))
		if a.Terminal {
			fmt.Fprint(a.Err, "\r\x1b[K")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// errFindings ends the command with a failure after the table was shown.
var errFindings = errors.New("the doctor found something that affects tenants")

func (a *app) doctor() *cobra.Command {
	var fix bool
	c := &cobra.Command{
		Use: "doctor", Short: "Compare what the control plane believes with what the servers hold", Args: cobra.NoArgs,
		Long: "Looks at the servers, at operations that failed and were not made good since, and at whether\n" +
			"what the control database says is what the Postgres servers hold. Exit code 1 when tenants are affected.\n\n" +
			"With --fix it mends what is provably ours and follows from what the control database says (rights,\n" +
			"limits, fences left behind, signing keys that are gone, versions, what purged tenants have left), and looks again.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			servers, err := all[server](cmd.Context(), client, "/v1/servers", url.Values{}, 0)
			if err != nil {
				return err
			}
			if fix {
				if err := a.fix(cmd.Context(), client, servers); err != nil {
					return err
				}
			}
			report := look{}
			if report.Findings, err = a.examine(cmd.Context(), client, servers); err != nil {
				return err
			}
			err = a.eachServer(servers, func(path string) error {
				var part look
				if err := client.patient().call(cmd.Context(), http.MethodGet, "/v1/reconcile"+path, nil, &part); err != nil {
					return err
				}
				report.Findings = append(report.Findings, part.Findings...)
				report.Servers, report.Tenants = report.Servers+part.Servers, report.Tenants+part.Tenants
				return nil
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(a.Err, "%s, %s, %s\n", count(report.Servers, "server"), count(report.Tenants, "tenant"), count(len(report.Findings), "finding"))
			if len(report.Findings) > 0 || a.format == "json" || a.format == "yaml" {
				if err := printList(a, report.Findings, findingColumns); err != nil {
					return err
				}
			}
			for _, f := range report.Findings {
				if f.Severity == "error" {
					return errFindings
				}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&fix, "fix", false, "mend what can be mended, then look")
	return c
}

// fix has everything mended that can be, and waits for it. What fails is told by
// the look that follows.
func (a *app) fix(ctx context.Context, c *client, servers []server) error {
	var begun []operation
	err := a.eachServer(servers, func(query string) error {
		var part struct {
			Operations []operation `json:"operations"`
		}
		err := c.patient().call(ctx, http.MethodPost, "/v1/reconcile/repair"+query, nil, &part)
		begun = append(begun, part.Operations...)
		return err
	})
	if err != nil {
		return err
	}
	failed := 0
	for _, o := range begun {
		if err := a.follow(ctx, c, o.ID); err != nil {
			fmt.Fprintln(a.Err, "ouvira:", err)
			failed++
		}
	}
	fmt.Fprintf(a.Err, "%s mended\n", count(len(begun)-failed, "tenant"))
	return nil
}

// examine looks at what needs no look at the servers themselves.
func (a *app) examine(ctx context.Context, c *client, servers []server) ([]finding, error) {
	var findings []finding
	free := 0
	for _, s := range servers {
		if s.Status == "active" {
			free += s.Free
		}
		if s.Version < 160000 {
			findings = append(findings, finding{
				Code: "postgres_15", Severity: "warning", Server: s.Name, Object: "ouvira_provisioner",
				Message: "Postgres 15 cannot contain CREATEROLE: the provisioner could grant itself more than it has.",
				Action:  "Upgrade the server to Postgres 16 or later.",
			})
		}
	}
	if free == 0 {
		findings = append(findings, finding{
			Code: "no_capacity", Severity: "warning", Object: "capacity",
			Message: "No active server has room for another tenant: sign-ups wait.",
			Action:  "Add a server (ouvira server add).",
		})
	}
	failed, err := all[operation](ctx, c, "/v1/operations", url.Values{"unresolved": {"true"}}, 20)
	if err != nil {
		return nil, err
	}
	for _, o := range failed {
		findings = append(findings, finding{
			Code: "operation_failed", Severity: "warning", TenantID: o.TenantID, Object: strings.TrimSpace(deref(o.Tenant) + " " + o.Kind + " " + o.ID),
			Message: "The operation has failed.", Action: o.why(),
		})
	}
	var keys struct {
		Items []key `json:"items"`
	}
	if err := c.call(ctx, http.MethodGet, "/v1/keys", nil, &keys); err != nil {
		return nil, err
	}
	return append(findings, missingKeys(keys.Items)...), nil
}
