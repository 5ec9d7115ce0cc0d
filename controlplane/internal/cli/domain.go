package cli

import (
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"
)

// domain as the API shows it.
type domain struct {
	ID        string `json:"id"`
	TenantID  string `json:"tenant_id"`
	Hostname  string `json:"hostname"`
	Status    string `json:"status"`
	IsPrimary bool   `json:"is_primary"`
	DNS       struct {
		Name  string `json:"name"`
		Type  string `json:"type"`
		Value string `json:"value"`
	} `json:"dns"`
	VerifiedAt *time.Time `json:"verified_at"`
	CreatedAt  time.Time  `json:"created_at"`
}

var domainColumns = []column[domain]{
	{"hostname", false, func(d domain) string { return d.Hostname }},
	{"status", false, func(d domain) string { return d.Status }},
	{"record", false, func(d domain) string { return d.DNS.Name }},
	{"type", false, func(d domain) string { return d.DNS.Type }},
	{"value", false, func(d domain) string { return d.DNS.Value }},
	{"id", true, func(d domain) string { return d.ID }},
}

func (a *app) domain() *cobra.Command {
	group := &cobra.Command{Use: "domain", Short: "Hostnames of tenants"}
	add := &cobra.Command{
		Use: "add TENANT HOSTNAME", Short: "Claim a hostname; shows the DNS record that proves the claim", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			var added domain
			err = client.call(cmd.Context(), http.MethodPost, "/v1/tenants/"+url.PathEscape(args[0])+"/domains", map[string]string{"hostname": args[1]}, &added)
			if err != nil {
				return err
			}
			return printOne(a, added, domainColumns)
		},
	}
	list := &cobra.Command{
		Use: "list TENANT", Short: "List the hostnames of a tenant", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			items, err := all[domain](cmd.Context(), client, "/v1/tenants/"+url.PathEscape(args[0])+"/domains", url.Values{}, 0)
			if err != nil {
				return err
			}
			return printList(a, items, domainColumns)
		},
	}
	group.AddCommand(add, list)
	return group
}
