package cli

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// auditEntry as the API shows it.
type auditEntry struct {
	ID         int64           `json:"id"`
	ActorKind  string          `json:"actor_kind"`
	ActorID    string          `json:"actor_id"`
	ActorName  string          `json:"actor_name"`
	Action     string          `json:"action"`
	EntityType string          `json:"entity_type"`
	EntityID   string          `json:"entity_id"`
	TenantID   *string         `json:"tenant_id"`
	Detail     json.RawMessage `json:"detail"`
	IPAddress  *string         `json:"ip_address"`
	RequestID  string          `json:"request_id"`
	CreatedAt  time.Time       `json:"created_at"`
}

var auditColumns = []column[auditEntry]{
	{"at", false, func(e auditEntry) string { return moment(e.CreatedAt) }},
	{"who", false, func(e auditEntry) string {
		if e.ActorName != "" {
			return e.ActorName
		}
		return e.ActorKind + ":" + e.ActorID
	}},
	{"action", false, func(e auditEntry) string { return e.Action }},
	{"what", false, func(e auditEntry) string { return e.EntityType + " " + e.EntityID }},
	{"detail", false, func(e auditEntry) string { return string(e.Detail) }},
	{"from", true, func(e auditEntry) string { return deref(e.IPAddress) }},
	{"request", true, func(e auditEntry) string { return e.RequestID }},
	{"id", true, func(e auditEntry) string { return strconv.FormatInt(e.ID, 10) }},
}

func (a *app) audit() *cobra.Command {
	group := &cobra.Command{Use: "audit", Short: "Who did what"}
	var tenant, action string
	var limit int
	list := &cobra.Command{
		Use: "list", Short: "List what operators and the system did, the newest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			path, query := "/v1/audit", url.Values{}
			if tenant != "" {
				path = tenantPath(tenant, "audit")
			}
			if action != "" {
				query.Set("action", action)
			}
			items, err := all[auditEntry](cmd.Context(), client, path, query, limit)
			if err != nil {
				return err
			}
			return printList(a, items, auditColumns)
		},
	}
	list.Flags().StringVar(&tenant, "tenant", "", "slug or id: what was done to this tenant")
	list.Flags().StringVar(&action, "action", "", "such as tenant.suspend; not with --tenant")
	list.Flags().IntVar(&limit, "limit", 50, "at most so many (0: all)")
	list.MarkFlagsMutuallyExclusive("tenant", "action")
	group.AddCommand(list)
	return group
}

// webhookActive is a command that lets a webhook rest, or sends to it again.
func (a *app) webhookActive(use, short string, active bool) *cobra.Command {
	return &cobra.Command{
		Use: use + " ID", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			var changed webhook
			if err := client.call(cmd.Context(), http.MethodPatch, "/v1/webhooks/"+url.PathEscape(args[0]), map[string]bool{"active": active}, &changed); err != nil {
				return err
			}
			return printOne(a, changed, webhookColumns)
		},
	}
}

func (a *app) operatorResetFactor() *cobra.Command {
	return &cobra.Command{
		Use: "reset-2fa EMAIL", Short: "Take away the second factor of an operator who has lost it", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.onPerson(cmd.Context(), args[0], func(client *client, o person) error {
				return client.call(cmd.Context(), http.MethodPost, "/v1/operators/"+url.PathEscape(o.ID)+"/reset-2fa", nil, nil)
			})
		},
	}
}

func (a *app) operatorUninvite() *cobra.Command {
	return &cobra.Command{
		Use: "uninvite EMAIL", Short: "Take an invitation back that was not accepted yet", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			waiting, err := all[invitation](cmd.Context(), client, "/v1/operators/invitations", url.Values{}, 0)
			if err != nil {
				return err
			}
			for _, i := range waiting {
				if strings.EqualFold(i.Email, args[0]) || i.ID == args[0] {
					return client.call(cmd.Context(), http.MethodDelete, "/v1/operators/invitations/"+url.PathEscape(i.ID), nil, nil)
				}
			}
			return notFoundError{errNoInvitation}
		},
	}
}

// onPerson finds an operator by address, or by id, and does something with them.
func (a *app) onPerson(ctx context.Context, name string, do func(client *client, o person) error) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	list, err := all[person](ctx, client, "/v1/operators", url.Values{}, 0)
	if err != nil {
		return err
	}
	for _, o := range list {
		if strings.EqualFold(o.Email, name) || o.ID == name {
			return do(client, o)
		}
	}
	return notFoundError{errNoOperator}
}
