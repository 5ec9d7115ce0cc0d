package cli

import (
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"
)

// signup as the API shows it to operators.
type signup struct {
	ID          string    `json:"id"`
	CompanyName string    `json:"company_name"`
	Slug        string    `json:"slug"`
	FullName    string    `json:"full_name"`
	Email       string    `json:"email"`
	Status      string    `json:"status"`
	TenantID    *string   `json:"tenant_id"`
	ExpiresAt   time.Time `json:"expires_at"`
	CreatedAt   time.Time `json:"created_at"`
	UpdatedAt   time.Time `json:"updated_at"`
}

var signupColumns = []column[signup]{
	{"id", false, func(s signup) string { return s.ID }},
	{"slug", false, func(s signup) string { return s.Slug }},
	{"company", false, func(s signup) string { return s.CompanyName }},
	{"email", false, func(s signup) string { return s.Email }},
	{"status", false, func(s signup) string { return s.Status }},
	{"created", false, func(s signup) string { return moment(s.CreatedAt) }},
	{"name", true, func(s signup) string { return s.FullName }},
	{"expires", true, func(s signup) string { return moment(s.ExpiresAt) }},
	{"tenant", true, func(s signup) string { return deref(s.TenantID) }},
}

func (a *app) signup() *cobra.Command {
	group := &cobra.Command{Use: "signup", Short: "Customers who sign up by themselves"}
	group.AddCommand(a.signupList(), a.signupApprove(), a.signupReject())
	return group
}

func (a *app) signupList() *cobra.Command {
	var status string
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List sign-ups, the newest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			query := url.Values{}
			if status != "" {
				query.Set("status", status)
			}
			items, err := all[signup](cmd.Context(), client, "/v1/signups", query, limit)
			if err != nil {
				return err
			}
			return printList(a, items, signupColumns)
		},
	}
	c.Flags().StringVar(&status, "status", "", "pending_verification, pending_approval, provisioning, active, failed, expired or rejected")
	c.Flags().IntVar(&limit, "limit", 50, "at most so many (0: all)")
	return c
}

func signupPath(id string) string { return "/v1/signups/" + url.PathEscape(id) }

func (a *app) signupApprove() *cobra.Command {
	var reason string
	var wait bool
	c := &cobra.Command{
		Use: "approve ID", Short: "Approve a waiting sign-up; the tenant is made", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			b, err := a.begin(cmd.Context(), client, signupPath(args[0])+"/approve", map[string]string{"reason": reason}, wait)
			if err != nil {
				return err
			}
			return a.printBegun(cmd.Context(), client, b, wait)
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "said in the mail to who has signed up")
	c.Flags().BoolVar(&wait, "wait", false, "follow the operation to its end")
	return c
}

func (a *app) signupReject() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use: "reject ID", Short: "Reject a waiting sign-up", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			return client.call(cmd.Context(), http.MethodPost, signupPath(args[0])+"/reject", map[string]string{"reason": reason}, nil)
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why; it is mailed to who has signed up")
	_ = c.MarkFlagRequired("reason")
	return c
}
