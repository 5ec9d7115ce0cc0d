package cli

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ouvira/ouvira/shared/route"
)

// domain as the API shows it.
type domain struct {
	ID          string `json:"id"`
	TenantID    string `json:"tenant_id"`
	Hostname    string `json:"hostname"`
	DisplayName string `json:"display_name"`
	Status      string `json:"status"`
	IsPrimary   bool   `json:"is_primary"`
	DNS         struct {
		Name  string `json:"name"`
		Type  string `json:"type"`
		Value string `json:"value"`
	} `json:"dns"`
	VerifiedAt *time.Time `json:"verified_at"`
	CheckedAt  *time.Time `json:"checked_at"`
	ExpiresAt  *time.Time `json:"expires_at"`
	CreatedAt  time.Time  `json:"created_at"`
}

var domainColumns = []column[domain]{
	{"hostname", false, func(d domain) string { return d.DisplayName }},
	{"status", false, func(d domain) string { return d.Status }},
	{"primary", false, func(d domain) string { return mark(d.IsPrimary) }},
	{"record", false, func(d domain) string { return d.DNS.Name }},
	{"type", false, func(d domain) string { return d.DNS.Type }},
	{"value", false, func(d domain) string { return d.DNS.Value }},
	{"checked", true, func(d domain) string { return optionalMoment(d.CheckedAt) }},
	{"expires", true, func(d domain) string { return optionalMoment(d.ExpiresAt) }},
	{"id", true, func(d domain) string { return d.ID }},
}

func mark(yes bool) string {
	if yes {
		return "yes"
	}
	return ""
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
			if err := client.call(cmd.Context(), http.MethodPost, domainsOf(args[0]), map[string]string{"hostname": args[1]}, &added); err != nil {
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
			items, err := all[domain](cmd.Context(), client, domainsOf(args[0]), url.Values{}, 0)
			if err != nil {
				return err
			}
			return printList(a, items, domainColumns)
		},
	}
	group.AddCommand(
		add, list, a.domainPrimary(), a.domainCheck(),
		a.onDomain("verify", "Look for the DNS record and route the hostname", func(ctx context.Context, c *client, d domain) error {
			if err := c.call(ctx, http.MethodPost, domainPath(d)+"/verify", nil, &d); err != nil {
				return err
			}
			return printOne(a, d, domainColumns)
		}),
		a.onDomain("remove", "Release a hostname", func(ctx context.Context, c *client, d domain) error {
			return c.call(ctx, http.MethodDelete, domainPath(d), nil, nil)
		}),
	)
	return group
}

func domainsOf(tenant string) string { return "/v1/tenants/" + url.PathEscape(tenant) + "/domains" }
func domainPath(d domain) string     { return "/v1/domains/" + url.PathEscape(d.ID) }

// onDomain is a command that does something with one hostname of a tenant.
func (a *app) onDomain(name, short string, do func(context.Context, *client, domain) error) *cobra.Command {
	return &cobra.Command{
		Use: name + " TENANT HOSTNAME", Short: short, Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			d, err := findDomain(cmd.Context(), client, args[0], args[1])
			if err != nil {
				return err
			}
			return do(cmd.Context(), client, d)
		},
	}
}

// findDomain finds a hostname in either spelling.
func findDomain(ctx context.Context, c *client, tenant, hostname string) (domain, error) {
	items, err := all[domain](ctx, c, domainsOf(tenant), url.Values{}, 0)
	if err != nil {
		return domain{}, err
	}
	name, err := route.NormalizeHost(strings.TrimSpace(hostname))
	if err != nil {
		return domain{}, usageError{errors.New("this is not a host name; write it as in shop.example.com")}
	}
	for _, d := range items {
		if d.Hostname == name {
			return d, nil
		}
	}
	return domain{}, notFoundError{errors.New("the tenant has no such hostname; see: ouvira domain list " + tenant)}
}

func (a *app) domainCheck() *cobra.Command {
	return a.onDomain("check", "Ask the DNS now whether the record is there", func(ctx context.Context, c *client, d domain) error {
		var checked struct {
			Proof  string `json:"proof"`
			Domain domain `json:"domain"`
		}
		if err := c.call(ctx, http.MethodPost, domainPath(d)+"/check", nil, &checked); err != nil {
			return err
		}
		if a.format == "json" || a.format == "yaml" {
			return a.document(checked)
		}
		proof := column[domain]{"proof", false, func(domain) string { return checked.Proof }}
		return printOne(a, checked.Domain, append([]column[domain]{proof}, domainColumns...))
	})
}

func (a *app) domainPrimary() *cobra.Command {
	var platform bool
	c := a.onDomain("primary", "Write the tenant's links with this hostname", func(ctx context.Context, c *client, d domain) error {
		method := http.MethodPost
		if platform {
			method = http.MethodDelete
		}
		if err := c.call(ctx, method, domainPath(d)+"/primary", nil, &d); err != nil {
			return err
		}
		return printOne(a, d, domainColumns)
	})
	c.Flags().BoolVar(&platform, "unset", false, "write them with the tenant's name on the platform again")
	return c
}
