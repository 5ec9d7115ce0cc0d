package cli

import (
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"
)

// payment as the API shows it.
type payment struct {
	ID         string    `json:"id"`
	Amount     string    `json:"amount"`
	Currency   string    `json:"currency"`
	PeriodEnd  string    `json:"period_end"`
	Reference  string    `json:"reference"`
	RecordedBy string    `json:"recorded_by"`
	CreatedAt  time.Time `json:"created_at"`
}

var paymentColumns = []column[payment]{
	{"recorded", false, func(p payment) string { return moment(p.CreatedAt) }},
	{"amount", false, func(p payment) string { return p.Amount }},
	{"currency", false, func(p payment) string { return p.Currency }},
	{"paid until", false, func(p payment) string { return p.PeriodEnd }},
	{"reference", false, func(p payment) string { return p.Reference }},
	{"by", true, func(p payment) string { return p.RecordedBy }},
	{"id", true, func(p payment) string { return p.ID }},
}

func paymentsOf(tenant string) string { return "/v1/tenants/" + url.PathEscape(tenant) + "/payments" }

func (a *app) tenantPayments() *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use: "payments SLUG|ID", Short: "List what a tenant has paid, the newest first", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			items, err := all[payment](cmd.Context(), client, paymentsOf(args[0]), url.Values{}, limit)
			if err != nil {
				return err
			}
			return printList(a, items, paymentColumns)
		},
	}
	c.Flags().IntVar(&limit, "limit", 0, "at most so many (0: all)")
	return c
}

func (a *app) tenantPay() *cobra.Command {
	var amount, currency, end, reference string
	c := &cobra.Command{
		Use: "pay SLUG|ID", Short: "Record a payment; with the same reference it counts once", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			var recorded payment
			body := map[string]string{"amount": amount, "currency": currency, "period_end": end, "reference": reference}
			if err := client.call(cmd.Context(), http.MethodPost, paymentsOf(args[0]), body, &recorded); err != nil {
				return err
			}
			return printOne(a, recorded, paymentColumns)
		},
	}
	c.Flags().StringVar(&amount, "amount", "", "as in 120.00")
	c.Flags().StringVar(&currency, "currency", "", "as in EUR")
	c.Flags().StringVar(&end, "period-end", "", "the last day that is paid, as in 2027-01-31")
	c.Flags().StringVar(&reference, "reference", "", "name of the payment elsewhere, of an invoice say")
	for _, required := range []string{"amount", "currency", "period-end", "reference"} {
		_ = c.MarkFlagRequired(required)
	}
	return c
}
