package cli

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// webhook as the API shows it. The secret is there when it was just made.
type webhook struct {
	ID             string     `json:"id"`
	URL            string     `json:"url"`
	Description    string     `json:"description"`
	Events         []string   `json:"events"`
	Status         string     `json:"status"`
	DisabledReason string     `json:"disabled_reason"`
	FailingSince   *time.Time `json:"failing_since"`
	CreatedAt      time.Time  `json:"created_at"`
	UpdatedAt      time.Time  `json:"updated_at"`
	Secret         string     `json:"secret,omitempty"`
}

var webhookColumns = []column[webhook]{
	{"id", false, func(w webhook) string { return w.ID }},
	{"url", false, func(w webhook) string { return w.URL }},
	{"status", false, func(w webhook) string { return w.Status }},
	{"failing since", false, func(w webhook) string { return optionalMoment(w.FailingSince) }},
	{"events", true, func(w webhook) string { return strings.Join(w.Events, " ") }},
	{"reason", true, func(w webhook) string { return w.DisabledReason }},
}

// delivery as the API shows it.
type delivery struct {
	ID            string     `json:"id"`
	WebhookID     string     `json:"webhook_id"`
	EventID       string     `json:"event_id"`
	Type          string     `json:"type"`
	Status        string     `json:"status"`
	Attempts      int        `json:"attempts"`
	NextAttemptAt *time.Time `json:"next_attempt_at"`
	LastStatus    *int       `json:"last_status"`
	LastError     string     `json:"last_error"`
	CreatedAt     time.Time  `json:"created_at"`
	FinishedAt    *time.Time `json:"finished_at"`
}

var deliveryColumns = []column[delivery]{
	{"id", false, func(d delivery) string { return d.ID }},
	{"event", false, func(d delivery) string { return d.Type }},
	{"status", false, func(d delivery) string { return d.Status }},
	{"attempts", false, func(d delivery) string { return strconv.Itoa(d.Attempts) }},
	{"error", false, func(d delivery) string { return d.LastError }},
	{"next", true, func(d delivery) string { return optionalMoment(d.NextAttemptAt) }},
	{"created", false, func(d delivery) string { return moment(d.CreatedAt) }},
	{"webhook-id", true, func(d delivery) string { return d.EventID }},
}

func (a *app) webhook() *cobra.Command {
	group := &cobra.Command{Use: "webhook", Short: "Tell other systems what happened"}
	group.AddCommand(a.webhookAdd(), a.webhookList(), a.webhookRemove(), a.webhookTest(), a.webhookDeliveries(), a.webhookRedeliver(),
		a.webhookActive("disable", "Send nothing for a while; what happens meanwhile is not sent later", false),
		a.webhookActive("activate", "Send to a webhook again that was disabled", true))
	return group
}

func (a *app) webhookAdd() *cobra.Command {
	var events []string
	var description string
	c := &cobra.Command{
		Use: "add URL", Short: "Have events sent to an address; shows the secret of the signatures once", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			var made webhook
			body := map[string]any{"url": args[0], "events": events, "description": description}
			if err := client.call(cmd.Context(), http.MethodPost, "/v1/webhooks", body, &made); err != nil {
				return err
			}
			fmt.Fprintln(a.Err, "Keep the secret now: it is not shown again.")
			shown := append([]column[webhook]{{"secret", false, func(w webhook) string { return w.Secret }}}, webhookColumns...)
			return printOne(a, made, shown)
		},
	}
	c.Flags().StringSliceVar(&events, "event", nil, "an event such as tenant.created; several by commas, or again")
	c.Flags().StringVar(&description, "description", "", "what it is for")
	_ = c.MarkFlagRequired("event")
	return c
}

func (a *app) webhookList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List webhooks", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			items, err := all[webhook](cmd.Context(), client, "/v1/webhooks", url.Values{}, 0)
			if err != nil {
				return err
			}
			return printList(a, items, webhookColumns)
		},
	}
}

func (a *app) webhookRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove ID", Short: "Send nothing more, and forget what waits", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			return client.call(cmd.Context(), http.MethodDelete, "/v1/webhooks/"+url.PathEscape(args[0]), nil, nil)
		},
	}
}

func (a *app) webhookTest() *cobra.Command {
	return a.startDelivery("test ID", "Have a test event sent to a webhook", "/v1/webhooks/%s/test")
}

func (a *app) webhookRedeliver() *cobra.Command {
	return a.startDelivery("redeliver DELIVERY", "Send an event once more, under the same webhook-id", "/v1/webhooks/deliveries/%s/redeliver")
}

func (a *app) startDelivery(use, short, path string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			var started delivery
			if err := client.call(cmd.Context(), http.MethodPost, fmt.Sprintf(path, url.PathEscape(args[0])), nil, &started); err != nil {
				return err
			}
			return printOne(a, started, deliveryColumns)
		},
	}
}

func (a *app) webhookDeliveries() *cobra.Command {
	var status string
	var limit int
	c := &cobra.Command{
		Use: "deliveries ID", Short: "List what was sent to a webhook, the newest first", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			query := url.Values{}
			if status != "" {
				query.Set("status", status)
			}
			items, err := all[delivery](cmd.Context(), client, "/v1/webhooks/"+url.PathEscape(args[0])+"/deliveries", query, limit)
			if err != nil {
				return err
			}
			return printList(a, items, deliveryColumns)
		},
	}
	c.Flags().StringVar(&status, "status", "", "pending, delivered or dead")
	c.Flags().IntVar(&limit, "limit", 50, "at most so many (0: all)")
	return c
}
