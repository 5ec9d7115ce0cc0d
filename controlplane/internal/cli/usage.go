package cli

import (
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

// usage as the API shows it.
type usage struct {
	From          time.Time `json:"from"`
	DatabaseBytes int64     `json:"database_bytes"`
	Connections   int       `json:"connections"`
	Requests      int64     `json:"requests"`
	Errors        int64     `json:"errors"`
	Logins        int64     `json:"logins"`
}

var usageColumns = []column[usage]{
	{"from", false, func(u usage) string { return u.From.Format("2006-01-02 15:04") }},
	{"database", false, func(u usage) string { return bytesText(u.DatabaseBytes) }},
	{"connections", false, func(u usage) string { return strconv.Itoa(u.Connections) }},
	{"requests", false, func(u usage) string { return strconv.FormatInt(u.Requests, 10) }},
	{"errors", false, func(u usage) string { return strconv.FormatInt(u.Errors, 10) }},
	{"logins", false, func(u usage) string { return strconv.FormatInt(u.Logins, 10) }},
}

func (a *app) tenantUsage() *cobra.Command {
	query := map[string]*string{"from": new(string), "to": new(string), "by": new(string)}
	c := &cobra.Command{
		Use: "usage SLUG|ID", Short: "Show what a tenant uses, by the day or the hour (UTC)", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			asked := url.Values{}
			for name, value := range query {
				if *value != "" {
					asked.Set(name, *value)
				}
			}
			items, err := all[usage](cmd.Context(), client, "/v1/tenants/"+url.PathEscape(args[0])+"/usage", asked, 0)
			if err != nil {
				return err
			}
			return printList(a, items, usageColumns)
		},
	}
	c.Flags().StringVar(query["from"], "from", "", "a day, as in 2027-01-31 (default: 30 days ago)")
	c.Flags().StringVar(query["to"], "to", "", "a day that is not included any more (default: tomorrow)")
	c.Flags().StringVar(query["by"], "by", "", "day or hour")
	return c
}
