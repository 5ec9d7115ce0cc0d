package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// person is an operator as the API shows it.
type person struct {
	ID          string     `json:"id"`
	Email       string     `json:"email"`
	FullName    string     `json:"full_name"`
	Role        string     `json:"role"`
	IsActive    bool       `json:"is_active"`
	LastLoginAt *time.Time `json:"last_login_at"`
	CreatedAt   time.Time  `json:"created_at"`
}

var personColumns = []column[person]{
	{"email", false, func(o person) string { return o.Email }},
	{"name", false, func(o person) string { return o.FullName }},
	{"role", false, func(o person) string { return o.Role }},
	{"active", false, func(o person) string { return yes(o.IsActive) }},
	{"last login", false, func(o person) string { return optionalMoment(o.LastLoginAt) }},
	{"created", true, func(o person) string { return moment(o.CreatedAt) }},
	{"id", true, func(o person) string { return o.ID }},
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// invitation as the API shows it.
type invitation struct {
	ID        string    `json:"id"`
	Email     string    `json:"email"`
	FullName  string    `json:"full_name"`
	Role      string    `json:"role"`
	InvitedBy string    `json:"invited_by"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at"`
}

var invitationColumns = []column[invitation]{
	{"email", false, func(i invitation) string { return i.Email }},
	{"role", false, func(i invitation) string { return i.Role }},
	{"invited by", false, func(i invitation) string { return i.InvitedBy }},
	{"expires", false, func(i invitation) string { return moment(i.ExpiresAt) }},
	{"id", true, func(i invitation) string { return i.ID }},
}

func (a *app) operatorInvite() *cobra.Command {
	var name, role string
	c := &cobra.Command{
		Use: "invite EMAIL", Short: "Invite an operator by mail; the link is good for 7 days", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			var made invitation
			body := map[string]string{"email": args[0], "full_name": name, "role": role}
			if err := client.call(cmd.Context(), http.MethodPost, "/v1/operators/invitations", body, &made); err != nil {
				return err
			}
			return printOne(a, made, invitationColumns)
		},
	}
	c.Flags().StringVar(&name, "name", "", "full name")
	c.Flags().StringVar(&role, "role", "", "owner, operator, support or auditor")
	_ = c.MarkFlagRequired("role")
	return c
}

func (a *app) operatorList() *cobra.Command {
	var invited bool
	c := &cobra.Command{
		Use: "list", Short: "List operators, or invitations that wait", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			if invited {
				items, err := all[invitation](cmd.Context(), client, "/v1/operators/invitations", url.Values{}, 0)
				if err != nil {
					return err
				}
				return printList(a, items, invitationColumns)
			}
			items, err := all[person](cmd.Context(), client, "/v1/operators", url.Values{}, 0)
			if err != nil {
				return err
			}
			return printList(a, items, personColumns)
		},
	}
	c.Flags().BoolVar(&invited, "invited", false, "those who were invited and have no account yet")
	return c
}

func (a *app) operatorRole() *cobra.Command {
	return &cobra.Command{
		Use: "role EMAIL ROLE", Short: "Give an operator another role; ends their sessions", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changePerson(cmd.Context(), args[0], map[string]any{"role": args[1]})
		},
	}
}

func (a *app) operatorActive(use, short string, active bool) *cobra.Command {
	return &cobra.Command{
		Use: use + " EMAIL", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changePerson(cmd.Context(), args[0], map[string]any{"is_active": active})
		},
	}
}

var (
	errNoOperator   = errors.New("there is no operator with this address")
	errNoInvitation = errors.New("nobody with this address is invited; see: ouvira operator list --invited")
)

// changePerson finds an operator by address, or by id, and changes them.
func (a *app) changePerson(ctx context.Context, name string, change map[string]any) error {
	return a.onPerson(ctx, name, func(client *client, o person) error {
		var changed person
		if err := client.call(ctx, http.MethodPatch, "/v1/operators/"+url.PathEscape(o.ID), change, &changed); err != nil {
			return err
		}
		return printOne(a, changed, personColumns)
	})
}

// apiKey as the API shows it. The key itself is there when it was just made.
type apiKey struct {
	ID         string     `json:"id"`
	Name       string     `json:"name"`
	Prefix     string     `json:"prefix"`
	Scopes     []string   `json:"scopes"`
	Operator   string     `json:"operator"`
	CreatedAt  time.Time  `json:"created_at"`
	ExpiresAt  time.Time  `json:"expires_at"`
	LastUsedAt *time.Time `json:"last_used_at"`
	Key        string     `json:"key,omitempty"`
}

var apiKeyColumns = []column[apiKey]{
	{"id", false, func(k apiKey) string { return k.ID }},
	{"name", false, func(k apiKey) string { return k.Name }},
	{"prefix", false, func(k apiKey) string { return k.Prefix }},
	{"operator", false, func(k apiKey) string { return k.Operator }},
	{"expires", false, func(k apiKey) string { return moment(k.ExpiresAt) }},
	{"last used", false, func(k apiKey) string { return optionalMoment(k.LastUsedAt) }},
	{"scopes", true, func(k apiKey) string { return strings.Join(k.Scopes, " ") }},
}

func (a *app) apikey() *cobra.Command {
	group := &cobra.Command{Use: "apikey", Short: "Keys for scripts, which act for who made them"}
	var scopes []string
	var days int
	create := &cobra.Command{
		Use: "create NAME", Short: "Make a key; it is shown once", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			body := map[string]any{"name": args[0], "scopes": scopes}
			if cmd.Flags().Changed("days") {
				if days < 1 {
					return usageError{errors.New("--days is a number of 1 to 365")}
				}
				body["expires_at"] = time.Now().Add(time.Duration(days) * 24 * time.Hour).UTC().Format(time.RFC3339)
			}
			var made apiKey
			if err := client.call(cmd.Context(), http.MethodPost, "/v1/api-keys", body, &made); err != nil {
				return err
			}
			fmt.Fprintln(a.Err, "Keep the key now: it is not shown again. Scripts send it as OUVIRA_TOKEN.")
			shown := append([]column[apiKey]{{"key", false, func(k apiKey) string { return k.Key }}}, apiKeyColumns...)
			return printOne(a, made, shown)
		},
	}
	create.Flags().StringSliceVar(&scopes, "scope", nil, "a permission that the key has, such as tenant.read; several by commas, or again")
	create.Flags().IntVar(&days, "days", 0, "how long it works (default: a year)")
	_ = create.MarkFlagRequired("scope")
	list := &cobra.Command{
		Use: "list", Short: "List your keys; everybody's for owners", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			items, err := all[apiKey](cmd.Context(), client, "/v1/api-keys", url.Values{}, 0)
			if err != nil {
				return err
			}
			return printList(a, items, apiKeyColumns)
		},
	}
	revoke := &cobra.Command{
		Use: "revoke ID", Short: "Revoke a key, from the next request on", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			return client.call(cmd.Context(), http.MethodDelete, "/v1/api-keys/"+url.PathEscape(args[0]), nil, nil)
		},
	}
	group.AddCommand(create, list, revoke)
	return group
}
